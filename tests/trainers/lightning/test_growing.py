"""A graph in the real Trainer: when it acts, what it tells, how its model is kept."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger

import stagegraph as sg
from stagegraph.actions import growing
from stagegraph.errors import ActionError, MetricError, MissingFact
from stagegraph.runs.journal import read_journal
from stagegraph.trainers.lightning import engine_of
from tests.trainers.lightning import small
from tests.trainers.lightning.test_resuming import EVERYTHING, LOSS

SLOW = pytest.mark.slow

PLATEAU = """
{stagegraph: 1, name: plateau, initial: small,
 metrics: {val: {goal: minimize, source: [val_loss], every: 2 steps}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "plateau(val, patience=4 steps)"}],
           duration: 20 steps, next: done},
   grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: settle},
   settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: large},
   large: {kind: train, duration: 4 steps, next: done},
   done: {kind: final}}}
"""
CURVE = {0: 5.0, 2: 4.0, 4: 3.0, 6: 3.1, 8: 3.2, 10: 3.3, 12: 2.0, 14: 1.9, 16: 1.8}
"""Best at 4; four steps without a better one are over at 8."""


class Curved(small.Module):
    """Validates to a number that hangs on the update alone."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(CURVE.get(self.trainer.global_step, 1.7)))


class ManualCurved(small.Manual):
    """The same with two optimizers, of which Lightning counts each."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(CURVE.get(self.trainer.global_step // 2, 1.7)))


class Watch(Callback):
    """Blocks, ungraded parameters and rates of each update; the validations."""

    def __init__(self):
        self.blocks, self.ungraded, self.rates, self.validated, self.ended = {}, [], {}, [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.blocks[trainer.global_step] = len(pl_module.blocks)
        self.ungraded += [n for n, p in pl_module.named_parameters() if p.grad is None]
        self.rates[trainer.global_step] = optimizer.param_groups[0]["lr"]

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(trainer.global_step)

    def on_train_epoch_end(self, trainer, pl_module):
        self.ended.append(trainer.global_step)


def moves_of(folder):
    records = read_journal(folder / "journal.jsonl")
    return [(r["step"], r["target"]) for r in records if r["type"] == "move"]


AT_8 = [(0, "main:small"), (8, "main:settle"), (11, "main:large"), (15, "main:done")]


@pytest.mark.parametrize(
    "given", [{}, pytest.param({"max_epochs": 9}, marks=SLOW)], ids=["steps", "passes"]
)
def test_grows_on_a_plateau_of_a_validation_that_the_graph_asks_for(tmp_path, given):
    watch, ours = Watch(), small.stages(PLATEAU, run=tmp_path / "run")
    trainer = small.fit(Curved(), ours, [watch], **given)
    ours.engine.close()
    assert moves_of(tmp_path / "run") == AT_8
    assert watch.blocks == {step: 2 if step < 8 else 3 for step in range(15)}
    assert ours.engine.done and trainer.global_step == 15  # and no update more
    assert watch.ungraded == []
    # Each second update, and once more where a pass ended at the same place: not twice.
    assert watch.validated == [2, 4, 6, 8, 10, 12, 14]
    assert watch.ended == [6, 12, 15]  # no pass without a batch is ended


def test_manual_optimization_takes_the_same_stages_at_the_same_updates(tmp_path):
    ours = small.stages(PLATEAU, run=tmp_path / "run")
    trainer = small.fit(ManualCurved(), ours, max_steps=60)
    ours.engine.close()
    assert moves_of(tmp_path / "run") == AT_8
    assert trainer.global_step == 30 and ours.engine.progress.step == 15


def test_the_plain_loop_takes_the_same_stages_at_the_same_steps(tmp_path):
    module = small.Module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    with sg.Engine(
        sg.load(PLATEAU), model=module, optimizer=optimizer, probe=small.probe()
    ) as engine:
        plain, step = small.Moves(engine), 0
        for epoch in engine.epochs(small.loader()):
            for batch in epoch:
                module.loss(batch).backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                engine.step(samples=4)
                if engine.wants_evaluation:
                    engine.observe(val_loss=CURVE[step])
        assert plain.seen == AT_8


@pytest.mark.slow
def test_a_validation_of_the_hosts_own_is_seen_at_its_boundary(tmp_path):
    text = PLATEAU.replace(", every: 2 steps", "").replace("plateau(val, patience=4 steps)",
                                                           "val < 3.05")  # fmt: skip
    ours = small.stages(text, run=tmp_path / "run")
    small.fit(Curved(), ours, val_check_interval=2)
    ours.engine.close()
    assert (4, "main:settle") in moves_of(tmp_path / "run")


class Passes(small.Module):
    """Logs a mean over a pass, in two ways."""

    def on_train_epoch_end(self):
        self.log("told", torch.tensor(float(self.trainer.current_epoch)))


@pytest.mark.parametrize(
    ("metric", "guard", "at"),
    [("told", "told > 0", 12),
     pytest.param("train_loss_epoch", "train_loss_epoch < 100", 6, marks=SLOW),
     pytest.param("train_loss_step", "train_loss_step < 100", 1, marks=SLOW)],
)  # fmt: skip
def test_what_is_logged_over_a_pass_is_seen_at_its_end_and_once(tmp_path, metric, guard, at):
    text = LOSS.replace("{loss: {", f"{{{metric}: {{").replace("elapsed(4 steps)", guard)
    if metric.endswith("_step"):  # callback_metrics call it by its own name alone
        text = (
            text.replace("train_loss_step:", "step_loss:")
            .replace("{step_loss: {", "{step_loss: {source: [train_loss], ")
            .replace("train_loss_step < ", "step_loss < ")
        )
    ours = small.stages(text, run=tmp_path / "run")
    seen = []
    trainer = small.fit(Passes(), ours, [Observed(seen)], val=False)
    ours.engine.close()
    assert moves_of(tmp_path / "run")[1][0] == at
    assert trainer.global_step == at + 10
    if metric == "told":  # the value of a pass is told once, not with every update after it
        assert seen == [{6: 0.0, 12: 1.0, 18: 2.0}]


class Observed(Callback):
    """What the engine was told of as a metric."""

    def __init__(self, seen):
        self.seen, self.told = seen, {}

    def on_train_start(self, trainer, pl_module):
        core = engine_of(trainer)._core
        step, told = core.step, self.told
        self.seen.append(told)

        def listening(**given):
            if "told" in given:
                told[trainer.global_step] = given["told"]
            return step(**given)

        engine_of(trainer).step = listening


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_updates_count_and_not_batches(accumulate):
    ours, prints = small.stages(PLATEAU), small.Prints()
    trainer = small.fit(Curved(), ours, [prints], accumulate_grad_batches=accumulate)
    batches = len(prints.seen)
    assert ours.engine.progress.step == trainer.global_step == 15
    assert ours.engine.progress.samples == batches * small.BATCH
    assert ours.engine.progress.epoch * 6 == batches
    ours.engine.close()


@pytest.mark.slow
def test_the_loss_of_an_update_is_the_mean_over_its_batches():
    told, updates = [], []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            told.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
            if ours.tally.owes:
                assert float(ours.tally.loss) == pytest.approx(sum(told) / len(told))
                updates.append(len(told))
                told.clear()

    ours = small.stages(LOSS)
    small.fit(small.Module(), ours, [Losses()], val=False, accumulate_grad_batches=4)
    assert set(updates) == {4, 2}  # a pass has 6
    ours.engine.close()


def test_a_schedule_goes_on_over_a_growth():
    def linear(optimizer):
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 30)
        return {"scheduler": schedule, "interval": "step"}

    watch, ours = Watch(), small.stages(PLATEAU)
    trainer = small.fit(Curved(schedule=linear), ours, [watch], gradient_clip_val=0.5)
    # In the settling the engine halves what the optimizer takes; the host's own rate goes on.
    assert watch.rates == {step: pytest.approx(1e-2 * (1 - step / 30)) for step in range(15)}
    (group,) = trainer.optimizers[0].param_groups
    assert [id(p) for p in group["params"]] == [
        id(p) for p in trainer.lightning_module.parameters()
    ]
    ours.engine.close()


def test_loggers_are_told_stage_alpha_and_factors(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    ours = small.stages(PLATEAU)
    small.fit(Curved(), ours, [LearningRateMonitor("step")], logger=logger, log_every_n_steps=1)
    ours.engine.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    told = {int(r["step"]): r for r in rows if r.get("stagegraph/stage/main")}
    # What is logged with an update tells of it: the boundary after it is decided later.
    steps = (0, 7, 8, 10, 11)
    assert [float(told[step]["stagegraph/stage/main"]) for step in steps] == [0, 0, 2, 2, 3]
    assert float(told[7]["stagegraph/params"]) < float(told[8]["stagegraph/params"])
    assert float(told[8]["stagegraph/lr_factor/0"]) == pytest.approx(0.5)
    assert float(told[11]["stagegraph/lr_factor/0"]) == 1.0


def test_the_best_model_of_before_a_growth_is_loaded(tmp_path):
    saves = ModelCheckpoint(tmp_path, monitor="val_loss", mode="min", save_top_k=1)
    ours, rising = small.stages(), iter(range(100))

    class Rising(small.Module):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.tensor(float(next(rising))))

    trainer = small.fit(Rising(), ours, [saves], val_check_interval=3)
    module = trainer.lightning_module
    assert len(module.blocks) == 3 and "step=3" in saves.best_model_path
    trainer.validate(ckpt_path="best", dataloaders=small.held_out(), verbose=False)
    assert len(module.blocks) == 2
    saved = torch.load(saves.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())
    ours.engine.close()


def test_a_checkpoint_is_validated_as_far_blended_in_as_it_was(tmp_path):
    saves, prints = small.Places(tmp_path, ("validated",), {6}), small.Prints()
    ours = small.stages()
    small.fit(small.Module(), ours, [saves, prints], max_steps=7)
    ours.engine.close()
    fresh, again = small.Module(), small.trainer([small.stages()])
    (path,) = tmp_path.glob("*.ckpt")
    (found,) = again.validate(fresh, small.held_out(), ckpt_path=path, verbose=False)
    assert len(fresh.blocks) == 3  # alpha is two fifths, and not one
    assert found["val_loss"] == prints.metrics[6]


@pytest.mark.slow
def test_a_grown_checkpoint_is_tested_in_a_fresh_process(tmp_path):
    saves = small.Places(tmp_path, ("end",))
    ours, module = small.stages(), small.Module()
    trainer = small.fit(module, ours, [saves])
    (told,) = trainer.validate(module, dataloaders=small.held_out(), verbose=False)
    ours.engine.close()
    fresh, (path,) = small.Module(), tmp_path.glob("*.ckpt")
    again = small.trainer([small.stages()])
    found = again.validate(fresh, small.held_out(), ckpt_path=path, verbose=False)
    assert found == [told] and len(fresh.blocks) == 3


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_what_waits_is_decided(tmp_path):
    ours = small.stages(PLATEAU, run=tmp_path / "run")
    stop = EarlyStopping("val_loss", patience=2, check_on_train_epoch_end=False)
    trainer = small.fit(Curved(), ours, [stop])
    ours.engine.close()
    assert trainer.global_step == 8  # 6 and 8 are worse than 4
    assert moves_of(tmp_path / "run")[-1] == (8, "main:settle")
    assert not ours.engine.done


@pytest.mark.slow
def test_a_run_that_ends_by_the_graph_ends_in_spite_of_least_steps():
    ours = small.stages()
    trainer = small.fit(small.Module(), ours, min_steps=25)
    assert ours.engine.done and trainer.global_step == 14
    ours.engine.close()


@pytest.mark.slow
def test_an_update_in_which_nothing_is_learnt_is_none():
    class Skips(small.Module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if self.trainer.fit_loop.total_batch_idx in (1, 2) else loss

    ours = small.stages(PLATEAU.replace("plateau(val, patience=4 steps)", "elapsed(8 steps)"))
    with pytest.warns(UserWarning, match="training_step"):
        trainer = small.fit(Skips(), ours)
    assert ours.engine.progress.step == 15 and trainer.global_step == 17
    ours.engine.close()


@pytest.mark.slow
def test_an_unknown_loss_fires_nothing():
    class Nan(small.Module):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.tensor(float("nan")))

    text = PLATEAU.replace("plateau(val, patience=4 steps)", "val < 100 or not (val < 100)")
    ours = small.stages(text)
    trainer = small.fit(Nan(), ours)
    assert trainer.global_step == 20 and len(trainer.lightning_module.blocks) == 2
    ours.engine.close()


def test_a_growth_that_fails_leaves_all_as_it_was_and_names_itself(tmp_path, monkeypatch):
    def refusing(*_, **__):
        raise RuntimeError("no certificate today")

    monkeypatch.setattr(growing, "measure", refusing)
    module, ours = small.Module(), small.stages(run=tmp_path / "run")
    before = [id(p) for p in module.parameters()]
    with pytest.raises(ActionError, match=r"main:grow\.actions\[0\]") as caught:
        small.fit(module, ours)
    assert "no certificate today" in str(caught.value)
    assert [id(p) for p in module.parameters()] == before and len(module.blocks) == 2
    assert not any(one._forward_hooks for one in module.modules())
    with pytest.raises(sg.StageGraphError, match="closed"):
        ours.engine.start()
    assert moves_of(tmp_path / "run") == [(0, "main:small")]


@pytest.mark.slow
def test_tokens_are_counted_of_integers_or_as_one_says():
    text = LOSS.replace("elapsed(4 steps)", "elapsed(80 tokens)")
    with pytest.raises(MissingFact, match=r"count=lambda batch: \(samples, tokens\)"):
        small.fit(small.Module(), small.stages(text), val=False)
    ours = small.stages(text, count=lambda batch: (len(batch[0]), 20))
    small.fit(small.Module(), ours, val=False)
    assert ours.engine.progress.tokens == 20 * 14 and ours.engine.progress.samples == 4 * 14
    ours.engine.close()


def test_a_metric_that_the_validation_does_not_give_is_named():
    with pytest.raises(MetricError, match="wants 'val_acc' evaluated every 3 steps, and the Train"):
        small.fit(small.Module(), small.stages(small.GROWS.replace("val_loss:", "val_acc:")))


def test_a_loss_that_manual_optimization_does_not_return_is_named():
    class Silent(small.Manual):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)

    with pytest.raises(MetricError, match="the graph reads 'loss', and training_step returns none"):
        small.fit(Silent(), small.stages(LOSS), val=False)


@pytest.mark.slow
def test_distillation_is_told_by_the_module_and_asked_for():
    ours = small.stages(EVERYTHING)
    with pytest.raises(sg.StageGraphError, match="loss"):
        small.fit(small.Module(), ours)
    ours = small.stages(EVERYTHING)
    small.fit(small.Distilling(), ours)
    assert ours.engine.done
    ours.engine.close()


def test_the_engine_of_a_trainer():
    with pytest.raises(sg.StageGraphError, match="no StagegraphCallback among its callbacks"):
        engine_of(small.trainer([]))
    with pytest.raises(
        sg.StageGraphError, match=r"the engine is made when trainer\.fit\(\) begins"
    ):
        engine_of(small.trainer([small.stages()]))


def test_the_strategy_is_still_the_trainers():
    ours = small.stages()
    made = small.fit(small.Module(), ours, max_steps=1)
    assert isinstance(made.strategy, pl.strategies.SingleDeviceStrategy)
    assert type(made.strategy).__name__ == "SingleDeviceStrategy"
    ours.engine.close()
