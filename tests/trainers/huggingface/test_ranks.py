"""The Trainer in several processes: one decision, one checkpoint, resumed bit for bit on each."""

import contextlib
import os
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

import stagegraph as sg
from stagegraph.engine.ranks import agreed
from stagegraph.errors import RankError, RunFolderError, SnapshotError
from stagegraph.runs.journal import read_journal
from stagegraph.trainers.huggingface import kept
from tests.ranks.processes import on_ranks
from tests.ranks.threads import on_threads
from tests.trainers.huggingface import small
from tests.trainers.huggingface.prints import Prints, differences
from tests.trainers.huggingface.test_resuming import EVERYTHING, DieAt, Dies

pytestmark = pytest.mark.xdist_group("ranks")


def life(rank, folder, *, resume=None, text=small.GROWS, callbacks=(), **given):
    """One life on one rank; each rank has random numbers of its own."""
    for one in (AcceleratorState, GradientState, PartialState):
        one._reset_state()
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29513"}
    warnings.simplefilter("ignore")
    prints = Prints()
    given = {"save_strategy": "steps", "save_steps": 1, **given}
    trainer = small.trainer(folder, text, callbacks=[prints, *callbacks], **given)
    prints.trainer = trainer
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(100 + rank)
    trainer.train(resume_from_checkpoint=resume)
    assert isinstance(trainer.model_wrapped, DistributedDataParallel)
    return prints.seen, trainer


def cut_after(folder, step, rank):
    """A copy of a run's checkpoints up to one."""
    copied = folder.with_name(f"cut-{step}")
    if rank == 0:
        shutil.copytree(folder, copied)
        for one in copied.glob("checkpoint-*"):
            if int(one.name.partition("-")[2]) > step:
                shutil.rmtree(one)
    torch.distributed.barrier()
    return copied


def cuts_of(rank, folder, steps, given):
    """A whole run, and runs that go on from its checkpoints; what differs."""
    whole, trainer = life(rank, folder / "out", **given)
    found = {}
    for step in steps:
        copied = cut_after(folder / "out", step, rank)
        resumed, _ = life(rank, copied, resume=True, **given)
        found[step] = [min(resumed) == step + 1, differences(whole, resumed)]
    last = whole[max(whole)]
    return {
        "found": found,
        "last": max(whole),
        "weights": last["weights"],
        "moments": last["optimizer"],
        "random": last["random"],
        "engine": {step: one["engine"] for step, one in whole.items()},
        "blocks": last["config"],
        "samples": trainer.engine.progress.samples,
        "tokens": trainer.engine.progress.tokens,
        "logged": [one for one in trainer.state.log_history if "eval_loss" in one],
    }


def check(tmp_path, steps, size=2, **given):
    told = on_ranks(size, cuts_of, tmp_path, steps, given, folder=tmp_path, seconds=300)
    for one in told:
        assert one["found"] == {step: [True, []] for step in steps}
        for name in ("weights", "moments", "engine", "samples", "tokens", "last", "blocks"):
            assert one[name] == told[0][name], name
    assert len({one["random"] for one in told}) == size
    return told[0]


def test_all_processes_grow_together_and_go_on_bit_for_bit(tmp_path):
    found = check(tmp_path, [5])
    assert found["blocks"] == 3
    assert found["samples"] == 2 * 4 * found["last"]  # those of both processes


