"""Resumed from a checkpoint of Lightning's, across a growth, a run goes on bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import stagegraph as sg
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.runs.journal import read_journal
from tests.trainers.lightning import small
from tests.trainers.lightning.life import assert_resumes, life

ROOT = Path(__file__).parents[3]
LOSS = small.GROWS.replace("val_loss: {goal: minimize, every: 3 steps}", "loss: {goal: minimize}")

EVERYTHING = """
{stagegraph: 1, name: everything, initial: small,
 metrics: {val: {goal: minimize, source: [val_loss], every: 2 steps}, loss: {goal: minimize}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "plateau(val, patience=3 steps)"}],
           duration: 6 steps, next: grow},
   grow: {kind: grow, actions: [{type: snapshot, name: before}, {type: teacher, name: old},
          {type: deepen, stack: blocks, add: 1}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps, start: 0.2},
            {type: freeze, of: all, but: grown},
            {type: distill, teachers: old, weight: 0.5}], next: settle},
   settle: {kind: settle, lr_factor: 0.3, duration: 2 steps, next: undo},
   undo: {kind: train, transitions: [{target: again, when: "visits(again) < 1", at_most: 1,
          actions: [{type: roll_back, to: before, data: skip, lr_factor: 0.5}]}],
          duration: 2 steps, next: done},
   again: {kind: train, duration: 3 steps, next: done},
   done: {kind: final}}}
"""
"""Two blocks, three, and two again; a checkpoint can hold a snapshot and a teacher."""


class Dies(Exception):
    pass


class DieAt(Callback):
    """Dies in the middle of an update."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            self.die()

    def die(self):
        raise Dies


class KillAt(DieAt):
    def die(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


# 4: the boundary of the growth is decided after this checkpoint was saved; 6: the end of a pass.
def test_resumes_before_a_growth_and_at_the_end_of_a_pass(tmp_path):
    cuts = ["004-batch", "006-batch"]
    assert assert_resumes(tmp_path, cuts) == (14, cuts)


def on_plateau(optimizer, **given):
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    return {"scheduler": plateau, "monitor": "val_loss", "strict": False, **given}


def exponential(optimizer):
    return {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.8), "interval": "epoch"}


def cosine(optimizer):
    return {"scheduler": lr_scheduler.CosineAnnealingLR(optimizer, 30), "interval": "step"}


def scheduled(schedule, **given):
    return {"make": lambda: small.Module(schedule=lambda one: schedule(one, **given))}


