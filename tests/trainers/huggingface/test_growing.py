"""A graph in the real Trainer: when it acts, what it tells, how its model is kept."""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback
from transformers.trainer_callback import DefaultFlowCallback

import stagegraph as sg
from stagegraph.runs.journal import read_journal
from stagegraph.trainers.huggingface import StagedTrainer, StagedTrainerMixin, StagegraphCallback
from tests.trainers.huggingface import small

PLATEAU = """
{stagegraph: 1, name: plateau, initial: small,
 metrics: {val: {goal: minimize, source: [eval_val], every: 2 steps}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "plateau(val, patience=4 steps)"}],
           duration: 20 steps, next: done},
   grow: {kind: grow, actions: [{type: deepen, stack: STACK, add: 1}], next: settle},
   settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: large},
   large: {kind: train, duration: 4 steps, next: done},
   done: {kind: final}}}
"""
CURVE = {0: 5.0, 2: 4.0, 4: 3.0, 6: 3.1, 8: 3.2, 10: 3.3, 12: 2.0, 14: 1.9, 16: 1.8}
"""Best at 4; four steps without a better one are over at 8."""


class Blocks(TrainerCallback):
    """Looks at the model at each event, after the stage graph's own callback."""

    def __init__(self):
        self.seen, self.rates = {}, {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        ungraded = [n for n, p in model.named_parameters() if p.grad is None]
        self.seen[state.global_step] = (len(model.transformer.h), ungraded)

    def on_optimizer_step(self, args, state, control, lr_scheduler=None, **_):
        self.rates[state.global_step] = lr_scheduler.get_last_lr()


def metrics_of(held):
    """compute_metrics that answers by the step, whatever the model says."""
    return lambda _: {"val": CURVE.get(held[0].state.global_step, 1.7)}


def staged(folder, **given):
    held = []
    given = {"compute_metrics": metrics_of(held), **given}
    trainer = small.trainer(folder, PLATEAU, **given)
    held.append(trainer)
    return trainer


def test_grows_on_a_plateau_of_an_evaluation_that_the_graph_asks_for(tmp_path):
    blocks = Blocks()
    trainer = staged(tmp_path, callbacks=[blocks], run=tmp_path / "run")
    trainer.train()
    moves = [r for r in read_journal(tmp_path / "run/journal.jsonl") if r["type"] == "move"]
    assert [(r["step"], r["target"]) for r in moves] == [
        (0, "main:small"), (8, "main:settle"), (11, "main:large"), (15, "main:done"),
    ]  # fmt: skip
    assert {step: found[0] for step, found in blocks.seen.items()} == {
        step: 2 if step < 8 else 3 for step in range(15)
    }
    assert trainer.engine.done and trainer.state.global_step == 15  # and no update more
    assert not any(ungraded for _, ungraded in blocks.seen.values())


def test_the_plain_loop_takes_the_same_stages_at_the_same_steps(tmp_path):
    trainer = staged(tmp_path)
    trainer._stages.attach(trainer, resumes=False)  # to hear of boundary 0
    moves = small.Moves(trainer.engine)
    Trainer.train(trainer)
    model, stack, _ = small.gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = small.Items()
    with sg.Engine(
        small.graph(PLATEAU, stack), model=model, optimizer=optimizer,
        probe={"input_ids": data.words[:4]},
    ) as engine:  # fmt: skip
        plain = small.Moves(engine)
        step = 0
        for epoch in engine.epochs(torch.utils.data.DataLoader(data, batch_size=4)):
            for batch in epoch:
                engine.loss(model(**batch).loss).backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                engine.step(samples=4)
                if engine.wants_evaluation:
                    engine.observe(eval_val=CURVE[step])
        assert plain.seen == moves.seen and len(moves.seen) == 4


def test_an_evaluation_of_the_hosts_own_is_seen_at_its_boundary(tmp_path):
    text = PLATEAU.replace(", every: 2 steps", "").replace("patience=4", "patience=2")
    held = []
    trainer = small.trainer(
        tmp_path, text.replace("plateau(val, patience=2 steps)", "val < 3.05"),
        compute_metrics=metrics_of(held), eval_strategy="steps", eval_steps=2, run=tmp_path / "r",
    )  # fmt: skip
    held.append(trainer)
    trainer.train()
    moves = [r for r in read_journal(tmp_path / "r/journal.jsonl") if r["type"] == "move"]
    assert (4, "main:settle") in [(r["step"], r["target"]) for r in moves]


def test_an_evaluation_of_each_pass_is_seen_at_its_boundary(tmp_path):
    text = PLATEAU.replace("every: 2 steps", "every: 1 epoch")
    text = text.replace("plateau(val, patience=4 steps)", "val < 3.5")
    held = []
    trainer = small.trainer(
        tmp_path, text, compute_metrics=metrics_of(held), eval_strategy="epoch",
        save_strategy="steps", save_steps=6, run=tmp_path / "r",
    )  # fmt: skip
    held.append(trainer)
    trainer.train()
    moves = [r for r in read_journal(tmp_path / "r/journal.jsonl") if r["type"] == "move"]
    assert (6, "main:settle") in [(r["step"], r["target"]) for r in moves]
    evaluated = [one["step"] for one in trainer.state.log_history if "eval_val" in one]
    assert evaluated.count(6) == 1
    # What the pass's evaluation found lies in the checkpoint, as the boundary is decided after it.
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6").transformer.h) == 2


def test_a_linear_schedule_goes_on_over_a_growth(tmp_path):
    blocks, plain = Blocks(), Blocks()
    trainer = staged(tmp_path, callbacks=[blocks], lr_scheduler_type="linear", warmup_steps=2)
    trainer.train()
    model, _, _ = small.gpt2()
    args = small.arguments(tmp_path, lr_scheduler_type="linear", warmup_steps=2)
    Trainer(model, args, train_dataset=small.Items(), callbacks=[plain]).train()
    assert blocks.rates == {step: plain.rates[step] for step in blocks.rates}
    groups = trainer.optimizer.param_groups
    assert len(groups) == 2
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.model.parameters()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "accumulate", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)]
)
def test_updates_count_and_not_micro_batches(tmp_path, accumulate):
    trainer = staged(tmp_path, gradient_accumulation_steps=accumulate)
    trainer.train()
    assert trainer.engine.progress.step == trainer.state.global_step == 15
    assert trainer.engine.progress.samples == round(trainer.state.epoch * small.ITEMS)
    assert trainer.engine.progress.epoch * 6 == round(trainer.state.epoch * 6)


