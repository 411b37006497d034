"""A causal transformer block and an MLP, with their bindings, for growth in width by hand."""

from __future__ import annotations

import copy

import torch
from torch import nn

from stagegraph.actions.growth.width.maps import Binding, Factor, mapped

HEAD = 3
NAMES = 5


class Wide(nn.Module):
    """Embedding, one pre-norm block with causal attention and MLP, and a head."""

    def __init__(self, stream=4, heads=2, hidden=4, *, tied=False):
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(NAMES, stream)
        self.ln1 = nn.LayerNorm(stream)
        self.q = nn.Linear(stream, heads * HEAD)
        self.k = nn.Linear(stream, heads * HEAD, bias=False)
        self.v = nn.Linear(stream, heads * HEAD)
        self.o = nn.Linear(heads * HEAD, stream)
        self.ln2 = nn.LayerNorm(stream)
        self.up = nn.Linear(stream, hidden)
        self.down = nn.Linear(hidden, stream)
        self.ln3 = nn.LayerNorm(stream)
        self.head = nn.Linear(stream, NAMES)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        h = self.ln1(x)
        q, k, v = (
            part.unflatten(-1, (self.heads, HEAD)).transpose(-2, -3)
            for part in (self.q(h), self.k(h), self.v(h))
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(-2, -3).flatten(-2))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.ln2(x))))
        return self.head(self.ln3(x))


def batch(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randint(NAMES, (3, 6), generator=generator)


def loss_of(model, number):
    tokens = batch(number)
    return nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def bindings(model, *, stream=None, heads=None, hidden=None):
    """How each parameter is bound to the spaces that these maps grow."""

    def axis(space, role, size):
        if space is heads and heads is not None:
            return ((Factor(size // HEAD, heads, role), Factor(HEAD)),)
        return ((Factor(size, space, role),),)

    spaces = {
        "embed": (None, stream),
        "ln1": (stream,),
        "q": (heads, stream),
        "k": (heads, stream),
        "v": (heads, stream),
        "o": (stream, heads),
        "ln2": (stream,),
        "up": (hidden, stream),
        "down": (stream, hidden),
        "ln3": (stream,),
        "head": (None, stream),
    }
    found = {}
    for name, parameter in model.named_parameters():
        module = name.split(".")[0]
        roles = ("out", "out") if module == "embed" else ("out", "in")
        found[name] = Binding(
            tuple(
                axis(space, role, size)
                for space, role, size in zip(spaces[module], roles, parameter.shape, strict=False)
            )
        )
    return found


def small(*, tied=False):
    state = torch.get_rng_state()
    torch.manual_seed(1)
    model = Wide(tied=tied).double()
    torch.set_rng_state(state)
    return model


HALF = {"ln3.weight": 0.5, "ln3.bias": 0.5}
"""What a doubled stream is read with by a head that is tied to the embedding."""


def widened(model, bound, *, heads=None, times=None):
    """A second model with the grown weights, some of them multiplied by more than their map."""
    grown = copy.deepcopy(model)
    grown.heads = model.heads if heads is None else heads.after
    for (name, parameter), old in zip(grown.named_parameters(), model.parameters(), strict=True):
        parameter.grad = None
        parameter.data = mapped(old, bound[name], "weight") * (times or {}).get(name, 1.0)
    for norm in (grown.ln1, grown.ln2, grown.ln3):
        norm.normalized_shape = tuple(norm.weight.shape)
    return grown
