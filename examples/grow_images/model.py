"""A small convolutional residual network with a dictionary of heads, in plain PyTorch.

Shapes: B batch, C channels, H and W height and width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """One residual block: norm, a convolution up, one down, added on."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.up = nn.Conv2d(width, hidden, 3, padding=1)
        self.down = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.down(torch.relu(self.up(self.norm(x_BCHW))))


class Net(nn.Module):
    """Classifies images with the head that ``active_head`` names.

    Args:
        depth: Number of blocks.
        width: Channels between blocks.
        hidden: Channels inside of blocks.
    """

    def __init__(self, depth: int = 2, width: int = 16, hidden: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.norm = nn.GroupNorm(1, width)
        self.heads = nn.ModuleDict({"upright": nn.Linear(width, 10)})
        self.active_head = "upright"

    def features(self, image_B1HW: Tensor) -> Tensor:
        """What the heads see, shape (B, C): the mean over all places."""
        x_BCHW = self.stem(image_B1HW)
        for block in self.blocks:
            x_BCHW = block(x_BCHW)
        return self.norm(x_BCHW).mean(dim=(2, 3))

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        logits_BK: Tensor = self.heads[self.active_head](self.features(image_B1HW))
        return logits_BK
