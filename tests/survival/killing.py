"""Kill a run at chosen instants and see whether what is resumed ends as the uninterrupted run.

``python -m tests.survival.killing FOLDER COUNT SEED`` imports torch once and forks a child for each
life of each run. An instant is the n-th call of a Python function in a phase of the run: what a
debugger sees, so that it lies between any two calls, and inside of whatever calls. Prints one JSON
line per run.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path

import torch

from stagegraph.actions import growing
from stagegraph.engine.core import Core
from stagegraph.runs.store import CheckpointStore
from stagegraph.session.recording import Recording
from tests.survival.growing_run import make, train

PHASES = {
    "step": Core.step.__code__,
    "growth": growing.grow.__code__,
    "checkpoint": CheckpointStore.save.__code__,
    "boundary": Core.carry_out.__code__,
    "resume": Recording.find.__code__,
}
"""A phase is the time in a function; ``warmup`` is every step in that stage, ``any`` all time."""


class Instants:
    """Counts calls by phase, and kills the process at one of them.

    Args:
        phase: In which phase to die; ``None``: never.
        at: At which of its calls.
    """

    def __init__(self, phase=None, at=0):
        self.counts = dict.fromkeys((*PHASES, "warmup", "any"), 0)
        self._phase, self._at = phase, at
        self._codes = {code: name for name, code in PHASES.items()}
        self._inside = threading.local()

    def watch(self):
        threading.settrace(self._look)
        sys.settrace(self._look)

    def _look(self, frame, _event, _argument):
        """A function is called: count it, and ask to be told when a phase's function is left."""
        here, counts = self._inside, self.counts
        try:
            inside = here.phases
        except AttributeError:  # the thread's first call
            inside = here.phases = []
            here.warm = False
        name = self._codes.get(frame.f_code)
        if name is not None:
            inside.append(name)
            if name == "step":
                here.warm = frame.f_locals["self"].stages.get("main") == "warmup"
        counts["any"] += 1
        if inside:
            for phase in inside:
                counts[phase] += 1
            if here.warm:
                counts["warmup"] += 1
        if self._phase is not None and counts[self._phase] >= self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name is None:
            return None
        frame.f_trace_lines = False
        return self._leave

    def _leave(self, _frame, event, _argument):
        if event == "return":
            self._inside.phases.pop()
        return self._leave


def live(folder, instants=None):
    """One life of a run, in a forked child.

    Returns:
        What it printed, and the signal that it died of or 0.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as out:
            try:
                if instants is not None:
                    instants.watch()
                result = {"digest": train(folder)}
                sys.settrace(None)
                result["counts"] = None if instants is None else instants.counts
            except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
                result = {"error": traceback.format_exc()}
            json.dump(result, out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {}, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def plans(counts, number, seed):
    """So many lists of instants to die at: one each, or several in a row."""
    chosen = random.Random(seed)
    shares = ("any", "step", "warmup", "growth", "checkpoint", "boundary")
    for index in range(number):
        phase = shares[index % len(shares)]
        # Threads call more or less often from run to run: not at the very last calls.
        deaths = [(phase, chosen.randint(1, int(0.9 * counts[phase])))]
        while index % 4 == 3 and len(deaths) < 3:
            again = chosen.choice(["resume", "any", "checkpoint"])
            # A life that goes on is shorter than a whole one: die early in it.
            most = 300 if again == "resume" else max(1, counts[again] // 3)
            deaths.append((again, chosen.randint(1, most)))
        yield deaths


def main(folder, number, seed):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.fsync = lambda _: None  # what a process wrote outlives it; only a power cut needs more
    make(folder / "never run")[-1].close()  # imports what each life would import again
    whole, _ = live(folder / "whole", Instants())
    if "error" in whole:
        print(json.dumps(whole), flush=True)
        return
    again, _ = live(folder / "again")
    print(json.dumps({"whole": whole, "again": again}), flush=True)
    for index, deaths in enumerate(plans(whole["counts"], number, seed)):
        place, died = folder / f"run-{index}", 0
        for phase, at in deaths:
            _, killed = live(place, Instants(phase, at))
            died += killed == signal.SIGKILL
        end, _ = live(place)
        same = end.get("digest") == whole["digest"]
        print(json.dumps({"deaths": deaths, "died": died, "same": same, **end}), flush=True)
        if same:
            with contextlib.suppress(OSError):
                shutil.rmtree(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