EPOCHS, STEPS = {"max_epochs": 4}, {}
SETTINGS = {
    "steps": STEPS,
    "passes": EPOCHS,
    "accumulation": {"accumulate_grad_batches": 2},
    "accumulation into a rest": {"accumulate_grad_batches": 4, "max_epochs": 9},
    "validation inside of a pass": {"val_check_interval": 2},
    "validation inside of a pass, by passes": {"val_check_interval": 2, **EPOCHS},
    "validation of every other pass": {"check_val_every_n_epoch": 2, **EPOCHS},
    "validation in another order each time": {"val": lambda: small.held_out(shuffle=True)},
    "no validation": {"val": False, "text": LOSS, **EPOCHS},
    "no validation, by steps": {"val": False, "text": LOSS},
    "a cosine": scheduled(cosine),
    "an exponential with each pass": {**scheduled(exponential), **EPOCHS},
    "a plateau with each pass": scheduled(on_plateau),
    "a plateau with each pass, by passes": {**scheduled(on_plateau), **EPOCHS},
    "a plateau with each step": {
        **scheduled(on_plateau, interval="step"), "val_check_interval": 2, **EPOCHS,
    },
    "manual": {"make": small.Manual},
    "manual, every other batch": {"make": lambda: small.Manual(every=2)},
    "part of a pass": {"limit_train_batches": 4, "max_epochs": 5},
    "part of a pass, by steps": {"limit_train_batches": 4},
    "workers": {"train": lambda: small.loader(num_workers=2)},
    "a generator": {
        "train": lambda: small.loader(generator=torch.Generator().manual_seed(3)), **EPOCHS,
    },
    "bf16": {"precision": "bf16-mixed"},
    "clipping": {"gradient_clip_val": 0.1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
# Lightning says so at each step before the first validation.
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric:RuntimeWarning")
def test_resumes_at_every_place_under_the_trainers_own_settings(tmp_path, name):
    last, tried = assert_resumes(tmp_path, **SETTINGS[name])
    assert last >= 14 and len(tried) > 15


@pytest.mark.slow
@pytest.mark.parametrize("given", [STEPS, EPOCHS], ids=["steps", "passes"])
def test_everything_resumes_at_every_place(tmp_path, given):
    assert_resumes(tmp_path, text=EVERYTHING, make=small.Distilling, **given)


def test_resumes_with_teacher_snapshot_freeze_and_rollback(tmp_path):
    assert_resumes(tmp_path, ["008-batch"], text=EVERYTHING, make=small.Distilling)


def averaged():
    return pl.callbacks.EMAWeightAveraging(decay=0.9)


@pytest.mark.slow
def test_averaged_weights_grow_along(tmp_path):
    class Average(Callback):
        """Prints the average along with the weights."""

        def on_train_batch_end(self, trainer, pl_module, *_):
            (one,) = [c for c in trainer.callbacks if isinstance(c, pl.callbacks.WeightAveraging)]
            average = one._average_model
            assert len(average.module.blocks) == len(pl_module.blocks)
            pl_module.average = small.of_tensors(average.state_dict().items())

    assert_resumes(tmp_path, extra=[averaged, Average])


def scaler():
    made = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=4)
    return pl.plugins.MixedPrecision("16-mixed", "cpu", made)


@pytest.mark.slow
def test_resumes_with_a_gradient_scaler(tmp_path):
    given = {"make": Scaled, "plugins": scaler, "val_check_interval": 2}
    last, _ = assert_resumes(tmp_path, **given)
    assert last == 15  # 14 updates, and one that was none


class Scaled(small.Module):
    """Overflows in its fourth batch, so that the scaler skips that update."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * (float("inf") if self.trainer.fit_loop.total_batch_idx == 3 else 1.0)


def test_resumes_after_an_exception_with_its_journal(tmp_path):
    whole, ours, _ = life(None, about={"run": tmp_path / "whole"})
    ours.engine.close()
    given = {"about": {"run": tmp_path / "run"}}
    with pytest.raises(Dies):
        life(tmp_path / "out", extra=[lambda: DieAt(7)], only=[3, 6], **given)
    resumed, ours, _ = life(None, resume=str(tmp_path / "out/006-batch.ckpt"), **given)
    ours.engine.close()
    assert min(resumed.seen) == 7 and not small.differences(whole.seen, resumed.seen)
    told = [read_journal(tmp_path / name / "journal.jsonl") for name in ("whole", "run")]
    (resume,) = [r for r in told[1] if r["type"] == "resume"]
    assert resume["step"] == 5  # the boundary of update 6 was decided after the checkpoint
    moves = [[(r["step"], r["target"]) for r in one if r["type"] == "move"] for one in told]
    assert moves[0] == moves[1] and len(moves[0]) == 4


@pytest.mark.slow
def test_resumes_after_the_process_is_killed(tmp_path):
    """Killed where it stands, in the middle of a warm-up; the next process goes on bit for bit."""
    code = (
        "import sys, json, warnings; sys.path.insert(0, sys.argv[1])\n"
        "warnings.simplefilter('ignore')\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests.trainers.lightning.test_resuming import KillAt\n"
        "from tests.trainers.lightning.life import life\n"
        "prints, *_ = life(Path(sys.argv[2]), resume=sys.argv[3] or None,\n"
        "                  extra=[lambda: KillAt(int(sys.argv[4]))])\n"
        "json.dump(prints.seen, open(sys.argv[5], 'w'))\n"
    )

    def process(folder, resume, kill, out):
        return subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(folder), resume, str(kill), str(out)],
            check=False, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    done = process(tmp_path / "whole", "", -1, tmp_path / "whole.json")
    assert done.returncode == 0, done.stderr
    killed = process(tmp_path / "out", "", 7, tmp_path / "none.json")
    assert killed.returncode == -9, killed.stderr
    newest = max((tmp_path / "out").glob("*.ckpt"))
    assert newest.stem == "007-batch"
    done = process(tmp_path / "again", str(newest), -1, tmp_path / "resumed.json")
    assert done.returncode == 0, done.stderr
    whole, resumed = (
        {int(k): v for k, v in json.loads((tmp_path / f"{name}.json").read_text()).items()}
        for name in ("whole", "resumed")
    )
    assert min(resumed) == 8 and not small.differences(whole, resumed)


@pytest.mark.slow
def test_what_is_saved_in_mid_accumulation_is_refused(tmp_path):
    given = {"accumulate_grad_batches": 2, "only": [3]}
    with pytest.warns(UserWarning, match="a run cannot go on as it was from the checkpoint that"):
        _, ours, _ = life(tmp_path, **given)
    ours.engine.close()
    path = str(tmp_path / "003-batch.ckpt")
    with pytest.raises(SnapshotError, match="between two micro-batches, and their gradients are"):
        life(None, resume=path, **given)
    with pytest.warns(UserWarning, match="the run goes on from this checkpoint, but not as it was"):
        _, ours, _ = life(None, resume=path, about={"exact": False}, **given)
    assert ours.engine.done
    ours.engine.close()


@pytest.mark.slow
def test_a_plain_loader_is_refused_inside_of_a_pass_and_goes_on_behind_it(tmp_path):
    given = {"train": lambda: small.loader(kind=DataLoader), **EPOCHS}
    with pytest.warns(UserWarning, match="the DataLoader does not say where it was"):
        whole, ours, _ = life(tmp_path, only=[5, 6], places=("batch", "pass"), **given)
    ours.engine.close()
    with pytest.raises(
        SnapshotError, match=r"StatefulDataLoader says where it is\), or give Stage"
    ):
        life(None, resume=str(tmp_path / "005-batch.ckpt"), **given)
    for place in ("batch", "pass"):
        resumed, ours, _ = life(None, resume=str(tmp_path / f"006-{place}.ckpt"), **given)
        ours.engine.close()
        assert min(resumed.seen) == 7 and not small.differences(whole.seen, resumed.seen)


LONGER = {"max_steps": 8}, {"max_epochs": 2}, {"max_epochs": 1, "accumulate_grad_batches": 4}


@pytest.mark.slow
@pytest.mark.parametrize("short", LONGER, ids=["inside of a pass", "passes", "a rest"])
@pytest.mark.parametrize("place", ["pass", "end"])
def test_a_run_that_ended_by_the_trainer_is_made_longer(tmp_path, short, place):
    long = {**short, **({"max_steps": 30} if "max_steps" in short else {"max_epochs": 9})}
    whole, ours, _ = life(None, **long)
    ours.engine.close()
    _, ours, _ = life(tmp_path, places=(place,), **short)
    ours.engine.close()
    resumed, ours, _ = life(None, resume=str(max(tmp_path.glob("*.ckpt"))), **long)
    ours.engine.close()
    if place == "end":  # the boundary behind the end was decided, and journalled as an end, before
        assert ours.engine.done
    wrong = small.differences(whole.seen, resumed.seen)
    assert not wrong and min(resumed.seen) > 5


def test_a_checkpoint_without_the_engine_is_refused(tmp_path):
    plain = small.trainer([], max_steps=2, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="no `val_dataloader`"):
        plain.fit(small.Module(), small.loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(SnapshotError, match="has no 'stagegraph': it was not saved by a Trainer w"):
        life(None, resume=str(tmp_path / "plain.ckpt"))


@pytest.mark.slow
def test_a_checkpoint_of_another_graph_is_refused(tmp_path):
    _, ours, _ = life(tmp_path, only=[6], max_steps=6)
    ours.engine.close()
    with pytest.raises(SnapshotError, match="graph"):
        life(
            None,
            resume=str(tmp_path / "006-batch.ckpt"),
            text=small.GROWS.replace("elapsed(4", "elapsed(3"),
        )


def test_a_folder_that_holds_a_run_is_refused_for_a_new_one(tmp_path):
    given = {"max_steps": 2, "about": {"run": tmp_path / "run"}}
    _, ours, _ = life(None, **given)
    ours.engine.close()
    with pytest.raises(RunFolderError, match=r"call fit\(ckpt_path=\.\.\.\) to go on with it"):
        life(None, **given)


def test_one_callback_trains_once(tmp_path):
    _, ours, trainer = life(None, max_steps=2)
    with pytest.raises(sg.StageGraphError, match="has been trained or rebuilt already; to go on o"):
        small.fit(trainer.lightning_module, ours)
    ours.engine.close()


@pytest.mark.slow
def test_a_plain_trainer_cannot_resume_a_grown_checkpoint(tmp_path):
    """The defect that the strategy is for, so that we notice if Lightning mends it."""
    _, ours, _ = life(tmp_path, only=[6], max_steps=6)
    ours.engine.close()
    plain = small.trainer([], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        plain.fit(small.Module(), small.loader(), ckpt_path=str(tmp_path / "006-batch.ckpt"))


@pytest.mark.slow
def test_checkpoint_callbacks_and_resume_from_the_last(tmp_path):
    def saves():
        return ModelCheckpoint(
            tmp_path / "saved", every_n_train_steps=5, save_top_k=-1, save_last=True
        )

    whole, ours, _ = life(None, extra=[saves])
    ours.engine.close()
    assert len(list((tmp_path / "saved").glob("epoch*.ckpt"))) == 2
    resumed, ours, _ = life(None, resume="last", extra=[saves])
    assert not resumed.seen or not small.differences(whole.seen, resumed.seen)
    assert ours.engine.done
    ours.engine.close()


ALONE = """
{stagegraph: 1, name: measured by the host alone, initial: a, metrics: {score: {goal: maximize}},
 stages: {a: {kind: train, transitions: [{target: b, when: "score >= 9"}]},
          b: {kind: train, duration: 6 steps, next: done}, done: {kind: final}}}
"""


class LogsOnce(small.Module):
    """Logs a score in two of its updates, where nobody has asked for it."""

    def training_step(self, batch, batch_idx):
        step = self.trainer.global_step + 1
        if step in (9, 15):
            self.log("score", float(step))
        return self.loss(batch)


def test_what_is_logged_in_the_pass_that_it_was_resumed_in_is_heard_at_once(tmp_path):
    """Lightning does not say that this pass begins."""

    def moves(**given):
        ours, seen = small.stages(ALONE), []

        class Listens(Callback):
            def on_train_start(self, trainer, pl_module):
                seen.append(small.Moves(ours.engine))

        saves = small.Places(tmp_path, ["batch"], only=[3])
        train = small.loader(batch_size=1)
        small.fit(LogsOnce(), ours, [Listens(), saves], train=train, **given)
        return seen[0].seen[-2:]

    whole = moves()
    assert whole == [(9, "main:b"), (15, "main:done")]
    assert moves(resume=tmp_path / "003-batch.ckpt") == whole
