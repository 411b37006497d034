"""A residual classifier of images, plain PyTorch; it knows nothing of growth or of ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block with one hidden layer, and dropout that draws anew on each rank."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x_BC: Tensor) -> Tensor:
        return x_BC + self.dropout(self.down(torch.relu(self.up(self.norm(x_BC)))))


class Classifier(nn.Module):
    """A stem, a stack of blocks, a head; images (B, 1, 8, 8) to logits (B, 10)."""

    def __init__(self, blocks: int = 2, width: int = 48, hidden: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x_BC = self.stem(images.flatten(1))
        for block in self.blocks:
            x_BC = block(x_BC)
        return self.head(x_BC)
