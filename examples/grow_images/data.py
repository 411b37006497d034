"""Real images: the handwritten digits that come with scikit-learn, or Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package ``dataset-fashion-mnist`` puts its files."""


@dataclass(frozen=True)
class Images:
    """Images of ten classes, shapes (N, 1, H, W) from 0 to 1, and their classes (N,).

    Attributes:
        name: What they show.
        train: What is trained on.
        labels: Their classes.
        held_out: Images that are never trained on.
        held_out_labels: Their classes.
    """

    name: str
    train: Tensor
    labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def load(name: str = "digits") -> Images:
    """Read the images: ``digits`` (1,797 of 8 x 8) or ``fashion`` (70,000 of 28 x 28)."""
    if name == "fashion":
        return _fashion()
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images.tolist()).unsqueeze(1) / 16.0
    labels = torch.tensor(found.target.tolist())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Images(name, images[360:], labels[360:], images[:360], labels[:360])


def _fashion() -> Images:
    parts = [_idx(f"{part}-{what}.gz") for part in ("train", "t10k") for what in _FILES]
    train, labels, held_out, held_out_labels = parts
    return Images(
        "fashion",
        train.unsqueeze(1) / 255.0,
        labels.long(),
        held_out[:2000].unsqueeze(1) / 255.0,
        held_out_labels[:2000].long(),
    )


_FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx(name: str) -> Tensor:
    """An array of bytes in the IDX format: its number of axes, their sizes, then the bytes."""
    path = FASHION / name
    if not path.exists():
        raise SystemExit(
            f"{path} is not there; install the Debian package dataset-fashion-mnist, or train on "
            "the digits"
        )
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    sizes = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    return torch.frombuffer(bytearray(content[4 + 4 * axes :]), dtype=torch.uint8).view(sizes)
