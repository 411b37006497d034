"""Counts: attributes beside a stack that say how many blocks it has, or have an entry per block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from stagegraph.actions.growth.attributes import is_owner
from stagegraph.actions.growth.depth.layout import Place
from stagegraph.actions.sharding.plain import shallow_copy
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = [
    "Count",
    "around",
    "find_count",
    "first_number",
    "known_beside",
    "number",
    "numbering",
    "undeclared_counts",
]

_COUNTING = (
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "num_blocks",
    "n_blocks",
    "depth",
    "layer_types",
)
_MISSING = object()
_NUMBERING = ("layer_idx", "layer_id", "layer_number", "block_idx")


@dataclass(frozen=True, slots=True)
class Count:
    """One attribute that counts blocks.

    Attributes:
        path: Dotted path from the model, as written.
        owner: The object that has it.
        name: Its name there.
    """

    path: str
    owner: Any
    name: str

    @property
    def identity(self) -> tuple[int, str]:
        """What it is, whatever path leads to it."""
        names = getattr(self.owner, "attribute_map", {})
        return id(self.owner), str(names.get(self.name, self.name))

    @property
    def value(self) -> Any:
        """What it holds now: a number, or a list with an entry per block."""
        return _held(self.owner, self.name)

    @property
    def size(self) -> int:
        """The number of blocks it tells of."""
        return self.value if isinstance(self.value, int) else len(self.value)

    def write(self, value: Any) -> None:
        """Make it hold something else."""
        if isinstance(self.owner, list):
            self.owner[int(self.name)] = value
        else:
            setattr(self.owner, self.name, value)

    def grow(self, inserted: Sequence[Place]) -> None:
        """Make it tell of the new blocks too."""
        value = self.value
        if isinstance(value, int):
            self.write(value + len(inserted))
            return
        grown = list(value)
        for place in sorted(inserted, key=lambda place: place.at):
            grown.insert(place.at, value[place.copy_of])
        self.write(type(value)(grown))

    def shrink(self, gone: Iterable[int]) -> None:
        """Make it tell of so many blocks fewer."""
        places = set(gone)
        value = self.value
        if isinstance(value, int):
            self.write(value - len(places))
            return
        kept = [entry for index, entry in enumerate(value) if index not in places]
        self.write(type(value)(kept))


def _held(owner: Any, name: str) -> Any:
    """What an object holds under a name, or a list in a place."""
    if isinstance(owner, list) and name.isdigit() and int(name) < len(owner):
        return owner[int(name)]
    return getattr(owner, name, _MISSING)


def find_count(model: nn.Module, path: str, *, size: int | None, place: str) -> Count:
    """The attribute at a dotted path.

    Args:
        model: The model.
        path: The path, such as ``config.num_hidden_layers``, or ``config.depths.2`` for a number in
            a list.
        size: What it must tell; ``None`` to leave that open.
        place: Where it is written, for the message.

    Raises:
        SelectorError: There is no such attribute.
        UnsupportedError: It holds something else than the number of blocks.
    """
    *owners, name = path.split(".")
    owner: Any = model
    for step, part in enumerate(owners):
        inner = _held(owner, part)
        if inner is _MISSING:
            raise _no_attribute(place, path, owners[:step], part, owner)
        owner = inner
    if _held(owner, name) is _MISSING:
        raise _no_attribute(place, path, owners, name, owner)
    count = Count(path, owner, name)
    value = count.value
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        raise UnsupportedError(
            f"{place}: count {path!r} is a {type(value).__name__}; a count is a whole number, or a "
            "list with an entry per block"
        )
    if size is not None and count.size != size:
        raise UnsupportedError(
            f"{place}: count {path!r} tells of {count.size} blocks, the stack has {size}"
        )
    return count


def _no_attribute(
    place: str, path: str, owners: Sequence[str], name: str, owner: Any
) -> SelectorError:
    known = [known for known in dir(owner) if not known.startswith("_")]
    return SelectorError(
        f"{place}: count {path!r}: {'.'.join(owners) or 'the model'} has no attribute {name!r}"
        f"{did_you_mean(name, known)}"
    )


def undeclared_counts(
    model: nn.Module, stack: str, size: int, *, declared: Sequence[Count]
) -> list[str]:
    """Attributes beside a stack that plainly count its blocks and are not declared.

    Looked at are the modules around the stack and their ``config``. Another name for a declared
    count (an alias) is none.
    """
    found: list[str] = []
    told = {(id(count.owner), count.name) for count in declared}
    for path, owner in around(model, stack):
        trial = _after(owner, declared)
        found += [
            f"{path}.{name}".lstrip(".")
            for name in _COUNTING
            if _tells(getattr(trial, name, None), size)
            and (id(owner), name) not in told
            and not _of_the_class(owner, name)
        ]
    return found


def _of_the_class(owner: Any, name: str) -> bool:
    """Whether a list is the class's own, such as the kinds of layer that it knows."""
    return isinstance(vars(type(owner)).get(name), list | tuple) and name not in vars(owner)


