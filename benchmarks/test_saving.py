"""What saving costs beside copying the state to host memory, and resuming beside reading it.

Prints times and their limits, and asserts nothing about time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

import stagegraph as sg
from benchmarks.interleaved import compare, table
from benchmarks.test_growth import cold, seconds

ROUNDS = 7
MB = 2**20

GRAPH = sg.load("""
stagegraph: 1
name: long
metrics: {loss: {goal: minimize}}
initial: train
stages:
  train: {kind: train, duration: 100000000 steps, next: done}
  done: {kind: final}
""")


class Trained:
    """25M parameters with AdamW's state, and an engine that saves when it is told to."""

    def __init__(self, folder: Path, *, background: bool = True) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
        self.model = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.x = torch.randn(1, 8, 512)
        self.engine = sg.Engine(
            GRAPH,
            model=self.model,
            optimizer=self.optimizer,
            run=folder,
            checkpoints=sg.Checkpoints(every="1 step", keep=2, background=background),
        )

    @property
    def saving(self) -> Any:
        return self.engine._record.saving

    def update(self) -> None:
        self.model(self.x).pow(2).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = [p.detach() for p in self.model.parameters()]
        for entry in self.optimizer.state.values():
            found += [value for value in entry.values() if isinstance(value, torch.Tensor)]
        return found

    def copy(self) -> list[torch.Tensor]:
        return [tensor.to("cpu", copy=True) for tensor in self.tensors()]


@contextmanager
def trained(folder: Path, **options: Any) -> Iterator[Trained]:
    run = Trained(folder, **options)
    try:
        run.engine.resume()
        run.update()
        run.engine.step()
        run.saving.settle()
        yield run
    finally:
        run.engine.close()


def stalls(run: Trained, call: Callable[[], object]) -> tuple[float, float, float]:
    """Medians: seconds of a plain copy, of a save as the loop feels it, and of their ratio."""
    taken = []
    for number in range(ROUNDS):
        turns = [("copy", run.copy), ("save", call)]
        times = {}
        for name, turn in turns if number % 2 else reversed(turns):
            cold("cpu")
            times[name] = seconds(turn)
            run.saving.settle()
        taken.append((times["copy"], times["save"], times["save"] / times["copy"]))
    copying, saving, ratio = (statistics.median(column) for column in zip(*taken, strict=True))
    return copying, saving, ratio


def test_a_save_beside_a_copy(show, tmp_path):
    rows = []
    with trained(tmp_path / "a") as run:
        state = sum(tensor.nbytes for tensor in run.tensors())
        copying, stall, ratio = stalls(run, run.engine.step)
        newest = run.saving.store.generations()[-1]
        writing = []
        for _ in range(3):
            run.engine.step()
            writing.append(seconds(run.saving.settle))
    with trained(tmp_path / "b", background=False) as run:
        _, foreground, times = stalls(run, run.engine.step)
    rows += [
        f"(h) a checkpoint of 25M parameters with AdamW, {state / MB:.0f} MB of state",
        f"  copying the tensors to host memory, alone     {copying:>10.3f} s",
        f"  the loop stands still, in the background      {stall:>10.3f} s{ratio:>8.2f} x"
        "   limit 1.2 x",
        f"  the loop stands still, in the foreground      {foreground:>10.3f} s{times:>8.2f} x",
        f"  writing, after the loop goes on               {statistics.median(writing):>10.3f} s",
        f"  bytes written                                 {newest.size / MB:>10.1f} MB"
        f"{newest.size / state:>7.4f} x",
    ]
    show("\n".join(rows))


def test_steps_while_a_checkpoint_is_written(show, tmp_path):
    with trained(tmp_path / "a") as run:
        ratios = []
        for _ in range(ROUNDS):
            alone = statistics.median(seconds(run.update) for _ in range(5))
            run.engine.step()
            during = []
            while run.saving.is_writing:
                during.append(seconds(run.update))
            ratios.append(statistics.median(during) / alone)
            run.saving.settle()
    show(
        "(i) an update while a checkpoint is written, beside one while none is\n"
        f"  median of {ROUNDS}{statistics.median(ratios):>14.2f} x"
    )


def test_resuming_beside_reading(show, tmp_path):
    with trained(tmp_path / "a") as run:
        newest = run.saving.store.generations()[-1]
    files = [newest.path / name for name in newest.names]
    taken = []
    for _ in range(ROUNDS):
        run = Trained(tmp_path / "a")
        cold("cpu")
        begin = perf_counter()
        for file in files:
            file.read_bytes()
        reading = perf_counter() - begin
        cold("cpu")
        resuming = seconds(run.engine.resume)
        run.engine.close()
        taken.append((reading, resuming, resuming / reading))
    reading, resuming, ratio = (statistics.median(column) for column in zip(*taken, strict=True))
    show(
        f"(j) resuming from {newest.size / MB:.0f} MB, every byte verified\n"
        f"  reading the bytes alone{reading:>12.3f} s\n"
        f"  Engine.resume()        {resuming:>12.3f} s{ratio:>8.2f} x"
    )


def test_an_update_with_a_folder(show, tmp_path):
    variants = {}
    for name, folder in (("without a folder", None), ("with a folder and a cadence", tmp_path)):
        options: dict[str, Any] = {} if folder is None else {"run": folder / "run"}
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for every in ("1000000 steps", "60 min") if folder else (None,):
            if folder is not None:
                options = {"run": folder / every, "checkpoints": sg.Checkpoints(every=every)}
            engine = sg.Engine(GRAPH, model=model, optimizer=optimizer, **options)
            engine.resume()
            variants[f"{name} ({every})" if every else name] = engine.step
            model = nn.Linear(2, 2)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    show(table("(k) engine.step() at an idle update", compare(variants)))
