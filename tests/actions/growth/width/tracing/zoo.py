"""Models of the shapes that people train, small, and a way to grow them by a trace."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from stagegraph.actions.growth.width.tracing.propose import propose
from stagegraph.actions.growth.width.tracing.reading import trace


def proposed(model, probe):
    """What is proposed for a model, when nothing was unknown."""
    traced = trace(model, probe)
    assert traced.blind == ()
    return propose(traced, model)


def mlp(*sizes):
    layers = []
    for left, right in pairwise(sizes):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Bottleneck(nn.Module):
    """Two convolutions and a shortcut that is strided where the block is."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = nn.Identity()
        if stride != 1 or before != after:
            self.down = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.down(x))


class ResNet(nn.Module):
    """Two stages; the head reads channels, or the flattened image."""

    def __init__(self, first=4, second=6, *, pooled=True):
        super().__init__()
        self.stem = nn.Conv2d(3, first, 3, padding=1)
        self.layer1 = Bottleneck(first, first)
        self.layer2 = Bottleneck(first, second, 2)
        self.pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        self.head = nn.Linear(second if pooled else 16 * second, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.stem(x))))
        return self.head(torch.flatten(self.pool(x), 1))


class Mobile(nn.Module):
    """Expand, depthwise, grouped, project."""

    def __init__(self, width=4, hidden=6, groups=2):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.expand = nn.Conv2d(width, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.GroupNorm(2, hidden)
        self.grouped = nn.Conv2d(hidden, 2 * hidden, 3, padding=1, groups=groups)
        self.project = nn.Conv2d(2 * hidden, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem(x)
        inner = F.relu(self.norm(self.depthwise(F.relu(self.expand(x)))))
        x = x + self.project(F.relu(self.grouped(inner)))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Attention by hand: packed projection, heads, fused kernel or softmax."""

    def __init__(self, d, heads, *, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, t, -1))


class Library(nn.Module):
    """``nn.MultiheadAttention`` with one argument."""

    def __init__(self, d, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(d, heads, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, attention, d, hidden):
        super().__init__()
        self.ln1 = nn.LayerNorm(d)
        self.attn = attention
        self.ln2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class ViT(nn.Module):
    """Patches, a class token, learned positions."""

    def __init__(self, attention, d=8, heads=2, hidden=12, depth=2):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 5, d))
        kinds = {
            "library": lambda: Library(d, heads),
            "fused": lambda: Attention(d, heads, fused=True),
            "eager": lambda: Attention(d, heads, fused=False),
        }
        self.blocks = nn.ModuleList(ViTBlock(kinds[attention](), d, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Dense(nn.Module):
    """Each layer reads all that came before it."""

    def __init__(self, width=4, growth=3, depth=2):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        sizes = [width + growth * k for k in range(depth + 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(size, growth, 3, padding=1) for size in sizes[:-1])
        self.head = nn.Linear(sizes[-1], 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


class Odd(nn.Module):
    """Reads the weights of modules it never calls, and positions that are a plain parameter."""

    def __init__(self, d=6, hidden=8, length=7):
        super().__init__()
        self.inp = nn.Linear(4, d)
        self.table = nn.Embedding(length, d)
        self.place = nn.Parameter(torch.randn(length, d))
        self.up = nn.Linear(d, hidden)
        self.gate = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d, bias=False)
        self.head = nn.Linear(d, 3)

    def forward(self, x):
        x = self.inp(x)
        t = x.shape[1]
        x = x + self.table.weight[:t] + self.place[:t]
        inner = torch.sigmoid(x @ self.gate.weight.t()) * (x @ self.up.weight.T + self.up.bias)
        return self.head(x + inner.matmul(self.down.weight.t()))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# Growing by a trace


def _places(axis, more):
    """Where the units of an axis come from when spaces in it get some more; -1 is new."""

    def of(factors, start, size):
        old = torch.arange(start, start + size).reshape([f.size for f in factors] or [1])
        for dim, factor in enumerate(factors):
            if factor.space in more:
                sizes = (*old.shape[:dim], more[factor.space], *old.shape[dim + 1 :])
                old = torch.cat([old, torch.full(sizes, -1)], dim)
            elif factor.parts:
                assert old.dim() == 1
                pieces, at = [], start
                for part in factor.parts:
                    width = math.prod(f.size for f in part.factors)
                    pieces.append(of(part.factors, at, width))
                    at += width
                old = torch.cat(pieces)
        return old.flatten()

    return of(axis.factors, 0, math.prod(f.size for f in axis.factors))


def grown(model, traced, more, fix=None):
    """A copy in which spaces have some more units, whose weights are zero, wherever they occur."""
    model = copy.deepcopy(model)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    places = {(m.name, m.dim) for space in more for m in traced.spaces[space].members}
    for name, dim in sorted(places & {(n, d) for n, t in tensors.items() for d in range(t.dim())}):
        tensor = tensors[name]
        index = _places(traced.axes[name][dim], more)
        new = tensor.data.index_select(dim, index.clamp(min=0))
        gap = [1] * tensor.dim()
        gap[dim] = -1
        tensor.data = new * (index >= 0).reshape(gap)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
    if fix is not None:
        fix(model)
    return model
