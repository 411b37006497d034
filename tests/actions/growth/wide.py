"""Models to widen, each with the lines that declare its spaces."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stagegraph.actions import TorchActor
from stagegraph.engine.ports import Boundary, Deed
from stagegraph.schema.actions import Widen
from stagegraph.schema.spaces import Spaces


class Mlp(nn.Module):
    """A plain multilayer perceptron."""

    def __init__(self, act=torch.relu):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.act = act

    def forward(self, x):
        return self.three(self.act(self.two(self.act(self.one(x)))))


MLP = Spaces(
    tensors={
        "one.weight": "first _",
        "one.bias": "first",
        "two.weight": "second first",
        "two.bias": "second",
        "three.weight": "_ second",
    }
)


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads, packed into one weight."""

    def __init__(self, d, groups, per_group, dim):
        super().__init__()
        self.groups, self.per_group, self.dim = groups, per_group, dim
        self.q = nn.Linear(d, groups * per_group * dim)
        self.kv = nn.Linear(d, 2 * groups * dim)
        self.o = nn.Linear(groups * per_group * dim, d)

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.groups, self.per_group, self.dim)
        k, v = self.kv(x).view(b, t, 2, self.groups, self.dim).unbind(2)
        scores = torch.einsum("btgpd,bsgd->bgpts", q, k) / self.dim**0.5
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        out = torch.einsum("bgpts,bsgd->btgpd", weights, v)
        return self.o(out.reshape(b, t, -1))


class RmsNorm(nn.Module):
    """An RMSNorm of no class of torch's; its gain may be 1 + weight."""

    def __init__(self, d, offset=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d) * 0.1 + 1 - offset)
        self.offset, self.variance_epsilon = offset, 0.01

    def forward(self, x):
        return (self.offset + self.weight) * x * (x.pow(2).mean(-1, keepdim=True) + 0.01).rsqrt()


class TrueRmsNorm(RmsNorm):
    """The same, which really reads its eps."""

    def forward(self, x):
        scale = (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return (self.offset + self.weight) * x * scale


class Gpt(nn.Module):
    """Two blocks of attention and MLP over a residual stream, with a tied head."""

    def __init__(self, norm=nn.LayerNorm, *, tied=True, d=8):
        super().__init__()
        self.emb = nn.Embedding(11, d)
        self.pos = nn.Parameter(torch.randn(6, d) * 0.3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "n1": norm(d),
                    "att": Attention(d, 2, 2, 3),
                    "n2": norm(d),
                    "up": nn.Linear(d, 10),
                    "down": nn.Linear(10, d),
                }
            )
            for _ in range(2)
        )
        self.last = norm(d)
        self.head = nn.Linear(d, 11, bias=False)
        if tied:
            self.head.weight = self.emb.weight
        for name, p in self.named_parameters():
            if "n1" in name or "n2" in name or "last" in name:
                p.data += torch.randn_like(p) * 0.2

    def forward(self, ids):
        x = self.emb(ids) + self.pos[: ids.shape[1]]
        for block in self.blocks:
            x = x + block["att"](block["n1"](x))
            x = x + block["down"](F.gelu(block["up"](block["n2"](x))))
        return self.head(self.last(x))


GPT = Spaces(
    tensors={
        "emb.weight": "_ stream",
        "head.weight": "_ stream",
        "pos": "_ stream:out",
        "*.n?.*": "stream",
        "last.*": "stream",
        "*.att.q.weight": "(groups per_group dim) stream",
        "*.att.q.bias": "(groups per_group dim)",
        "*.att.kv.weight": "(2 groups dim) stream",
        "*.att.kv.bias": "(2 groups dim)",
        "*.att.o.weight": "stream (groups per_group dim)",
        "*.att.o.bias": "stream",
        "*.up.weight": "mlp stream",
        "*.up.bias": "mlp",
        "*.down.weight": "stream mlp",
        "*.down.bias": "stream",
    },
    sizes={"*.att.groups": "groups", "*.att.per_group": "per_group", "*.att.dim": "dim"},
)


