"""A small vision transformer as a LightningModule, which knows nothing of stages.

Shapes: B batch, T patches, D width, K classes.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, CLASSES, PATCH = 32, 2, 10, 2


class Block(nn.Module):
    """Attention, then a perceptron, each after a norm and added on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attend(self.norm1(x_BTD))
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))

    def attend(self, x_BTD: Tensor) -> Tensor:
        """Every patch looks at every other."""
        batch, patches, _ = x_BTD.shape
        parts = self.qkv(x_BTD).view(batch, patches, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        out_BTD: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, patches, WIDTH))
        return out_BTD


class Digits(pl.LightningModule):
    """Tells digits.

    Args:
        depth: Number of blocks.
    """

    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.places = nn.Parameter(torch.zeros(1, 16, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x_BTD = self.patches(image_B1HW).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BK: Tensor = self.head(self.norm(x_BTD).mean(dim=1))
        return logits_BK

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """What is held out."""
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_accuracy", (logits.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        """AdamW, warmed up and let down to nothing over the Trainer's steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=4e-3, total_steps=self.trainer.max_steps, pct_start=0.1
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
