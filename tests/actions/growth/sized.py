"""Models that can be made in any size, with the lines that declare their spaces."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stagegraph.schema.spaces import Spaces
from tests.actions.growth.wide import GPT, Attention

F64 = torch.float64


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, d, groups, up, norm):
        super().__init__()
        self.n1, self.att, self.n2 = norm(d), Attention(d, groups, 2, 3), norm(d)
        self.up, self.down = nn.Linear(d, up), nn.Linear(up, d)

    def forward(self, x):
        x = x + self.att(self.n1(x))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class SizedGpt(nn.Module):
    """Blocks over a residual stream, with a head that may be tied."""

    def __init__(self, d=8, groups=2, up=10, num=2, *, norm=nn.LayerNorm, tied=True):
        super().__init__()
        self.emb = nn.Embedding(11, d)
        self.pos = nn.Parameter(torch.randn(6, d) * 0.3)
        self.blocks = nn.ModuleList(Block(d, groups, up, norm) for _ in range(num))
        self.last = norm(d)
        self.head = nn.Linear(d, 11, bias=False)
        if tied:
            self.head.weight = self.emb.weight
        for name, parameter in self.named_parameters():
            if "n1" in name or "n2" in name or "last" in name:
                parameter.data += torch.randn_like(parameter) * 0.2

    def forward(self, ids):
        x = self.emb(ids) + self.pos[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


class SizedMlp(nn.Module):
    """Two hidden layers."""

    def __init__(self, first=6, second=5):
        super().__init__()
        self.one, self.two = nn.Linear(4, first), nn.Linear(first, second)
        self.three = nn.Linear(second, 3)

    def forward(self, x):
        return self.three(torch.relu(self.two(torch.relu(self.one(x)))))


class SizedConvs(nn.Module):
    """Convolutions with BatchNorm, flattened into a linear layer."""

    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.next = nn.Conv2d(channels, channels, 3, padding=1)
        self.fc = nn.Linear(channels * 4, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(torch.relu(self.next(x)), 2).flatten(1))


SIZED_GPT = GPT
CONVS = Spaces(
    tensors={
        "stem.weight": "channels _ _ _",
        "bn.[wbr]*": "channels",
        "next.weight": "after channels _ _",
        "next.bias": "after",
        "fc.weight": "_ (after 4)",
    }
)


def stirred(model, seed=3):
    """Running statistics, gains and biases that are not at their first values."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and "running" in name:
            buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model
