"""Real images: the 1,797 handwritten digits of 8 x 8 that come with scikit-learn."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

HELD_OUT = 360


def load() -> tuple[TensorDataset, TensorDataset]:
    """Digits to learn from, and digits that are never learnt from.

    Each is images, shape (1, 8, 8), from 0 to 1, and their classes.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images.tolist()).unsqueeze(1) / 16.0
    labels = torch.tensor(found.target.tolist())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return (
        TensorDataset(images[HELD_OUT:], labels[HELD_OUT:]),
        TensorDataset(images[:HELD_OUT], labels[:HELD_OUT]),
    )
