"""Real text that is wherever Python is: the docstrings of its standard library, by package.

The task is to tell from a docstring which package it is of; the package's own name is taken out of
the text. Files are split into training and held out as a whole.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest")
WORDS, LENGTH = 6, 24
"""The fewest words of a docstring, and the most tokens that are looked at."""


@dataclass(frozen=True)
class Texts:
    """Docstrings, and which package each is of.

    Attributes:
        docstrings: The texts.
        packages: Per text, its package's place in ``PACKAGES``.
    """

    docstrings: list[str]
    packages: list[int]


def load(folder: Path | None = None) -> tuple[Texts, Texts]:
    """The docstrings of files to train on, and of one file in five that is held out."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    train, held_out = Texts([], []), Texts([], [])
    for number, package in enumerate(PACKAGES):
        files = sorted((folder / package).rglob("*.py"))
        files = [file for file in files if not {"test", "tests"} & set(file.parts)]
        random.Random(package).shuffle(files)
        for place, file in enumerate(files):
            texts = held_out if place % 5 == 0 else train
            found = _docstrings(file, package)
            texts.docstrings.extend(found)
            texts.packages.extend([number] * len(found))
    return train, held_out


def _docstrings(file: Path, package: str) -> list[str]:
    tree = ast.parse(file.read_text("utf-8", errors="replace"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    named = re.compile(re.escape(package), re.IGNORECASE)
    texts = [" ".join(named.sub(" ", text).split()) for text in texts]
    return [text for text in texts if len(text.split()) >= WORDS]


class Encoded(Dataset[dict[str, Any]]):
    """Texts as the model reads them."""

    def __init__(self, texts: Texts, tokenizer: Any, *, limit: int | None = None) -> None:
        order = list(range(len(texts.docstrings)))
        random.Random(0).shuffle(order)
        chosen = order[:limit]
        self._encoded = tokenizer(
            [texts.docstrings[place] for place in chosen],
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        self._labels = torch.tensor([texts.packages[place] for place in chosen])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: values[index] for name, values in self._encoded.items()}
        return {**item, "labels": self._labels[index]}
