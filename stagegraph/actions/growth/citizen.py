"""Citizens: whether a changed model is still one of its own class.

A `transformers` model is saved as a config and tensors by name; reading it back means to build its
class from the config and load the tensors. So a change is one that the class can express exactly if
the class, built from the changed config, has the same modules, tensors and numbers. Where it has
not, the model still trains, but only the lineage can rebuild it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.transformers import pretrained_config, pretrained_models
from stagegraph.actions.randomness import preserved_randomness

__all__ = ["why_no_citizen"]

_FEW = 3


def why_no_citizen(model: nn.Module, *, before: nn.Module | None = None) -> list[str]:
    """Why the `transformers` models in a model are not what their classes build from their configs.

    Args:
        model: The changed model, or a twin of it without memory (:mod:`~.twin`); it is left alone.
        before: The model as it was; what was no citizen then, is no news.

    Returns:
        A sentence per model that is none; empty if all are, or there are none.
    """
    earlier = dict(pretrained_models(before)) if before is not None else {}
    reasons: list[str] = []
    for path, module in pretrained_models(model):
        why = _why(module, earlier.get(path))
        if why:
            kind = type(module).__name__
            reasons.append(
                f"{path or 'the model'} will no longer be what {kind} builds from its config, so "
                f"that {kind}.from_pretrained would not give it back: {why}; the lineage rebuilds "
                "it (stagegraph.actions.replay)"
            )
    return reasons


def _why(module: nn.Module, before: nn.Module | None) -> str | None:
    known: set[str] = set()
    if before is not None:
        try:
            own = _own_class(before)
        except Exception:  # noqa: BLE001 - it was none before, for whatever reason
            return None
        if _tensors(before, own):
            return None
        known = {key for _, key, _, _ in _numbers(before, own)}
    try:
        own = _own_class(module)
    except Exception as error:  # noqa: BLE001 - whatever a config's own checks raise is the reason
        first = " ".join(str(error).split())[:200]
        return f"it refuses the config ({type(error).__name__}: {first})"
    numbers = [
        f"{path}.{key} is {value!r} and would be {other!r}".lstrip(".")
        for path, key, value, other in _numbers(module, own)
        if key not in known
    ]
    return _tensors(module, own) or _some(numbers) or None


def _own_class(module: nn.Module) -> nn.Module:
    """The class built from its config as that would be read from disk; without memory."""
    config = pretrained_config(module)
    read = type(config).from_dict(config.to_dict())
    with preserved_randomness(), torch.device("meta"):
        own: nn.Module = type(module)(read)
    return own


def _tensors(module: nn.Module, own: nn.Module) -> str | None:
    """What the state dicts differ in."""
    has, builds = _shapes(module), _shapes(own)
    parts = (
        ("it has ", [name for name in has if name not in builds], " besides"),
        ("it lacks ", [name for name in builds if name not in has], ""),
        (
            "",
            [
                f"{name} is {list(shape)} and would be {list(builds[name])}"
                for name, shape in has.items()
                if builds.get(name, shape) != shape
            ],
            "",
        ),
    )
    said = [f"{before}{_some(names)}{after}" for before, names, after in parts if names]
    return "; ".join(said) or None


def _shapes(module: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def _numbers(module: nn.Module, own: nn.Module) -> list[tuple[str, str, Any, Any]]:
    """What modules hold besides tensors and differ in: a kind of attention, a window, a number."""
    builds = dict(own.named_modules())
    differ: list[tuple[str, str, Any, Any]] = []
    for path, part in module.named_modules():
        held, other = _plain(part), _plain(builds.get(path, part))
        differ += [
            (path, key, value, other[key])
            for key, value in held.items()
            if key in other and other[key] != value
        ]
    return differ


def _plain(module: nn.Module) -> dict[str, Any]:
    """Numbers and words that a module holds, but for its mode."""
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, int | str | float | None)
        and key not in ("training", "gradient_checkpointing")
        and not key.startswith("_")
    }