class Evaluates(TrainerCallback):
    """Evaluates by itself, before the Trainer has logged, evaluated and saved."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step in (5, 24):
            self.trainer.evaluate()


class Stops(TrainerCallback):
    """Stops in the middle of an update."""

    def on_substep_end(self, args, state, control, **_):
        if state.global_step == 6:
            control.should_training_stop = True


LONG = PLATEAU.replace("patience=4 steps", "patience=400 steps").replace("20 steps", "40 steps")


@pytest.mark.parametrize("other", [Evaluates(), Stops()])
def test_no_update_counts_that_was_not_made(tmp_path, other):
    trainer = small.trainer(
        tmp_path,
        LONG.replace("every: 2 steps", "every: 90 steps"),
        callbacks=[other],
        gradient_accumulation_steps=2 if isinstance(other, Stops) else 1,
        compute_metrics=lambda _: {"val": 1.0},
        max_steps=24,
    )
    other.trainer = trainer
    trainer.train()
    assert trainer.state.global_step == (6 if isinstance(other, Stops) else 24)
    assert trainer.engine.progress.step == trainer.state.global_step
    assert not trainer._stages.tally.owes


def test_what_a_trainer_logs_by_itself_comes_with_its_update(tmp_path):
    class Logs(Trainer):
        def _maybe_log_save_evaluate(self, *args, **kwargs):
            if self.state.global_step == 10:
                self.log({"val": 0.5})
            super()._maybe_log_save_evaluate(*args, **kwargs)

    class Mine(StagedTrainerMixin, Logs):
        pass

    text = """
    {stagegraph: 1, name: logs, initial: a, metrics: {val: {goal: minimize}},
     stages: {a: {kind: train, transitions: [{target: done, when: "val < 1"}]},
              done: {kind: final}}}
    """
    trainer = small.trainer(tmp_path, text, kind=Mine, max_steps=24)
    trainer.train()
    assert trainer.engine.progress.step == trainer.state.global_step == 10


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ({"input_ids": torch.zeros(3, 5)}, 3),
        ({"input_ids": [[1, 2], [3]]}, 2),
        ({"name": "x", "pixels": torch.zeros(4, 2), "labels": torch.zeros(1)}, 4),
        ({"name": "x"}, 0),
    ],
)
def test_samples_are_those_of_the_words_or_else_of_the_first_tensor(tmp_path, batch, samples):
    trainer = small.trainer(tmp_path)
    trainer._learn = lambda *_: torch.ones(())
    trainer._stages.attach(trainer, resumes=False)
    trainer.training_step(trainer.model, batch)
    assert trainer._stages.tally.samples == samples
    trainer.engine.close()


def test_logs_say_stage_alpha_and_factors(tmp_path):
    trainer = staged(tmp_path, logging_steps=1)
    trainer.train()
    logs = {one["step"]: one for one in trainer.state.log_history if "loss" in one}
    # A step's log tells of its update: the boundary after it is decided later.
    assert [logs[step]["stagegraph/stage/main"] for step in (1, 8, 9, 11, 12)] == [0, 0, 2, 2, 3]
    assert logs[8]["stagegraph/params"] < logs[9]["stagegraph/params"]
    assert logs[9]["stagegraph/lr_factor/0"] == pytest.approx(0.5)
    assert logs[12]["stagegraph/lr_factor/0"] == 1.0
    # The rate that the Trainer logs is its own.
    assert logs[9]["learning_rate"] == pytest.approx(1e-2 * (30 - 8) / 30)
    evaluated = [one for one in trainer.state.log_history if "eval_val" in one]
    assert not any("stagegraph" in key for one in evaluated for key in one)


def test_the_loss_is_a_metric_with_every_update(tmp_path):
    text = small.GROWS.replace(
        "eval_loss: {goal: minimize, every: 3 steps}", "loss: {goal: minimize}"
    ).replace("elapsed(4 steps)", "loss < 100")
    trainer = small.trainer(tmp_path, text, logging_steps=50, eval_dataset=None)
    trainer.train()
    assert trainer.engine.progress.step == 11  # grown after the first update: 1 + 5 + 5


def test_a_grown_checkpoint_loads_into_its_own_class(tmp_path):
    trainer = staged(tmp_path, save_strategy="steps", save_steps=5)
    trainer.train()
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-5")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-15")
    assert (before.config.n_layer, after.config.n_layer) == (2, 3)
    trainer.engine.close()
    words = small.Items(5).words[:2]
    with torch.no_grad():
        assert torch.equal(after(words).logits, trainer.model.eval()(words).logits)


@pytest.mark.parametrize(
    ("best", "blocks"), [(6, 2), (12, 3)], ids=["before the growth", "after it"]
)
def test_load_best_model_at_end_over_a_growth(tmp_path, best, blocks):
    held = []

    def metrics(_):
        step = held[0].state.global_step
        return {"val": CURVE.get(step, 1.7), "chosen": float(step == best)}

    trainer = staged(
        tmp_path, compute_metrics=metrics, save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
        metric_for_best_model="chosen", greater_is_better=True,
    )  # fmt: skip
    held.append(trainer)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert len(trainer.model.transformer.h) == trainer.model.config.n_layer == blocks
    whole = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    loaded = dict(trainer.model.named_parameters())
    assert all(torch.equal(p, loaded[name]) for name, p in whole.named_parameters())
    assert trainer.engine.done  # the run is where it ended


def test_the_best_model_is_as_far_blended_in_as_it_was_evaluated(tmp_path):
    held = []
    trainer = small.trainer(
        tmp_path, compute_metrics=lambda _: {"chosen": float(held[0].state.global_step == 6)},
        save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3, max_steps=9,
        load_best_model_at_end=True, metric_for_best_model="chosen", greater_is_better=True,
    )  # fmt: skip
    held.append(trainer)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")
    (found,) = (one["eval_loss"] for one in trainer.state.log_history if one.get("eval_chosen"))
    assert trainer.evaluate()["eval_loss"] == found  # alpha is two fifths, and not one


def test_the_best_is_not_one_of_which_nothing_is_saved(tmp_path):
    """The graph evaluates at 2, 4, ...; the Trainer at 5, 10, ... with a checkpoint."""
    held, chosen = [], {4: 9.0, 5: 2.0, 10: 1.0}

    def metrics(_):
        return {
            "val": 9.0 - held[0].state.global_step,
            "chosen": chosen.get(held[0].state.global_step, 0.0),
        }

    trainer = staged(
        tmp_path, compute_metrics=metrics, save_strategy="steps", save_steps=5,
        eval_strategy="steps", eval_steps=5, load_best_model_at_end=True,
        metric_for_best_model="chosen", greater_is_better=True, max_steps=10,
    )  # fmt: skip
    held.append(trainer)
    trainer.train()
    assert trainer.state.best_metric == 2.0
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-5")


@pytest.mark.slow
def test_a_monitor_measures_without_the_trainers_evaluation(tmp_path):
    trainer = small.trainer(
        tmp_path, PLATEAU, eval_dataset=None,
        monitor=lambda model: {"val": float(len(model.transformer.h))},
    )  # fmt: skip
    trainer.train()
    assert trainer.engine.stages == {"main": "done"}
    assert len(trainer.model.transformer.h) == 3


@pytest.mark.slow
def test_an_interval_in_seconds_is_evaluated_when_it_is_over(tmp_path):
    text = PLATEAU.replace("every: 2 steps", "every: 0.001 s").replace("patience=4", "patience=40")
    trainer = small.trainer(tmp_path, text, compute_metrics=lambda _: {"val": 1.0}, max_steps=3)
    trainer.train()
    assert [one for one in trainer.state.log_history if "eval_val" in one]


def test_frozen_stages_train_what_they_say(tmp_path):
    text = """
    {stagegraph: 1, name: unfreeze, initial: top, stages: {
       top: {kind: train, during: [{type: freeze, of: "STACK.0.*"}], duration: 3 steps, next: all},
       all: {kind: train, duration: 3 steps, next: done}, done: {kind: final}}}
    """
    trainer = small.trainer(
        tmp_path, text.replace("all:", "whole:").replace("next: all", "next: whole")
    )
    first = trainer.model.transformer.h[0].attn.c_attn.weight
    values = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            values.append(first.detach().clone())

    trainer.add_callback(Look())
    trainer.train()
    same = [torch.equal(a, b) for a, b in itertools.pairwise(values)]
    assert same == [True, True, False, False, False]


DISTILS = """
{stagegraph: 1, name: distils, initial: alone, stages: {
   alone: {kind: train, duration: 2 steps, next: grow},
   grow: {kind: grow, actions: [{type: teacher, name: before},
          {type: deepen, stack: STACK, add: 1}], next: learn},
   learn: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 3 steps},
           {type: distill, teachers: before, weight: WEIGHT}], next: done},
   done: {kind: final}}}
