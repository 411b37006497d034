"""Real text in pieces, each with a number for how hard it is to predict.

The text is the source code of Python's own ``asyncio`` package. A piece is as hard as it is long
when compressed: repetitive code and indentation are easy, dense expressions and prose are hard.
"""

from __future__ import annotations

import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from examples.grow_gpt import data

CONTEXT = 32


class Pieces(Dataset[tuple[Tensor, Tensor]]):
    """Pieces of a text, one after the other: inputs, and the same shifted by one byte."""

    def __init__(self, text: Tensor) -> None:
        self._text = text
        self.hardness = [self._compressed(index) for index in range(len(self))]

    def __len__(self) -> int:
        return (len(self._text) - 1) // CONTEXT

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        piece = self._text[index * CONTEXT : (index + 1) * CONTEXT + 1].long()
        return piece[:-1], piece[1:]

    def _compressed(self, index: int) -> float:
        around = self._text[max(0, index - 3) * CONTEXT : (index + 4) * CONTEXT]
        return len(zlib.compress(bytes(around.tolist()))) / len(around)


@dataclass(frozen=True)
class Text:
    """Pieces to train on, and a batch that is never trained on."""

    train: Pieces
    held_out: tuple[Tensor, Tensor]


def load() -> Text:
    """Read the text."""
    text = data.load(Path(sysconfig.get_path("stdlib")) / "asyncio")
    pieces = Pieces(text.validation[: 32 * CONTEXT + 1])
    held_out = default_collate([pieces[index] for index in range(len(pieces))])
    return Text(Pieces(text.train[: 1500 * CONTEXT]), (held_out[0], held_out[1]))