def around(model: nn.Module, stack: str) -> list[tuple[str, Any]]:
    """The modules that contain a stack and their configs, each once, by path."""
    around: dict[int, tuple[str, Any]] = {}
    parts = stack.split(".")[:-1]
    for depth in range(len(parts) + 1):
        path = ".".join(parts[:depth])
        module = model.get_submodule(path)
        around.setdefault(id(module), (path, module))
        held = {"config": getattr(module, "config", None), **vars(module)}
        for name, value in held.items():
            if is_owner(value):
                around.setdefault(id(value), (f"{path}.{name}".lstrip("."), value))
    return list(around.values())


def known_beside(model: nn.Module, stack: str) -> list[str]:
    """Paths of everything that modules around a stack, and their configs, hold by name."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, owner in around(model, stack)
        for name in (
            *vars(owner),
            *(
                (*owner._parameters, *owner._buffers, *owner._modules)
                if isinstance(owner, nn.Module)
                else dir(type(owner))
            ),
        )
        if not name.startswith("_")
    ]


def _after(owner: Any, declared: Sequence[Count]) -> Any:
    """A shallow copy of an owner in which the declared counts have grown."""
    trial = shallow_copy(owner)
    for count in declared:
        if count.owner is owner and isinstance(count.value, int):
            setattr(trial, count.name, count.value + 1)
    return trial


def _tells(value: Any, size: int) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, list | tuple):
        return len(value) == size
    return isinstance(value, int) and value == size


def numbering(
    blocks: Sequence[nn.Module], *, place: str, leave: Sequence[str] = ()
) -> dict[str, int]:
    """The names under which blocks hold a number of their own, each with the lowest block's.

    Those are the usual names, and any other under which the blocks hold whole numbers that go up
    by one from block to block.

    Args:
        blocks: All blocks of a stack.
        place: Where the growth is written, for the message.
        leave: Names that are so by chance.

    Raises:
        UnsupportedError: They are not numbered in order, so that nobody can say how new ones are.
    """
    first: dict[str, int] = {}
    for name in (*_NUMBERING, *_running(blocks)):
        numbers = [_numbers(block, name) for block in blocks]
        if not any(numbers) or any(fnmatchcase(name, glob) for glob in leave):
            continue
        first[name] = first_number(blocks, name)
        if any(held != {first[name] + index} for index, held in enumerate(numbers)):
            raise UnsupportedError(
                f"{place}: the blocks' {name!r} are {[sorted(held) for held in numbers]}, not in "
                "order; stagegraph cannot say what the new blocks' should be"
            )
    return first


def _running(blocks: Sequence[nn.Module]) -> list[str]:
    """Names of no usual kind under which every block holds the number after its neighbour's."""
    if len(blocks) < 2:
        return []
    names = {
        name
        for module in blocks[0].modules()
        if not type(module).__module__.startswith("torch.")
        for name in vars(module)
        if _is_number(module, name) and name not in _NUMBERING
    }
    return sorted(
        name
        for name in names
        if all(
            _numbers(block, name) == {first_number(blocks, name) + index}
            for index, block in enumerate(blocks)
        )
    )


def number(blocks: Sequence[nn.Module], name: str, first: int) -> None:
    """Number blocks from ``first``, in all their modules that have this attribute."""
    for index, block in enumerate(blocks):
        for module in block.modules():
            if _is_number(module, name):
                setattr(module, name, first + index)


def first_number(blocks: Sequence[nn.Module], name: str) -> int:
    """The number of the lowest block."""
    return min(_numbers(blocks[0], name), default=0)


def _is_number(module: nn.Module, name: str) -> bool:
    value = vars(module).get(name)
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(block: nn.Module, name: str) -> set[int]:
    return {vars(module)[name] for module in block.modules() if _is_number(module, name)}
