"""The Trainer in several processes: one decision, one checkpoint, and resume bit for bit on each."""

import contextlib
import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.nn.parallel import DistributedDataParallel

from tests.ranks.processes import on_ranks
from tests.trainers.huggingface import small
from tests.trainers.huggingface.prints import Prints, differences
from tests.trainers.huggingface.test_resuming import EVERYTHING, DieAt, Dies


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
    torch.manual_seed(100 + rank), random.seed(100 + rank), np.random.seed(100 + rank)
    trainer.moves = small.Moves
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
