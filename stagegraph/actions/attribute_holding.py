"""Attributes that are held: which head of the model is in use, while a stage lasts.

The attribute is the user's own. It is written when an activity begins to hold it, and gets back
what it held before when the activity is over, whatever the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from stagegraph.actions.growth.attributes import Attribute, matching_attributes
from stagegraph.errors import SelectorError, SnapshotError, UnsupportedError, did_you_mean

__all__ = [
    "AttributeHolding",
    "Wanted",
    "find_head_attribute",
    "refuse_unknown_head",
    "write_attributes",
]

Values = Mapping[str, str | None]
"""What attributes hold, by dotted path from the model."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One attribute that an activity wants to hold.

    Attributes:
        place: Where the activity is written.
        path: Dotted path of the attribute.
        value: What it is to hold.
    """

    place: str
    path: str
    value: str


@dataclass(frozen=True, slots=True)
class _Held:
    """One attribute that is held.

    Attributes:
        attribute: The attribute.
        value: What it holds.
        original: What it held before.
        averaged: Whether it is the averaged copy's.
    """

    attribute: Attribute
    value: str | None
    original: str | None
    averaged: bool

    def give_back(self) -> None:
        self.attribute.write(self.original)


def find_head_attribute(model: nn.Module, path: str, *, place: str) -> Attribute:
    """The one attribute that a path means, which names a head, or none.

    Raises:
        SelectorError: There is none, or more than one.
        UnsupportedError: It holds something else.
    """
    found = matching_attributes(model, path)
    if not found:
        texts = [
            f"{name}.{key}".lstrip(".")
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if value is None or isinstance(value, str)
        ]
        raise SelectorError(
            f"{place}: of {path!r} is no attribute of the model or of what its modules hold"
            f"{did_you_mean(path, [text for text in texts if not _is_torchs(text)])}"
        )
    if len(found) > 1:
        several = ", ".join(one.path for one in found)
        raise SelectorError(f"{place}: of {path!r} matches {several}; name one of them")
    written = getattr(type(found[0].owner), found[0].name, None)
    if isinstance(written, property) and written.fset is None:
        raise UnsupportedError(f"{place}: {path!r} is computed, and cannot be written")
    value = found[0].value
    if not (value is None or isinstance(value, str)):
        raise UnsupportedError(
            f"{place}: {path!r} holds a {type(value).__name__}, and not the name of a head (a text "
            "or None)"
        )
    return found[0]


def refuse_unknown_head(
    model: nn.Module,
    wanted: Wanted,
    *,
    added: Iterable[tuple[str, str]] = (),
    original: str | None = None,
) -> None:
    """Refuse a name that no dictionary of heads has.

    Which dictionary the model's own ``forward`` looks in is not declared: it is one that has the
    head which the attribute names now, or that heads are added to. Where there is none, nothing can
    be said.

    Args:
        model: The model.
        wanted: What is to be held.
        added: Heads that growths bring: the path (or a glob) of the dictionary, and the name.
        original: What the attribute held before it was held; default: what it holds now.

    Raises:
        SelectorError: There is no such attribute, or no such head.
        UnsupportedError: The attribute is not one that could be held.
    """
    attribute, coming = find_head_attribute(model, wanted.path, place=wanted.place), list(added)
    used = [name for name in (attribute.value, original) if name is not None]
    heads: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleDict):
            new = [head for glob, head in coming if fnmatchcase(path, glob)]
            if new or any(name in module for name in used):
                heads[path] = [*module, *new]
    if heads and not any(wanted.value in names for names in heads.values()):
        known = list(dict.fromkeys(name for names in heads.values() for name in names))
        raise SelectorError(
            f"{wanted.place}: use {wanted.value!r} is no head in {' or '.join(heads)}, which has "
            f"{', '.join(known)}{did_you_mean(wanted.value, known)}; name one of them, or add it "
            "with add_head"
        )


def _is_torchs(path: str) -> bool:
    return path.rpartition(".")[2].startswith("_")


class AttributeHolding:
    """What is held now, in the model and its averaged copy."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], _Held] = {}

    def values(self) -> dict[str, str | None]:
        """What held attributes hold now, by path."""
        return {one.attribute.path: one.value for one in self._own()}

    def originals(self) -> dict[str, str | None]:
        """What held attributes held before, by path."""
        return {one.attribute.path: one.original for one in self._own()}

    def _own(self) -> list[_Held]:
        return [one for one in self._held.values() if not one.averaged]

    def hold(
        self,
        models: Sequence[nn.Module],
        wanted: Iterable[Wanted],
        *,
        added: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Hold exactly these, and give what else was held back what it held before.

        Args:
            models: The model, and its averaged copy if there is one.
            wanted: The attributes.
            added: Heads that growths have brought: the dictionary's path, and the name.

        Raises:
            SelectorError: There is no such attribute, or no such head; nothing has changed.
            UnsupportedError: It is not one that could be held, or is to be held twice.
        """
        chosen: dict[tuple[int, str], tuple[Wanted, Attribute, bool]] = {}
        for want in wanted:
            for index, model in enumerate(models):
                attribute = find_head_attribute(model, want.path, place=want.place)
                other = chosen.setdefault(_key(attribute), (want, attribute, index > 0))[0]
                if other is not want:
                    raise UnsupportedError(
                        f"{want.place}: {want.path!r} is held by {other.place} already, and can "
                        "only say one thing; keep one of the two"
                    )
        brought = list(added)
        for want, attribute, averaged in chosen.values():
            held = self._held.get(_key(attribute))
            original = None if held is None else held.original
            refuse_unknown_head(models[int(averaged)], want, added=brought, original=original)
        for key in [key for key in self._held if key not in chosen]:
            self._held.pop(key).give_back()
        for want, attribute, averaged in chosen.values():
            self._write(attribute, want.value, averaged=averaged)

    def _write(self, attribute: Attribute, value: str | None, *, averaged: bool) -> None:
        held = self._held.get(_key(attribute))
        original = attribute.value if held is None else held.original
        self._held[_key(attribute)] = _Held(attribute, value, original, averaged)
        attribute.write(value)

    def return_to(self, models: Sequence[nn.Module], values: Values) -> None:
        """Let attributes hold what they held at an earlier time, until they are held anew.

        Args:
            models: The model, and its averaged copy if there is one.
            values: What was held then, by path.

        Raises:
            SelectorError: The model has no such attribute.
        """
        for path, value in ({**self.originals(), **values}).items():
            for index, model in enumerate(models):
                attribute = find_head_attribute(model, path, place="what the snapshot holds")
                self._write(attribute, value, averaged=index > 0)

    def remember(self) -> Callable[[], None]:
        """A way back to what is held now, attributes of configs included."""
        before = dict(self._held)

        def way_back() -> None:
            for key, one in self._held.items():
                if key not in before:
                    one.give_back()
            for one in before.values():
                one.attribute.write(one.value)
            self._held = before

        return way_back

    def close(self) -> None:
        """Give everything back."""
        while self._held:
            self._held.popitem()[1].give_back()


def _key(attribute: Attribute) -> tuple[int, str]:
    return id(attribute.owner), attribute.name


def write_attributes(model: nn.Module, values: Values, *, what: str) -> None:
    """Write attributes that were kept.

    Args:
        model: The model that has them.
        values: What they are to hold.
        what: Whose they are, for the message.

    Raises:
        SnapshotError: The model has no such attribute.
    """
    for path, value in values.items():
        try:
            find_head_attribute(model, path, place=what).write(value)
        except (SelectorError, UnsupportedError) as error:
            raise SnapshotError(str(error)) from error
