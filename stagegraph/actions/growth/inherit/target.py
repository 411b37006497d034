"""Target: another instance of the user's class, and what a model lacks to become like it.

Modules are compared by path. What both have must be of one class; what only the model has would be
lost, and is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute, named_owners
from stagegraph.actions.growth.depth.stacks import Stack
from stagegraph.actions.growth.trial import twin
from stagegraph.actions.growth.width.resize import Writing, tensors_of
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = ["Difference", "compare", "make"]

_OWN = ("training", "_is_full_backward_hook", "_parameters", "_buffers", "_modules")
"""Attributes of every module that say nothing of its sizes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a model lacks to become like another.

    Attributes:
        modules: Today's paths of the modules that only the other has, without those inside them.
        blocks: Those of them that are blocks of a stack, and can be blended in.
        parameters: Names of parameters that only the other has, in modules that both have.
        shapes: Per name of a parameter or buffer of both that is larger there, a tied one once: its
            shape here and there.
        writings: The attributes that differ, with the other's value.
    """

    modules: tuple[str, ...]
    blocks: tuple[str, ...]
    parameters: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    writings: tuple[Writing, ...]


def make(
    model: nn.Module,
    build: str | None,
    fields: Mapping[str, Any],
    parts: Mapping[str, Any],
    *,
    seed: int,
    place: str,
) -> nn.Module:
    """A new instance of the model's class; nobody else's random numbers are drawn.

    Args:
        model: The model.
        build: The name of the builder; ``None`` for a class that is made from its ``config``.
        fields: What the builder is called with, or which fields of the config differ.
        parts: What the user gave by name.
        seed: For its first weights.
        place: Where it is written, for messages.

    Raises:
        SelectorError: There is no such builder, or no such field.
        UnsupportedError: It cannot be built, or is of another class.
    """
    builder = _of_config(model, place) if build is None else _given(build, parts, place)
    with preserved_randomness():
        seed_all(seed)
        try:
            target = builder(**fields)
        except (SelectorError, UnsupportedError):
            raise
        except Exception as error:
            told = ", ".join(f"{key}={value!r}" for key, value in fields.items())
            raise UnsupportedError(
                f"{place}: {build or type(model).__name__}({told}) cannot be built: "
                f"{type(error).__name__}: {error}"
            ) from error
    if type(target) is not type(model):
        raise UnsupportedError(
            f"{place}: {build!r} builds a {type(target).__name__}, the model is a "
            f"{type(model).__name__}; it must build a larger one of the same class"
        )
    if target is model:
        raise UnsupportedError(f"{place}: {build!r} returns the model itself; build a new one")
    meta = any(parameter.is_meta for parameter in model.parameters())
    return twin(target, meta=True) if meta else target


def _given(build: str, parts: Mapping[str, Any], place: str) -> Callable[..., nn.Module]:
    builder = parts.get(build)
    if not callable(builder):
        near = did_you_mean(build, list(parts)) if parts else ""
        raise SelectorError(
            f"{place}: nobody gave a builder {build!r}{near}; give Engine(parts={{{build!r}: ...}})"
            ": a function that takes the fields and returns a new model"
        )
    return builder  # type: ignore[no-any-return]


def _of_config(model: nn.Module, place: str) -> Callable[..., nn.Module]:
    """A builder for classes that are made from their config alone, as those of transformers."""
    config = vars(model).get("config")
    if config is None or not isinstance(vars(config), dict):
        raise SelectorError(
            f"{place}: {type(model).__name__} has no config to be made from; name a builder with "
            "build:, given as Engine(parts={...})"
        )

    def build(**fields: Any) -> nn.Module:
        new = copy.deepcopy(config)
        unknown = [name for name in fields if name not in vars(config)]
        if unknown:
            near = did_you_mean(unknown[0], list(vars(config)))
            raise SelectorError(f"{place}: the config has no field {unknown[0]!r}{near}")
        for name, value in fields.items():
            setattr(new, name, value)
        return type(model)(new)

    return build


def compare(model: nn.Module, target: nn.Module, *, place: str) -> Difference:
    """What the model lacks to become like the target; nothing is changed.

    Raises:
        UnsupportedError: The model has what the target does not, or something of another kind.
    """
    problems = [*_module_problems(model, target), *_tensor_problems(model, target)]
    if problems:
        raise UnsupportedError(f"{place}: the built model cannot be grown into: {problems[0]}")
    mine, theirs = dict(model.named_modules()), dict(target.named_modules())
    here, there = tensors_of(model), tensors_of(target)
    new = [p for p in theirs if p not in mine and p.rpartition(".")[0] in mine]
    return Difference(
        modules=tuple(new),
        blocks=tuple(p for p in new if _is_block(theirs[p.rpartition(".")[0]], theirs[p])),
        parameters=tuple(
            name for name in there if name not in here and name.rpartition(".")[0] in mine
        ),
        shapes={
            name: (tuple(tensor.shape), tuple(there[name].shape))
            for name, tensor in _once(here)
            if tensor.shape != there[name].shape
        },
        writings=tuple(_writings(model, target)),
    )


def _is_block(parent: nn.Module, module: nn.Module) -> bool:
    """Whether a module is a block of a stack: not a bare layer, nor a container that never runs."""
    home = type(module).__module__
    bare = home.startswith("torch.nn.") and home != "torch.nn.modules.transformer"
    return isinstance(parent, Stack) and not bare


def _once(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Each tensor under the first of its names."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(id(tensor), (name, tensor))
    return list(found.values())


def _module_problems(model: nn.Module, target: nn.Module) -> list[str]:
    theirs = dict(target.named_modules())
    found: list[str] = []
    for path, module in model.named_modules():
        other = theirs.get(path)
        if other is None:
            found.append(f"it has no module {path!r}, which would be lost")
        elif type(other) is not type(module):
            found.append(
                f"{path!r} is a {type(module).__name__} here and a {type(other).__name__} there"
            )
    return found


def _tensor_problems(model: nn.Module, target: nn.Module) -> list[str]:
    here, there = tensors_of(model), tensors_of(target)
    found = [f"it has no {name!r}" for name in here if name not in there]
    if found:
        return found
    for name, tensor in here.items():
        if tensor.dim() != there[name].dim():
            found.append(f"{name!r} has {tensor.dim()} axes here and {there[name].dim()} there")
        elif any(a > b for a, b in zip(tensor.shape, there[name].shape, strict=True)):
            found.append(
                f"{name!r} is {tuple(tensor.shape)} here and {tuple(there[name].shape)} there: "
                "nothing is cut off"
            )
    if _ties(here) != _ties({name: there[name] for name in here}):
        found.append("it ties other weights to each other")
    return found


def _ties(tensors: Mapping[str, Tensor]) -> set[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return {tuple(sorted(names)) for names in groups.values()}


def _writings(model: nn.Module, target: nn.Module) -> list[Writing]:
    """The plain attributes of modules and configs that differ."""
    mine: dict[str, object] = {**dict(model.named_modules()), **dict(named_owners(model))}
    theirs: dict[str, object] = {**dict(target.named_modules()), **dict(named_owners(target))}
    found: list[Writing] = []
    for path, owner in mine.items():
        other = vars(theirs[path]) if path in theirs else {}
        for name, value in vars(owner).items():
            if name in _OWN or name not in other or not _is_plain(value):
                continue
            if _is_plain(other[name]) and other[name] != value:
                at = Attribute(f"{path}.{name}".lstrip("."), owner, name)
                found.append(Writing(at, copy.deepcopy(other[name])))
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return bool(value) and all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)
