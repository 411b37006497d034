"""The network: residual blocks over the pixels of an image, plain PyTorch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

PIXELS, CLASSES = 64, 10


class Block(nn.Module):
    """Adds to its input what two layers make of it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """The same shape."""
        added_BD: Tensor = self.down(F.gelu(self.up(self.norm(x_BD))))
        return x_BD + added_BD


class Net(nn.Module):
    """A class for each image."""

    def __init__(self, *, blocks: int = 1, width: int = 24, hidden: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, width)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, CLASSES)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x_BD = self.first(image_B1HW.flatten(1))
        for block in self.blocks:
            x_BD = block(x_BD)
        logits: Tensor = self.last(self.norm(x_BD))
        return logits
