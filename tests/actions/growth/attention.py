"""Small attention models that differ in how heads are packed, scaled, turned and masked."""

from __future__ import annotations

import torch
from pydantic import TypeAdapter
from torch import nn

from stagegraph.schema.actions import Action
from stagegraph.schema.spaces import Spaces

_ACTION = TypeAdapter(Action)


def act(type_, **fields):
    """An action from its fields."""
    return _ACTION.validate_python({"type": type_, **fields})


class Reader(nn.Module):
    """Learned positions, a causal mask and their numbers in buffers, a head with a bias."""

    def __init__(self, *, float_mask=False, bias=True, persistent=False, extra=None):
        super().__init__()
        self.emb = nn.Embedding(11, 6, padding_idx=2)
        self.pos = nn.Embedding(7, 6)
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 11, bias=bias)
        mask = torch.ones(7, 7, dtype=torch.bool).tril().view(1, 1, 7, 7)
        if float_mask:
            mask = torch.zeros(1, 1, 7, 7).masked_fill(~mask, -1e9)
        self.register_buffer("mask", mask, persistent=persistent)
        self.register_buffer("ids", torch.arange(7).view(1, 7), persistent=persistent)
        if extra is not None:
            self.register_buffer("extra", extra)
        self.longest, self.vocab_size = 7, 11

    def forward(self, x):
        t = x.shape[1]
        assert t <= self.longest
        h = self.emb(x) + self.pos(self.ids[:, :t])
        seen = self.mask[0, 0, :t, :t]
        seen = seen if seen.dtype == torch.bool else seen == 0
        share = seen / seen.sum(-1, keepdim=True)
        return self.head(torch.relu(self.mix(share.to(h.dtype) @ h)))


READER = Spaces(
    tensors={
        "emb.weight": "vocab _",
        "head.weight": "vocab _",
        "head.bias": "vocab",
        "pos.weight": "context _",
        "mask": "_ _ context:out context:out",
        "ids": "_ context:out",
    },
    sizes={"longest": "context"},
)


class Rotary(nn.Module):
    """Rotary attention, its queries, keys and values in one weight; halves or neighbours turn."""

    def __init__(self, *, neighbours=False, scaling="size", d=6, heads=2, half=3):
        super().__init__()
        self.qkv, self.o = nn.Linear(d, 3 * heads * 2 * half), nn.Linear(heads * 2 * half, d)
        self.heads, self.half, self.neighbours = heads, half, neighbours
        freq = 1.0 / (10000.0 ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)))
        self.register_buffer("inv_freq", freq, persistent=False)
        if scaling == "kept":
            self.scaling = (2 * half) ** -0.5
        elif scaling == "constant":
            self.scaling = 0.3
        elif scaling == "divisor":
            self.norm_factor = float(2 * half) ** 0.5

    def turn(self, x):
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * self.inv_freq
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        pair = (-1, 2) if self.neighbours else (2, -1)
        dim = -1 if self.neighbours else -2
        a, b = x.unflatten(-1, pair).unbind(dim)
        cos, sin = cos[:, None], sin[:, None]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim).flatten(-2)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).unbind(2)
        q, k = self.turn(q), self.turn(k)
        scores = torch.einsum("bthd,bshd->bhts", q, k)
        if "scaling" in vars(self):
            scores = scores * self.scaling
        elif "norm_factor" in vars(self):
            scores = scores / self.norm_factor
        else:
            scores = scores / q.shape[-1] ** 0.5
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return self.o(torch.einsum("bhts,bshd->bthd", weights, v).flatten(2))


def rotary_spaces(*, neighbours=False):
    unit = "half 2" if neighbours else "2 half"
    return Spaces(
        tensors={
            "qkv.weight": f"(3 heads {unit}) _",
            "qkv.bias": f"(3 heads {unit})",
            "o.weight": f"_ (heads {unit})",
            "inv_freq": "half",
        },
        sizes={"heads": "heads"},
    )


class Dividing(nn.Module):
    """Attention that divides what it is given by its number of heads, as many do."""

    def __init__(self, d=8, heads=2):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (
            f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).reshape(b, t, -1))


DIVIDING_TENSORS = {
    "[qkv].weight": "(heads dim) _",
    "[qkv].bias": "(heads dim)",
    "o.weight": "_ (heads dim)",
}


class RotaryOnly(nn.Module):
    """A model without a tensor as long as its context; its base is in its config."""

    def __init__(self):
        super().__init__()
        self.att, self.max_len, self.rope_theta = Rotary(), 9, 10000.0

    def forward(self, x):
        return self.att(x)
