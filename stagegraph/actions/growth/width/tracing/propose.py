"""A declaration of spaces, proposed from a trace and ready to be written in a document."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import combinations

from torch import nn

from stagegraph.actions.growth.width.traced import Traced, TracedAxis, TracedFactor
from stagegraph.actions.growth.width.tracing.naming import name_spaces
from stagegraph.actions.parameters import unwrapped

__all__ = ["layout", "propose"]


def propose(traced: Traced, model: nn.Module) -> dict[str, str]:
    """The layouts of a model's tensors, one line for all numbered siblings that are alike.

    A layout has one token per dimension: ``_`` is free, a name is a space, parentheses hold a
    flattened product with the leftmost slowest, in which a number is a fixed factor, or a
    concatenation ``(a + b)``. Where an operator of ``traced.blind`` uses a tensor, the token is
    ``?``, which is no layout: there, somebody who knows must write it.

    Args:
        traced: A trace of the model.
        model: The model.

    Returns:
        A layout for each glob, in the model's order. A parameter with several names is there under
        its first one; buffers that no space runs through are left out.

    Example:
        >>> import torch
        >>> from stagegraph.actions.growth.width.tracing.reading import trace
        >>> mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> propose(trace(mlp, torch.ones(2, 4)), mlp)["2.weight"]
        'outputs hidden'
    """
    model = unwrapped(model)
    parameters = dict(model.named_parameters())
    tensors = parameters | dict(model.named_buffers())
    every = dict(model.named_parameters(remove_duplicate=False)) | tensors
    names = name_spaces(traced, {name: tensor.dim() for name, tensor in every.items()})
    layouts = {
        name: layout(traced.axes[name], names) for name, tensor in tensors.items() if tensor.dim()
    }
    wanted = {
        name: text
        for name, text in layouts.items()
        if name in parameters or any(word != "_" for word in text.split())
    }
    return _by_glob(wanted, layouts)


def layout(axes: tuple[TracedAxis, ...], names: Mapping[str, str]) -> str:
    """The layout of one tensor.

    Args:
        axes: Its axes.
        names: A name for each space.
    """
    return " ".join(_token(axis, names) for axis in axes)


def _token(axis: TracedAxis, names: Mapping[str, str]) -> str:
    words = _words(axis, names)
    if all(word.isdigit() for word in words):
        return "_"
    return words[0] if len(words) == 1 else f"({' '.join(words)})"


def _words(axis: TracedAxis, names: Mapping[str, str]) -> list[str]:
    """The factors; numbers side by side are one."""
    words: list[str] = []
    for factor in axis.factors:
        word = _word(factor, names)
        if word.isdigit() and words and words[-1].isdigit():
            words[-1] = str(int(words[-1]) * int(word))
        else:
            words.append(word)
    return words


def _word(factor: TracedFactor, names: Mapping[str, str]) -> str:
    if factor.parts:
        parts = [_words(part, names) or ["1"] for part in factor.parts]
        if all(word.isdigit() for words in parts for word in words):
            return str(factor.size)
        shown = [words[0] if len(words) == 1 else f"({' '.join(words)})" for words in parts]
        return f"({' + '.join(shown)})"
    if factor.space is not None:
        return names[factor.space]
    return "?" if "blind" in factor.roles else str(factor.size)


def _by_glob(layouts: Mapping[str, str], every: Mapping[str, str]) -> dict[str, str]:
    left = dict(layouts)
    found: dict[str, str] = {}
    while left:
        name, text = next(iter(left.items()))
        for glob in _globs(name):
            hit = [other for other in every if fnmatchcase(other, glob)]
            if len(hit) > 1 and all(every[other] == text for other in hit):
                break
        else:
            glob, hit = name, [name]
        found[glob] = text
        for other in hit:
            left.pop(other, None)
    return found


def _globs(name: str) -> list[str]:
    """The name with some of its numbers starred, most first."""
    parts = name.split(".")
    places = [place for place, part in enumerate(parts) if part.isdigit()]
    return [
        ".".join("*" if place in chosen else part for place, part in enumerate(parts))
        for count in range(len(places), 0, -1)
        for chosen in combinations(places, count)
    ]
