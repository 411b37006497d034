"""Resumed from a Trainer's checkpoint, across a growth, a run goes on bit for bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback

import stagegraph as sg
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.runs.journal import read_journal
from tests.trainers.huggingface import small
from tests.trainers.huggingface.prints import Prints, differences

ROOT = Path(__file__).parents[3]

EVERYTHING = """
{stagegraph: 1, name: everything, initial: small,
 metrics: {val: {goal: minimize, source: [eval_loss], every: 2 steps}, loss: {goal: minimize}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "plateau(val, patience=3 steps)"}],
           duration: 6 steps, next: grow},
   grow: {kind: grow, actions: [{type: snapshot, name: before}, {type: teacher, name: old},
          {type: deepen, stack: STACK, add: 1}], next: warmup},
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


class DieAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Dies


def life(folder, *, resume=None, text=small.GROWS, callbacks=(), **given):
    prints = Prints()
    given = {"save_strategy": "steps", "save_steps": 1, **given}
    trainer = small.trainer(folder, text, callbacks=[prints, *callbacks], **given)
    prints.trainer = trainer
    torch.rand(3)  # a new process does not begin with the random numbers of another
    trainer.train(resume_from_checkpoint=resume)
    return prints.seen, trainer


def assert_resumes(folder, cuts, **given):
    whole, trainer = life(folder / "out", **given)
    last = max(whole)
    saved = sorted(int(one.name[11:]) for one in (folder / "out").glob("checkpoint-*"))
    for cut in cuts if cuts is not None else [one for one in saved if one < last]:
        copied = shutil.copytree(folder / "out", folder / f"cut-{cut}")
        for one in copied.glob("checkpoint-*"):
            if int(one.name.partition("-")[2]) > cut:
                shutil.rmtree(one)
        resumed, again = life(copied, resume=True, **given)
        assert min(resumed) == cut + 1
        assert not differences(whole, resumed), cut
        assert again.engine.stages == trainer.engine.stages
        logs = [
            [one for one in each.state.log_history if "eval_loss" in one and one["step"] > cut]
            for each in (trainer, again)
        ]
        assert [one["eval_loss"] for one in logs[0]] == [one["eval_loss"] for one in logs[1]]
    return last