SETTINGS = {
    "accumulation": {"gradient_accumulation_steps": 2, "lr_scheduler_type": "linear"},
    "everything": {"text": EVERYTHING},
    "llama": {"make": small.llama, "ddp_find_unused_parameters": False},
    "passes": {
        "text": small.GROWS.replace("every: 3 steps", "every: 1 epoch"), "eval_strategy": "epoch"
    },
    "bf16": {"bf16": True},
    "closed gate": {
        "text": small.GROWS.replace("over: 5 steps", "over: 5 steps, start: 0"),
        "ddp_find_unused_parameters": False,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_cut_goes_on_bit_for_bit(tmp_path, name):
    cuts = {"everything": range(2, 14)}.get(name, range(3, 10))
    check(tmp_path, list(cuts), **SETTINGS[name])


@pytest.mark.slow
@pytest.mark.parametrize("searches", [None, False])
def test_three_processes_add_up_gradients_in_one_order(tmp_path, searches):
    check(tmp_path, [3, 6, 9], size=3, ddp_find_unused_parameters=searches)


@pytest.mark.slow
def test_intervals_are_those_of_all_processes(tmp_path):
    """Eight samples of six tokens each an update, of both processes."""
    text = small.GROWS.replace("every: 3 steps", "every: AMOUNT")
    given = {"include_num_input_tokens_seen": "all", "save_steps": 4}
    for number, amount in enumerate(("3 steps", "24 samples", "144 tokens")):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = check(folder, [4], text=text.replace("AMOUNT", amount), **given)
        assert [one["step"] for one in found["logged"]] == [3, 6, 9, 12]
        assert found["samples"] == 8 * found["last"]
        assert found["tokens"] == 48 * found["last"]


def on_the_wall(rank, folder):
    text = small.GROWS.replace("every: 3 steps", "every: 0.001 s")
    _, trainer = life(rank, folder, text=text, max_steps=4, save_strategy="no")
    return [one["step"] for one in trainer.state.log_history if "eval_loss" in one]


@pytest.mark.slow
def test_an_interval_in_seconds_is_evaluated_by_all(tmp_path):
    first, second = on_ranks(2, on_the_wall, tmp_path, folder=tmp_path, seconds=200)
    assert first == second
    assert first[:2] == [1, 2]


def dies(rank, folder):
    """Both die in mid-run; the journal goes on behind the checkpoint, and a new run is refused."""
    whole, _ = life(rank, folder / "whole", run=folder / "whole-run")
    given = {"run": folder / "run", "save_steps": 3}
    with contextlib.suppress(Dies):
        life(rank, folder / "out", callbacks=[DieAt(7)], **given)
    resumed, trainer = life(rank, folder / "out", resume=True, **given)
    trainer.engine.close()
    with pytest.raises(RunFolderError, match="holds an earlier run already") as refused:
        life(rank, folder / "out", **given)
    return [min(resumed), differences(whole, resumed), str(refused.value)]


@pytest.mark.slow
def test_all_die_and_go_on_with_one_journal(tmp_path):
    first, second = on_ranks(2, dies, tmp_path, folder=tmp_path, seconds=300)
    assert first == second
    assert first[:2] == [7, []]
    told = [read_journal(tmp_path / name / "journal.jsonl") for name in ("whole-run", "run")]
    moves = [[(r["step"], r["target"]) for r in one if r["type"] == "move"] for one in told]
    assert moves[0] == moves[1]
    assert len(moves[0]) == 4
    assert [r["step"] for r in told[1] if r["type"] == "resume"] == [5]


def fails(rank, folder):
    """The growth fails on the last rank; the run goes on from its last checkpoint."""
    import stagegraph.actions.actor as module

    whole, _ = life(rank, folder / "whole")
    grow, told = module.grow, []

    def failing(*args, **kwargs):
        evidence = grow(*args, **kwargs)
        if rank:
            raise torch.OutOfMemoryError("no memory for the new block")
        return evidence

    made = []

    class Keeps(DieAt):
        def on_train_begin(self, args, state, control, model=None, **_):
            made.append(model)

    module.grow = failing
    try:
        life(rank, folder / "out", callbacks=[Keeps(-1)])
    except sg.ActionError as error:
        told.append(str(error))
    finally:
        module.grow = grow
    blocks = len(made[0].transformer.h)
    resumed, _ = life(rank, folder / "out", resume=True)
    return told, blocks, min(resumed), differences(whole, resumed)


@pytest.mark.slow
def test_a_growth_that_fails_on_one_rank_is_taken_back_on_all(tmp_path):
    first, second = on_ranks(2, fails, tmp_path, folder=tmp_path, seconds=300)
    assert first == second
    told, blocks, begins, differ = first
    assert told == ["main:grow.actions[0]: rank 1: OutOfMemoryError: no memory for the new block"]
    assert (blocks, begins, differ) == (2, 5, [])


def best(rank, folder, chosen):
    held = []

    def metrics(_):
        return {"chosen": float(held[0] and held[0][0].state.global_step == chosen)}

    class Holds(DieAt):
        def on_train_begin(self, args, state, control, **_):
            held.append([prints.trainer])

    prints = Prints()
    for one in (AcceleratorState, GradientState, PartialState):
        one._reset_state()
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29513"}
    warnings.simplefilter("ignore")
    trainer = prints.trainer = small.trainer(
        folder, compute_metrics=metrics, callbacks=[Holds(-1)], save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, max_steps=12,
        metric_for_best_model="chosen", greater_is_better=True, save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    blocks = len(trainer.model.transformer.h)
    weights = {name: p.detach().tolist() for name, p in trainer.model.named_parameters()}
    # The wrapper reduces what there is: it can be trained on.
    trainer.model_wrapped.train()
    inputs = {"input_ids": small.Items(rank).words[:4], "labels": small.Items(rank).words[:4]}
    trainer.model_wrapped(**inputs).loss.backward()
    gradient = trainer.model.transformer.h[-1].attn.c_attn.weight.grad.tolist()
    return blocks, weights, gradient, trainer.state.best_model_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "blocks"), [(4, 2), (8, 3)], ids=["before", "after"])
def test_the_best_model_is_that_on_all(tmp_path, chosen, blocks):
    first, second = on_ranks(2, best, tmp_path, chosen, folder=tmp_path, seconds=200)
    assert first == second
    assert first[0] == blocks
    checkpoint = tmp_path / f"checkpoint-{chosen}"
    assert first[3] == str(checkpoint)
    assert {one.name for one in checkpoint.glob("stagegraph*")} == {"stagegraph", "stagegraph_1"}
    saved = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert all(p.tolist() == first[1][name] for name, p in saved.named_parameters())


def cannot_write(rank, folder):
    """One rank finds its part's place taken by a file."""
    if rank == 0:
        (folder / "checkpoint-2").mkdir(parents=True)
        (folder / "checkpoint-2/stagegraph_1").write_text("in the way")
    torch.distributed.barrier()
    life(rank, folder, save_steps=2)


@pytest.mark.slow
def test_all_are_told_where_one_cannot_write_its_part(tmp_path):
    told = on_ranks(2, cannot_write, tmp_path, folder=tmp_path, seconds=200, failing=True)
    assert told[1].startswith("RunFolderError: ")
    assert told[0].startswith("RankError: rank 1: RunFolderError: ")
    assert not (tmp_path / "checkpoint-2/trainer_state.json").exists()


# Checkpoints of several processes, without any


def whole_one(folder, ranks):
    """The files of a checkpoint that make it whole."""
    folder.mkdir(parents=True)
    for rank in range(ranks):
        part = folder / ("stagegraph" if rank == 0 else f"stagegraph_{rank}")
        part.mkdir()
        (part / "contents.json").write_text("{}")
        if ranks > 1:
            torch.save({}, folder / f"rng_state_{rank}.pth")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    return folder


@pytest.mark.parametrize("lost", ["stagegraph_1/contents.json", "rng_state_1.pth"])
def test_a_checkpoint_is_whole_with_the_parts_of_all(tmp_path, lost):
    for number in (2, 10):
        whole_one(tmp_path / f"checkpoint-{number}", 2)
    assert kept.newest_whole(tmp_path).name == "checkpoint-10"
    (tmp_path / "checkpoint-10" / lost).unlink()
    with pytest.warns(UserWarning, match="checkpoint-10 had not been saved to the end"):
        assert kept.newest_whole(tmp_path).name == "checkpoint-2"


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path):
    checkpoint = whole_one(tmp_path / "checkpoint-2", 3)
    with pytest.raises(SnapshotError, match="was saved by 3 processes, and now there are 1: each"):
        kept.take(checkpoint)


def test_a_checkpoint_is_none_while_another_is_written_over_it(tmp_path):
    checkpoint = whole_one(tmp_path / "checkpoint-2", 3)
    kept.keep(checkpoint, {"new": 1})
    assert sorted(one.name for one in checkpoint.glob("stagegraph*")) == ["stagegraph"]
    assert kept.take(checkpoint) == {"new": 1}
    with pytest.raises(RunFolderError, match="none of checkpoint-2 was saved to its end"):
        kept.newest_whole(tmp_path)


def test_what_fails_on_one_rank_has_failed_on_all():
    def call(group):
        def fails():
            if group.rank == 1:
                raise SnapshotError("damaged")
            return group.rank

        return agreed(group, fails)

    first, second, third = on_threads(3, call)
    assert isinstance(second, SnapshotError)
    assert [str(one) for one in (first, third)] == ["rank 1: SnapshotError: damaged"] * 2
    assert isinstance(first, RankError)
    assert on_threads(2, lambda group: agreed(group, lambda: group.rank)) == [0, 1]
