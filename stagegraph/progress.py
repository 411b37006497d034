"""Progress and Duration: how far training has come, and how much more of it something takes.

Five units count progress: steps (updates the optimizer really made), epochs (passes over the
data, fractions included), samples, tokens, and seconds. Epochs are kept as exact fractions, so
that ten tenths of an epoch are one epoch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from stagegraph.errors import ProgressError, did_you_mean

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ["UNIT_WORDS", "Duration", "Progress", "Unit", "parse_number", "read_fraction"]


class Unit(StrEnum):
    """What progress is counted in."""

    STEPS = "steps"
    EPOCHS = "epochs"
    SAMPLES = "samples"
    TOKENS = "tokens"
    SECONDS = "seconds"


UNIT_WORDS: Mapping[str, tuple[Unit, int]] = {
    **dict.fromkeys(("st", "step", "steps"), (Unit.STEPS, 1)),
    **dict.fromkeys(("ep", "epoch", "epochs"), (Unit.EPOCHS, 1)),
    **dict.fromkeys(("sp", "sample", "samples"), (Unit.SAMPLES, 1)),
    **dict.fromkeys(("tok", "token", "tokens"), (Unit.TOKENS, 1)),
    **dict.fromkeys(("s", "second", "seconds"), (Unit.SECONDS, 1)),
    "min": (Unit.SECONDS, 60),
    "h": (Unit.SECONDS, 3600),
    **dict.fromkeys(("day", "days"), (Unit.SECONDS, 86400)),
}
"""Every word for a unit, with the unit and how many of it one such word is worth."""

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,3}))?)([kMBT%])?", re.ASCII)
_DURATION = re.compile(
    r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?(?:[kMBT](?![A-Za-z]))?)\s*([A-Za-z]+)\s*",
    re.ASCII,
)
_FRACTION = re.compile(r"\d{1,1000}(/\d{1,1000})?", re.ASCII)
_MAX_EXPONENT = 15
_LEAST, _MOST = 1e-15, 1e18
_MAX_TEXT = 64


def parse_number(text: str) -> int | float:
    """Read a number with an optional suffix ``k M B T`` or ``%``.

    Whole numbers come back as ``int``, all others as ``float``.

    >>> parse_number("1.5M"), parse_number("0.5%"), parse_number("1e-3")
    (1500000, 0.005, 0.001)

    Raises:
        ValueError: The text is no such number, or its exponent is over 15.
    """
    match = _NUMBER.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a number; write it like 20k, 1.5M, 1e-3 or 0.5%")
    digits, exponent, suffix = match.groups()
    if exponent is not None and abs(int(exponent)) > _MAX_EXPONENT:
        raise ValueError(f"the exponent of {text!r} is over {_MAX_EXPONENT}")
    exact = Decimal(digits)
    exact = exact / 100 if suffix == "%" else exact * _SUFFIXES[suffix or ""]
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def read_fraction(text: Any) -> Fraction:
    """The inverse of ``str(fraction)``, for fractions from 0.

    Exponents are not read: ``1e999999999`` would take all there is.

    Raises:
        ValueError: The text is no such fraction.
    """
    if type(text) is not str or _FRACTION.fullmatch(text) is None:
        raise ValueError(f"{text!r:.40} is not a fraction such as '7/4'")
    return Fraction(text)


@dataclass(frozen=True, slots=True)
class Duration:
    """An amount of progress: a positive number with one unit.

    >>> Duration.parse("1.5M tokens")
    Duration(amount=1500000, unit=<Unit.TOKENS: 'tokens'>)
    >>> str(Duration.parse("90 min"))
    '5400 seconds'

    Attributes:
        amount: How many; whole for steps, samples and tokens.
        unit: Of what.
    """

    amount: int | float
    unit: Unit

    def __post_init__(self) -> None:
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float):
            raise ValueError(f"the amount of a duration is a number, got {self.amount!r}")
        object.__setattr__(self, "unit", Unit(self.unit))
        if not math.isfinite(self.amount) or self.amount <= 0:
            raise ValueError(f"a duration is positive and finite, got {self.amount} {self.unit}")
        if not _LEAST <= self.amount <= _MOST:
            raise ValueError(
                f"a duration lies between {_LEAST:g} and {_MOST:g}, got {self.amount:g} {self.unit}"
            )
        if self.amount == int(self.amount):
            object.__setattr__(self, "amount", int(self.amount))
        elif self.unit not in (Unit.EPOCHS, Unit.SECONDS):
            raise ValueError(f"{self.unit} are counted in whole numbers, got {self.amount}")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``500 steps``, ``10ep``, ``1.5M tokens``, ``90 min``.

        Raises:
            ValueError: The text is no amount with a unit.
        """
        match = _DURATION.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None:
            raise ValueError(
                f"{text[:40]!r} is not a duration; write a number and a unit, "
                "like '500 steps', '10 ep', '1.5M tokens' or '90 min'"
            )
        number, word = match.groups()
        if word not in UNIT_WORDS:
            raise ValueError(f"unknown unit {word!r} in {text!r}{did_you_mean(word, UNIT_WORDS)}")
        unit, scale = UNIT_WORDS[word]
        return cls(parse_number(number) * scale, unit)

    @property
    def exact(self) -> Fraction:
        """The amount as written, without the rounding of a binary fraction."""
        return Fraction(str(self.amount))

    def __str__(self) -> str:
        return f"{self.amount!r} {self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema(when_used="always")
        )

    @classmethod
    def _validate(cls, value: Any) -> Duration:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"a duration is a number with its unit, like '500 steps'; got {value!r}")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        words = "|".join(UNIT_WORDS)
        return {
            "type": "string",
            "pattern": rf"^\s*(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[kMBT]?\s*({words})\s*$",
            "examples": ["500 steps", "2 epochs", "1.5M tokens", "90 min"],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training has come.

    Attributes:
        step: Optimizer updates really made.
        epoch: Passes over the data; exact, the fraction of the running pass included.
        samples: Training samples, over all ranks.
        tokens: Training tokens, over all ranks.
        seconds: Monotonic seconds of training.
        flops: Floating-point operations, as far as they were counted.
    """

    step: int = 0
    epoch: Fraction = Fraction(0)
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: int = 0

    def of(self, unit: Unit) -> int | float | Fraction:
        """The progress in one unit."""
        return _READ[unit](self)

    def elapsed(self, since: Progress, unit: Unit) -> int | float | Fraction:
        """What was added since an earlier progress, in one unit."""
        return self.of(unit) - since.of(unit)

    def reached(self, duration: Duration, since: Progress) -> bool:
        """Whether a duration that began at ``since`` is over; the same rule for every unit."""
        return self.elapsed(since, duration.unit) >= duration.exact

    def __add__(self, other: Progress) -> Progress:
        return Progress(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Progress) -> Progress:
        return Progress(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON data; zero amounts are left out."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        if "epoch" in data:
            data["epoch"] = str(data["epoch"])
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ProgressError: The data is not a progress.
        """
        try:
            values = dict(data)
            if "epoch" in values:
                values["epoch"] = read_fraction(values["epoch"])
            progress = cls(**values)
            counts = (progress.step, progress.samples, progress.tokens, progress.flops)
            if any(type(count) is not int or count < 0 for count in counts):
                raise ValueError("its counts are whole numbers from 0")
            if not 0 <= progress.seconds < math.inf:
                raise ValueError("its seconds are finite, from 0")
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ProgressError(f"{data!r} is not a progress: {error}") from error
        return progress


_READ: Mapping[Unit, Callable[[Progress], int | float | Fraction]] = {
    Unit.STEPS: lambda p: p.step,
    Unit.EPOCHS: lambda p: p.epoch,
    Unit.SAMPLES: lambda p: p.samples,
    Unit.TOKENS: lambda p: p.tokens,
    Unit.SECONDS: lambda p: p.seconds,
}
