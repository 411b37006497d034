"""A small byte-level GPT in plain PyTorch.

Shapes: B batch, T time (bytes of context), D width, H heads, V vocabulary (256 bytes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHTd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed_BHTd.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    """One pre-norm transformer block: attention, then a two-layer network, each added on."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class GPT(nn.Module):
    """Predicts the next byte from the bytes before it.

    Args:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads per block.
        context: Most bytes it can look back on.
    """

    def __init__(
        self, *, layers: int = 2, width: int = 64, heads: int = 4, context: int = 64
    ) -> None:
        super().__init__()
        self.bytes = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        for embedding in (self.bytes, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, text_BT: Tensor) -> Tensor:
        """Bytes in, logits of the next byte out, shape (B, T, V)."""
        place_T = torch.arange(text_BT.shape[1], device=text_BT.device)
        x_BTD = self.bytes(text_BT) + self.places(place_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV
