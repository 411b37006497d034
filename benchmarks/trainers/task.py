"""What all hosts train: the same small model, batches and graph of ten guards that wait."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stagegraph as sg
from benchmarks.trainers.turns import Turn

BATCH, BATCHES, FEATURES, CLASSES = 16, 200, 32, 10
EVERY = 100
"""Updates between two evaluations, in the hosts and in the graph."""

LR = 0.01


def graph() -> sg.StageGraph:
    """Ten ways out, none of them open: by time in several units, metrics, plateaus, budget."""
    return sg.load(Path(__file__).with_name("ten_guards.yaml"))


class Net(nn.Module):
    """A few layers; gives the loss itself, as models for the Hugging Face Trainer do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Items(Dataset[dict[str, Tensor]]):
    """Points and classes."""

    def __init__(self, batches: int = BATCHES) -> None:
        made = torch.Generator().manual_seed(batches)
        self._x = torch.randn(batches * BATCH, FEATURES, generator=made)
        self._labels = torch.randint(CLASSES, (batches * BATCH,), generator=made)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self._x[index], "labels": self._labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch at once, so that the loader's own time hides less."""
        return {"x": self._x[indices], "labels": self._labels[indices]}


class Collate:
    """Batches are made already; a turn may change with each."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self._turn.fetched()
        return batch


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def loader(turn: Turn) -> DataLoader[dict[str, Tensor]]:
    """What a host trains on, if it does not make its own loader."""
    return DataLoader(Items(), BATCH, shuffle=True, collate_fn=Collate(turn))


def held_out() -> DataLoader[dict[str, Tensor]]:
    """What is evaluated."""
    return DataLoader(Items(2), BATCH, collate_fn=_as_it_is)