# 4: the boundary of the growth is decided after this checkpoint was saved; 6: end of a pass.
@pytest.mark.parametrize("cut", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_resumes_before_a_growth_and_inside_its_ramp(tmp_path, cut):
    assert_resumes(tmp_path, [cut])


@pytest.mark.slow
def test_resumes_with_accumulation_and_a_linear_schedule(tmp_path):
    given = {"gradient_accumulation_steps": 2, "lr_scheduler_type": "linear", "warmup_steps": 3}
    assert_resumes(tmp_path, [7], make=small.llama, **given)


@pytest.mark.slow
@pytest.mark.parametrize("make", [small.gpt2, small.llama, small.bert])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumes_at_every_cut(tmp_path, make, accumulate):
    last = assert_resumes(tmp_path, None, make=make, gradient_accumulation_steps=accumulate)
    assert last == 14


def test_resumes_with_teacher_snapshot_freeze_and_rollback(tmp_path):
    assert_resumes(tmp_path, [8], text=EVERYTHING)


SETTINGS = [
    {"bf16": True},
    {"optim": "adafactor", "learning_rate": 1e-3},
    {"lr_scheduler_type": "cosine_with_restarts"},
    {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 3,
     "metric_for_best_model": "loss"},
    {"dataloader_num_workers": 2},
    {"activation_checkpointing": True},
    {"neftune_noise_alpha": 1.0},
    {"include_num_input_tokens_seen": "all"},
    {"eval_on_start": True},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("given", SETTINGS, ids=lambda given: next(iter(given)))
def test_resumes_under_the_trainers_own_settings(tmp_path, given):
    assert_resumes(tmp_path, [4, 6], **given)


@pytest.mark.slow
def test_everything_resumes_at_every_cut(tmp_path):
    assert_resumes(tmp_path, None, text=EVERYTHING, weight_decay=0.1)


@pytest.mark.slow
def test_resumes_with_evaluation_of_each_pass(tmp_path):
    text = small.GROWS.replace("every: 3 steps", "every: 1 epoch")
    assert_resumes(tmp_path, None, text=text, eval_strategy="epoch", save_steps=2)


def test_resumes_after_an_exception_with_its_journal(tmp_path):
    whole, _ = life(tmp_path / "whole", run=tmp_path / "whole-run")
    given = {"run": tmp_path / "run", "save_steps": 3}
    with pytest.raises(Dies):
        life(tmp_path / "out", callbacks=[DieAt(7)], **given)
    resumed, trainer = life(tmp_path / "out", resume=True, **given)
    assert min(resumed) == 7 and not differences(whole, resumed)
    trainer.engine.close()
    told = [read_journal(tmp_path / name / "journal.jsonl") for name in ("whole-run", "run")]
    (resume,) = [r for r in told[1] if r["type"] == "resume"]
    assert resume["step"] == 5  # the boundary of update 6 was decided after the checkpoint
    moves = [[(r["step"], r["target"]) for r in one if r["type"] == "move"] for one in told]
    assert moves[0] == moves[1] and len(moves[0]) == 4
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_checkpoint_at_whose_boundary_the_run_ends_trains_no_more(tmp_path):
    whole, _ = life(tmp_path / "out")
    resumed, trainer = life(tmp_path / "out", resume=str(tmp_path / f"out/checkpoint-{max(whole)}"))
    assert not resumed and trainer.engine.done
    assert trainer.state.global_step == max(whole) == 14


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    whole, _ = life(tmp_path / "out", max_steps=8)
    torn = tmp_path / "out/checkpoint-8"
    (torn / "trainer_state.json").unlink()
    shutil.rmtree(tmp_path / "out/checkpoint-7/stagegraph")
    with pytest.warns(
        UserWarning, match="checkpoint-8, checkpoint-7 had not been saved to the end"
    ):
        resumed, _ = life(tmp_path / "out", resume=True, max_steps=8)
    assert min(resumed) == 7 and {k: resumed[k]["weights"] for k in (7, 8)} == {
        k: whole[k]["weights"] for k in (7, 8)
    }


def test_a_checkpoint_without_the_engine_is_refused(tmp_path):
    model, _, _ = small.gpt2()
    args = small.arguments(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    Trainer(model, args, train_dataset=small.Items()).train()
    with pytest.raises(SnapshotError, match=r"checkpoint-2 has no stagegraph/contents\.json: it"):
        life(tmp_path, resume=str(tmp_path / "checkpoint-2"))
    with pytest.raises(RunFolderError, match="none of checkpoint-2 was saved to its end"):
        life(tmp_path, resume=True)


def test_a_checkpoint_without_moments_is_refused(tmp_path):
    life(tmp_path, max_steps=2, save_only_model=True)
    with pytest.raises(SnapshotError, match=r"no optimizer\.pt and no scheduler\.pt \(save_only"):
        life(tmp_path, resume=True)


@pytest.mark.slow
def test_a_checkpoint_of_another_graph_is_refused(tmp_path):
    life(tmp_path, max_steps=6)
    with pytest.raises(SnapshotError, match="graph"):
        life(tmp_path, resume=True, text=small.GROWS.replace("elapsed(4", "elapsed(3"))


@pytest.mark.slow
def test_an_edited_graph_goes_on_in_its_folder(tmp_path):
    given = {"run": tmp_path / "run"}
    _, first = life(tmp_path / "out", max_steps=6, **given)
    first.engine.close()
    _, trainer = life(
        tmp_path / "out",
        resume=True,
        text=small.GROWS.replace("duration: 5", "duration: 2"),
        **given,
    )
    assert trainer.engine.progress.step == 11


def test_a_folder_that_holds_a_run_is_refused_for_a_new_one(tmp_path):
    _, first = life(tmp_path / "out", max_steps=2, run=tmp_path / "run")
    first.engine.close()
    with pytest.raises(RunFolderError, match=r"call train\(resume_from_checkpoint=True\) to go on"):
        life(tmp_path / "out", run=tmp_path / "run")


def test_one_trainer_trains_once(tmp_path):
    _, trainer = life(tmp_path, max_steps=2)
    with pytest.raises(sg.StageGraphError, match="has trained already; to go on or to begin again"):
        trainer.train()


@pytest.mark.slow
def test_the_plain_trainer_cannot_resume_a_grown_checkpoint(tmp_path):
    """The defect that the mixin is for, so that we notice if transformers mends it."""
    life(tmp_path, max_steps=6)
    model, _, _ = small.gpt2()
    plain = Trainer(model, small.arguments(tmp_path), train_dataset=small.Items())
    with pytest.raises(ValueError, match="size of optimizer's group"):
        plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


@pytest.mark.slow
def test_resumes_after_the_process_is_killed(tmp_path):
    """Killed where it stands, in the middle of a warm-up; the next process goes on bit for bit."""
    code = (
        "import sys, json, os, signal; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.trainers.huggingface.test_resuming import life, KillAt\n"
        "seen, _ = life(sys.argv[2], resume=sys.argv[3] == 'resume' or None,\n"
        "               callbacks=[KillAt(int(sys.argv[4]))])\n"
        "json.dump(seen, open(sys.argv[5], 'w'))\n"
    )

    def process(folder, how, kill, out):
        return subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(folder), how, str(kill), str(out)],
            check=False, capture_output=True, text=True, env={"PYTHONHASHSEED": "0"},
        )  # fmt: skip

    done = process(tmp_path / "whole", "begin", -1, tmp_path / "whole.json")
    assert done.returncode == 0, done.stderr
    killed = process(tmp_path / "out", "begin", 7, tmp_path / "none.json")
    assert killed.returncode == -9
    done = process(tmp_path / "out", "resume", -1, tmp_path / "resumed.json")
    assert done.returncode == 0, done.stderr
    whole, resumed = (
        {int(k): v for k, v in json.loads((tmp_path / f"{name}.json").read_text()).items()}
        for name in ("whole", "resumed")
    )
    assert min(resumed) == 8 and not differences(whole, resumed)


class KillAt(TrainerCallback):
    """Kills its own process in the middle of an update."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **_):
        import os
        import signal

        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