class ResNet(nn.Module):
    """Convolutions with BatchNorm, a depthwise one among them, flattened into a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "a": nn.Conv2d(6, 4, 3, padding=1, bias=False),
                    "bn1": nn.BatchNorm2d(4),
                    "dw": nn.Conv2d(4, 4, 3, padding=1, groups=4),
                    "b": nn.Conv2d(4, 6, 3, padding=1, bias=False),
                    "bn2": nn.BatchNorm2d(6),
                }
            )
            for _ in range(2)
        )
        self.fc = nn.Linear(6 * 4, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += torch.randn_like(module.running_mean) * 0.2
                module.running_var += torch.rand_like(module.running_var)
                module.weight.data += torch.randn_like(module.weight) * 0.2
                module.bias.data += torch.randn_like(module.bias) * 0.2

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            h = torch.relu(block["bn1"](block["a"](x)))
            x = torch.relu(x + block["bn2"](block["b"](torch.relu(block["dw"](h)))))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


RESNET = Spaces(
    tensors={
        "stem.weight": "channels _ _ _",
        "bn.[wbr]*": "channels",
        "*.a.weight": "inner channels _ _",
        "*.bn1.[wbr]*": "inner",
        "*.dw.weight": "inner _ _ _",
        "*.dw.bias": "inner",
        "*.b.weight": "channels inner _ _",
        "*.bn2.[wbr]*": "channels",
        "fc.weight": "_ (channels 4)",
    }
)


def ids(rows=3):
    return torch.randint(0, 11, (rows, 5), generator=torch.Generator().manual_seed(1))


def images(rows=4):
    return torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def widen(**fields):
    return Widen(type="widen", **fields)


def actor(model, optimizer, spaces, probe, **more):
    return TorchActor(model, optimizer, spaces=spaces, probe=probe, **more)


def grow(standing, action, *, cohort="wider", step=0, seed=7):
    """Carry a growth out; its certificate."""
    deed = Deed("p", action, cohort, None, seed)
    outcome = standing.transact(Boundary(step, None, (deed,), (), {}), lambda _: None)
    return outcome.evidence["p"]


class VisionTransformer(nn.Module):
    """A small vision transformer of torch's own parts, with a class token and learned positions."""

    def __init__(self, d=8, heads=2):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 5, d))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "n1": nn.LayerNorm(d),
                    "att": nn.MultiheadAttention(d, heads, batch_first=True),
                    "n2": nn.LayerNorm(d),
                    "up": nn.Linear(d, 2 * d),
                    "down": nn.Linear(2 * d, d),
                }
            )
            for _ in range(2)
        )
        self.last, self.head = nn.LayerNorm(d), nn.Linear(d, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            h = block["n1"](x)
            x = x + block["att"](h, h, h, need_weights=False)[0]
            x = x + block["down"](F.gelu(block["up"](block["n2"](x))))
        return self.head(self.last(x[:, 0]))


VIT = Spaces(
    tensors={
        "patch.weight": "stream _ _ _",
        "patch.bias": "stream",
        "cls": "_ _ stream:out",
        "pos": "_ _ stream:out",
        "*.n?.*": "stream",
        "last.*": "stream",
        "*.att.in_proj_weight": "(3 heads dim) stream",
        "*.att.in_proj_bias": "(3 heads dim)",
        "*.att.out_proj.weight": "stream (heads dim)",
        "*.att.out_proj.bias": "stream",
        "*.up.weight": "mlp stream",
        "*.up.bias": "mlp",
        "*.down.weight": "stream mlp",
        "*.down.bias": "stream",
        "head.weight": "_ stream",
    },
    sizes={"*.att.num_heads": "heads", "*.att.head_dim": "dim"},
)
