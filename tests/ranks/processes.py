"""Processes: run a function on several ranks, in one process group, and collect what it returns.

The processes are forked off a server that has loaded already what they need, so that they start at
once.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["CONTEXT", "Died", "on_ranks"]

CONTEXT = multiprocessing.get_context("forkserver")
"""How processes are started; tests that do are of one ``xdist_group``, and share the server."""

CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "stagegraph.session.engine",
        "stagegraph.actions.actor",
        "torch._dynamo",  # optimizers and DistributedDataParallel ask for it, and it is large
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
    ]
)


class Died(AssertionError):
    """A rank has failed, hung or been killed; what it said is in the message."""


def on_ranks(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    folder: Path,
    seconds: float = 60,
    failing: bool = False,
    backend: str = "gloo",
) -> list[Any]:
    """Call a function on each of several ranks.

    Args:
        size: How many ranks.
        function: At the top of a module; called as ``function(rank, *args)``.
        args: What it is given besides.
        folder: Where the ranks find each other; a new one each time.
        seconds: After so long a rank is taken to hang.
        failing: Whether ranks may raise: their errors are then what they return.
        backend: Of the process group; with ``"nccl"`` each rank has a CUDA device of its number.

    Returns:
        What each rank has returned.
    """
    answers = CONTEXT.Queue()
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    processes = [
        CONTEXT.Process(
            target=_run, args=(rank, size, str(meeting), answers, function, args, backend)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found: dict[int, tuple[bool, Any]] = {}
    ends = time.monotonic() + seconds
    try:
        while len(found) < size:
            try:
                rank, held, value = answers.get(timeout=0.2)
                found[rank] = (held, value)
            except queue.Empty:
                gone = [p for r, p in enumerate(processes) if r not in found and not p.is_alive()]
                if time.monotonic() > ends or (gone and time.monotonic() > ends - seconds + 5):
                    break
    finally:
        for process in processes:
            process.join(timeout=1)
            if process.is_alive():
                process.kill()
                process.join()
    missing = [rank for rank in range(size) if rank not in found]
    if missing:
        told = "\n".join(str(value) for held, value in found.values() if not held)
        raise Died(f"ranks {missing} hang or were killed\n{told}")
    if not failing:
        told = "\n".join(f"rank {r}: {v}" for r, (held, v) in sorted(found.items()) if not held)
        if told:
            raise Died(told)
    return [found[rank][1] for rank in range(size)]


def _run(
    rank: int,
    size: int,
    meeting: str,
    answers: Any,
    function: Callable[..., Any],
    args: Any,
    backend: str,
) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(size)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend,
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=30),
    )
    try:
        answers.put((rank, True, function(rank, *args)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
        answers.put((rank, False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
    finally:
        answers.close()
        answers.join_thread()
        dist.destroy_process_group()
