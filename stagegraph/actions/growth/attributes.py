"""Attributes: numbers beside the tensors that say how large things are, and who has them.

A model's shape is not in its tensors alone: a linear layer knows its ``out_features``, an attention
its number of heads, and a config, which many modules share, most of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from stagegraph.errors import SelectorError, did_you_mean

__all__ = [
    "Attribute",
    "find_attributes",
    "is_owner",
    "matching_attributes",
    "matching_owners",
    "named_owners",
    "owners_of",
]

_NO_OWNERS = (
    type,
    nn.Module,
    Tensor,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    ModuleType,
)
_NESTING = 3


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute.

    Attributes:
        path: Dotted path from the model.
        owner: The object that has it.
        name: Its name there.
    """

    path: str
    owner: Any
    name: str

    @property
    def value(self) -> Any:
        """What it holds now."""
        return getattr(self.owner, self.name)

    def write(self, value: Any) -> None:
        """Make it hold something else."""
        setattr(self.owner, self.name, value)


def named_owners(model: nn.Module) -> list[tuple[str, object]]:
    """The objects beside the modules, such as configs, that a growth may write to, each once."""
    found: dict[int, tuple[str, object]] = {}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            _collect(value, f"{path}.{key}".lstrip("."), found, _NESTING)
    return list(found.values())


def owners_of(model: nn.Module) -> list[object]:
    """The same without their paths."""
    return [owner for _, owner in named_owners(model)]


def is_owner(value: object) -> bool:
    """Whether something is an object with attributes of its own, such as a config."""
    if value is None or isinstance(value, _NO_OWNERS):
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def _collect(value: object, path: str, found: dict[int, tuple[str, object]], depth: int) -> None:
    if isinstance(value, _NO_OWNERS) or id(value) in found or depth == 0:
        return
    content = getattr(value, "__dict__", None)
    if not isinstance(content, dict):
        return
    found[id(value)] = (path, value)
    for key, inner in list(content.items()):
        _collect(inner, f"{path}.{key}", found, depth - 1)


def find_attributes(model: nn.Module, pattern: str, *, place: str) -> list[Attribute]:
    """The attributes that a pattern means, an attribute of one object once.

    Args:
        model: The model.
        pattern: Dotted path from the model, such as ``config.n_head``; ``*`` before the last dot
            stands for modules, as in ``blocks.*.attention.num_heads``.
        place: Where it is written, for the message.

    Raises:
        SelectorError: Nothing has such an attribute.
    """
    found = matching_attributes(model, pattern)
    if not found:
        names = [path for path, module in model.named_modules() if path]
        raise SelectorError(
            f"{place}: sizes {pattern!r} matches no attribute of the model or of what its modules "
            f"hold{did_you_mean(pattern.rpartition('.')[0], names)}"
        )
    return found


def matching_attributes(model: nn.Module, pattern: str) -> list[Attribute]:
    """The same; none if nothing has such an attribute."""
    found = {(id(one.owner), one.name): one for one in _matching(model, pattern)}
    return list(found.values())


def matching_owners(model: nn.Module, pattern: str) -> list[tuple[str, object]]:
    """The modules, and objects that modules hold, at a path; ``*`` stands for modules."""
    return [(path, owner) for path, owner in _owners(model) if fnmatchcase(path, pattern)]


def _matching(model: nn.Module, pattern: str) -> Iterator[Attribute]:
    where, _, name = pattern.rpartition(".")
    for path, owner in matching_owners(model, where):
        if _has(owner, name):
            yield Attribute(f"{path}.{name}".lstrip("."), owner, name)


def _owners(model: nn.Module) -> Iterator[tuple[str, object]]:
    """All modules, and all objects that they hold, with their paths."""
    for path, module in model.named_modules():
        yield path, module
        for key, value in vars(module).items():
            yield from _inside(value, f"{path}.{key}".lstrip("."), _NESTING)


def _inside(value: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    """Objects that a module holds, but for the dictionaries in which torch keeps hooks."""
    if type(value) is OrderedDict or isinstance(value, _NO_OWNERS):
        return
    if not isinstance(getattr(value, "__dict__", None), dict):
        return
    yield path, value
    if depth > 1:
        for key, inner in list(vars(value).items()):
            yield from _inside(inner, f"{path}.{key}", depth - 1)


def _has(owner: object, name: str) -> bool:
    missing = object()
    return getattr(owner, name, missing) is not missing