"""


def distilled(folder, weight, **given):
    def without_dropout():
        model, stack, data = small.gpt2()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model, stack, data

    given = {"optim": "sgd", "learning_rate": 0.5, **given}
    trainer = small.trainer(
        folder, DISTILS.replace("WEIGHT", weight), make=without_dropout, **given
    )
    trainer.train()
    assert trainer.engine.done and trainer.state.global_step == 5
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_distillation_adds_as_much_with_accumulation(tmp_path):
    """Of a loss that is a share of the whole update's, what is added must be a share too."""
    whole = distilled(tmp_path / "1", "20.0", per_device_train_batch_size=8)
    shared = distilled(
        tmp_path / "2", "20.0", per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    without = distilled(tmp_path / "3", "1e-9", per_device_train_batch_size=8)
    assert (whole - shared).abs().max() < 1e-5
    assert (whole - without).abs().max() > 1e-3


@pytest.mark.slow
def test_distillation_goes_with_label_smoothing(tmp_path):
    smooth = distilled(tmp_path / "1", "20.0", label_smoothing_factor=0.1)
    without = distilled(tmp_path / "2", "1e-9", label_smoothing_factor=0.1)
    assert (smooth - without).abs().max() > 1e-3


@pytest.mark.slow
def test_one_s_own_trainer_class_takes_the_mixin(tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    class Staged(StagedTrainerMixin, Own):
        pass

    trainer = small.trainer(tmp_path, kind=Staged)
    trainer.train()
    assert trainer.engine.done


def test_the_callback_stands_second(tmp_path):
    trainer = small.trainer(tmp_path)
    kinds = [type(one) for one in trainer.callback_handler.callbacks[:2]]
    assert kinds == [DefaultFlowCallback, StagegraphCallback]
    assert isinstance(trainer, StagedTrainer)
