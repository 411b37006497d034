"""Numbers that are held: hyper-parameters that the model keeps in attributes, while a stage lasts.

The attribute is the user's own. It is written when an activity begins to hold it, and gets back
what it held before when the activity is over, whatever the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from stagegraph.actions.dropout_rates import refuse_no_rate
from stagegraph.actions.growth.attributes import (
    Attribute,
    matching_attributes,
    matching_owners,
)
from stagegraph.errors import SelectorError, SnapshotError, UnsupportedError, did_you_mean

__all__ = [
    "NumberHolding",
    "WantedNumber",
    "find_numbers",
    "refuse_made_frequencies",
    "write_numbers",
]

Number = int | float


@dataclass(frozen=True, slots=True)
class WantedNumber:
    """Attributes that an activity wants to hold a number.

    Attributes:
        place: Where the activity is written.
        path: Dotted path of the attributes; ``*`` stands for modules.
        value: The number.
        times: Whether it is a factor on what the attribute held before.
        key: What the number is tuned by.
        reach: Between what it stays while it is tuned, if it is.
    """

    place: str
    path: str
    value: float
    times: bool = False
    key: str = ""
    reach: tuple[float, ...] = ()

    def require(self, attribute: Attribute, original: Number) -> None:
        """Refuse what the attribute cannot hold at any time.

        Raises:
            UnsupportedError: It cannot hold this number, or one that this is tuned to.
        """
        several = [replace(self, value=value) for value in (self.value, *self.reach)]
        refuse_no_rate(attribute, [one.applied(original) for one in several], place=self.place)

    def applied(self, original: Number) -> Number:
        """What the attribute is to hold; a whole number stays one where it can."""
        number = original * self.value if self.times else self.value
        whole = isinstance(original, int) and float(number).is_integer()
        return int(number) if whole else float(number)


@dataclass(frozen=True, slots=True)
class _Held:
    attribute: Attribute
    wanted: WantedNumber
    original: Number
    averaged: bool

    @property
    def value(self) -> Number:
        return self.wanted.applied(self.original)


def find_numbers(model: nn.Module, path: str, *, place: str) -> list[Attribute]:
    """The attributes that a path means, each of which holds a number.

    Raises:
        SelectorError: There is none.
        UnsupportedError: One holds something else, or cannot be written.
    """
    found = matching_attributes(model, path)
    if not found:
        numbers = {
            f"{name}.{key}".lstrip(".")
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if _is_number(value) and not key.startswith("_")
        }
        raise SelectorError(
            f"{place}: {path!r} matches no attribute of the model or of what its modules hold"
            f"{_who_has_not(model, path)}{did_you_mean(path, numbers)}"
        )
    for one in found:
        written = getattr(type(one.owner), one.name, None)
        if isinstance(written, property) and written.fset is None:
            raise UnsupportedError(f"{place}: {one.path!r} is computed, and cannot be written")
        if not _is_number(one.value):
            raise UnsupportedError(
                f"{place}: {one.path!r} holds a {type(one.value).__name__}, and no number that a "
                "stage could hold"
            )
    return found


def _who_has_not(model: nn.Module, path: str) -> str:
    """The first of those that a path means and that have no such attribute, in words."""
    where, _, name = path.rpartition(".")
    for at, owner in matching_owners(model, where):
        return f" ({at or 'the model'} is a {type(owner).__name__} and has no {name!r})"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def refuse_made_frequencies(model: nn.Module, paths: Sequence[str], *, place: str) -> None:
    """Refuse a base of rotary positions that would be written and never read.

    Raises:
        UnsupportedError: The model has made its frequencies already, and keeps them.
    """
    made = [name for name, _ in model.named_buffers() if name.rpartition(".")[2] == "inv_freq"]
    if made and paths:
        raise UnsupportedError(
            f"{place}: rope_base would be written to {paths[0]!r}, and the model has made its "
            f"frequencies from it already and keeps them in the buffer {made[0]!r}; use the "
            "growth extend_context with rope_base, which changes the buffer"
        )


class NumberHolding:
    """What is held now, in the model and its averaged copy."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], _Held] = {}

    def originals(self) -> dict[str, Number]:
        """What held attributes held before, by path."""
        return {one.attribute.path: one.original for one in self._held.values() if not one.averaged}

    def values(self) -> dict[str, Number]:
        """What held attributes hold now, by path."""
        return {one.attribute.path: one.value for one in self._held.values() if not one.averaged}

    def hold(self, models: Sequence[nn.Module], wanted: Iterable[WantedNumber]) -> None:
        """Hold exactly these, and give what else was held back what it held before.

        Args:
            models: The model, and its averaged copy if there is one.
            wanted: The numbers.

        Raises:
            SelectorError: There is no such attribute; nothing has changed.
            UnsupportedError: It is not one that could be held, or is to be held twice, or cannot
                hold this number.
        """
        chosen: dict[tuple[int, str], _Held] = {}
        for want in wanted:
            for index, model in enumerate(models):
                for attribute in find_numbers(model, want.path, place=want.place):
                    known = self._held.get(_key(attribute))
                    original = attribute.value if known is None else known.original
                    want.require(attribute, original)
                    held = _Held(attribute, want, original, index > 0)
                    other = chosen.setdefault(_key(attribute), held).wanted
                    if other is not want:
                        raise UnsupportedError(
                            f"{want.place}: {attribute.path!r} is held by {other.place} already, "
                            "and can hold one number only; keep one of the two"
                        )
        self.release(keep=chosen)
        self._held = chosen
        for one in chosen.values():
            one.attribute.write(one.value)

    def tune(self, key: str, value: float) -> bool:
        """Move a number; whether it is one that is held."""
        moved = False
        for place, one in self._held.items():
            if one.wanted.key == key:
                held = replace(one, wanted=replace(one.wanted, value=value))
                self._held[place] = held
                held.attribute.write(held.value)
                moved = True
        return moved

    def release(self, *, keep: Iterable[tuple[int, str]] = ()) -> None:
        """Give back what is held; a growth then copies the model's own numbers."""
        kept = set(keep)
        for key in [key for key in self._held if key not in kept]:
            one = self._held.pop(key)
            one.attribute.write(one.original)

    def remember(self) -> Callable[[], None]:
        """A way back to what is held now."""
        before = dict(self._held)

        def way_back() -> None:
            for key, one in self._held.items():
                if key not in before:
                    one.attribute.write(one.original)
            for one in before.values():
                one.attribute.write(one.value)
            self._held = before

        return way_back


def _key(attribute: Attribute) -> tuple[int, str]:
    return id(attribute.owner), attribute.name


def write_numbers(model: nn.Module, values: Mapping[str, Number], *, what: str) -> None:
    """Write numbers that were kept.

    Raises:
        SnapshotError: The model has no such attribute.
    """
    for path, value in values.items():
        try:
            for attribute in find_numbers(model, path, place=what):
                attribute.write(value)
        except (SelectorError, UnsupportedError) as error:
            raise SnapshotError(str(error)) from error
