"""Real text that is wherever Python is: the source code of its standard library.

Files are split into training and validation as a whole, and every batch is a pure function of
seed and step, so that an interrupted run sees the same batches again.
"""

from __future__ import annotations

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"}
"""Folders to leave out: tests are as large as all the rest, and packages are not Python's own."""

SPLIT_SEED = 0
"""The split is the same for all runs, so that their validation losses can be compared."""


@dataclass(frozen=True)
class Text:
    """The corpus as two long rows of bytes.

    Attributes:
        train: What is trained on.
        validation: Other files, one in twenty.
    """

    train: Tensor
    validation: Tensor

    def batch(self, seed: int, step: int, *, size: int, context: int) -> tuple[Tensor, Tensor]:
        """The training batch of one step: inputs, and the same shifted by one byte."""
        starts = random.Random(f"train {seed} {step}").choices(
            range(len(self.train) - context), k=size
        )
        return _windows(self.train, starts, context)

    def validation_batch(self, *, size: int, context: int) -> tuple[Tensor, Tensor]:
        """A fixed batch of the validation files."""
        starts = random.Random("validation").choices(range(len(self.validation) - context), k=size)
        return _windows(self.validation, starts, context)


def load(folder: Path | None = None) -> Text:
    """Read all Python files below a folder, the standard library's by default."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    files = sorted(
        file
        for file in folder.rglob("*.py")
        if SKIPPED.isdisjoint(file.relative_to(folder).parts[:-1])
    )
    random.Random(SPLIT_SEED).shuffle(files)
    share = max(1, len(files) // 20)
    return Text(train=_read(files[share:]), validation=_read(files[:share]))


def _read(files: list[Path]) -> Tensor:
    text = bytearray().join(file.read_bytes() + b"\n" for file in files)
    return torch.frombuffer(text, dtype=torch.uint8)


def _windows(text: Tensor, starts: list[int], context: int) -> tuple[Tensor, Tensor]:
    rows = torch.stack([text[start : start + context + 1] for start in starts]).long()
    return rows[:, :-1], rows[:, 1:]
