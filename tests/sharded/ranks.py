"""Ranks for tests: processes of one group that run function after function.

To start them takes seconds, so they are started once. A function that hangs, or raises on some
ranks alone, ends them all; the next test gets new ones.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.ranks.processes import CONTEXT

TIMEOUT = 60.0
"""Seconds for one function, if nothing else is said."""

START = 180.0
"""Seconds to start them, on a machine that is busy."""

GRACE = 10.0
"""Seconds for the others, once one has failed."""


class Checks:
    """The functions of a module, to be called on ranks; it is imported there alone."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return _Call(self._module, name)


@dataclass(frozen=True)
class _Call:
    module: str
    name: str

    def __call__(self, *args):
        return getattr(importlib.import_module(self.module), self.name)(*args)


class RankFailed(AssertionError):
    """What ranks said when they failed."""


class Ranks:
    """A group of processes.

    Args:
        size: How many.
        timeout: Seconds for one function.
        backend: Of the group; with ``"nccl"`` each rank has a CUDA device of its number.
    """

    def __init__(self, size, timeout=TIMEOUT, backend="gloo"):
        self.size, self.timeout, self.backend = size, timeout, backend
        self._processes, self._pipes, self._folder = [], [], None

    def _start(self):
        self._folder = tempfile.TemporaryDirectory()
        address = (Path(self._folder.name) / "rendezvous").as_uri()
        for rank in range(self.size):
            here, there = CONTEXT.Pipe()
            process = CONTEXT.Process(
                target=_serve, args=(there, address, rank, self.size, self.backend)
            )
            process.daemon = True
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)
        self._answers(START)

    def run(self, function, *args):
        """Call a function of a test module on every rank; what each returns, in order."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = self._answers(self.timeout)
        failed = [f"rank {rank}: {said}" for rank, (well, said) in enumerate(answers) if not well]
        if failed:
            if len(failed) < self.size or any("hung" in said or "died" in said for said in failed):
                self.close()  # else all are where they were, and go on
            raise RankFailed("\n".join(failed))
        return [said for _, said in answers]

    def _answers(self, seconds):
        until, answers = time.monotonic() + seconds, [None] * self.size
        while None in answers:
            for rank, pipe in enumerate(self._pipes):
                if answers[rank] is None and pipe.poll(0.01):
                    try:
                        answers[rank] = pipe.recv()
                    except EOFError:
                        answers[rank] = (False, "died")
            failed = any(one is not None and not one[0] for one in answers)
            until = min(until, time.monotonic() + GRACE) if failed else until
            if time.monotonic() > until:
                return [one or (False, "hung") for one in answers]
        return answers

    def close(self):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _serve(pipe, address, rank, size, backend):
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    if backend == "nccl":
        torch.cuda.set_device(rank)
        torch.use_deterministic_algorithms(True, warn_only=True)
    distributed.init_process_group(
        backend, init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=START)
    )
    pipe.send((True, "ready"))
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*args)))
        except BaseException:  # noqa: BLE001 - the test is told
            pipe.send((False, traceback.format_exc()))
