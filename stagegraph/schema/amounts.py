"""Numbers as people write them in a document: ``20k``, ``3M``, ``0.5%``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from stagegraph.progress import Duration, Unit, parse_number

__all__ = ["NUMBER_TEXT", "Count", "Factor", "Number", "Operations", "Share", "bounded", "in_reach"]


def _number(value: Any) -> Any:
    return parse_number(value) if isinstance(value, str) else value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_SMALLEST, _LARGEST = 1e-15, 1e18


def _as_float(value: Any) -> Any:
    value = _number(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def in_reach(value: float) -> float:
    """The number, if it is one that a document may have; the others are mistakes, or attacks."""
    if value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise ValueError(f"numbers lie between {_SMALLEST:g} and {_LARGEST:g}, got {value!r}")
    return value


def bounded(relation: str, limit: float) -> str:
    """How a bound is told: ``at least 1``; what must be the least number or more is ``over 0``."""
    if relation == "at least" and limit == _SMALLEST:
        return "over 0"
    return f"{relation} {limit:,}" if isinstance(limit, int) else f"{relation} {limit:g}"


NUMBER_TEXT = {
    "type": "string",
    "pattern": r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[kMBT%]?\s*$",
}
"""The JSON Schema of a number as a text."""


def _or_text(kind: str, **limits: float) -> dict[str, Any]:
    return {"anyOf": [{"type": kind, **limits}, NUMBER_TEXT]}


Count = Annotated[
    int,
    Field(ge=1, le=2**53),
    BeforeValidator(_whole),
    WithJsonSchema(_or_text("integer", minimum=1)),
]
"""A whole number from 1, with ``k M B T`` if that is easier to read."""

Operations = Annotated[
    float,
    Field(ge=1, le=1e30),
    BeforeValidator(_as_float),
    WithJsonSchema(_or_text("number", minimum=1)),
]
"""A number of floating-point operations, such as ``2e21``."""

Number = Annotated[
    float,
    AfterValidator(in_reach),
    BeforeValidator(_as_float),
    WithJsonSchema(_or_text("number")),
]
"""Any finite number."""

Share = Annotated[
    float,
    Field(ge=_SMALLEST, lt=10),
    BeforeValidator(_as_float),
    WithJsonSchema(_or_text("number", exclusiveMinimum=0)),
]
"""A positive share of a value, such as ``0.5%`` or ``0.005``."""

Factor = Annotated[
    float,
    Field(ge=0, le=1000),
    BeforeValidator(_as_float),
    WithJsonSchema(_or_text("number", minimum=0, maximum=1000)),
]
"""A factor to multiply with."""


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and value.strip()[-1:].isalpha() and value.strip()[-1] not in "kMBT":
        duration = Duration.parse(value)
        if duration.unit is not Unit.SECONDS:
            raise ValueError(f"wall time is meant here, got {value!r}; write it like '90 min'")
        return float(duration.amount)
    return _as_float(value)


Seconds = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
"""Wall time: a bare number of seconds, or an amount such as ``90 min``."""
