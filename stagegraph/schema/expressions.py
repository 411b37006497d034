"""Expressions: the numbers that guards compare.

An expression is data, a tree of the models below; a string is a second spelling of the tree
(:mod:`stagegraph.schema.guard_text` reads it). Every value is a float64 or unknown, and whatever
is computed from an unknown, or divides by zero, is unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Number
from stagegraph.schema.base import Model
from stagegraph.schema.names import MetricName, ReadName, Reference

__all__ = [
    "Amount",
    "Arithmetic",
    "Best",
    "Expr",
    "Gain",
    "Last",
    "Left",
    "NameExpr",
    "Negative",
    "Nonfinite",
    "Spent",
    "Visits",
]

Amount = Literal["params", "steps", "epochs", "samples", "tokens", "flops", "seconds"]
"""What a budget limits."""


class NameExpr(Model):
    """A metric, or one of ``step epoch samples tokens seconds params flops``."""

    type: Literal["name"]
    name: ReadName
    """The metric as declared, or the fact."""


class Arithmetic(Model):
    """Two numbers combined; a division by zero is unknown."""

    type: Literal["arithmetic"]
    op: Literal["+", "-", "*", "/"]
    """The operator."""
    left: Expr
    """The first number."""
    right: Expr
    """The second number."""


class Negative(Model):
    """A number with its sign turned."""

    type: Literal["negative"]
    of: Expr
    """The number."""


class Last(Model):
    """The last finite value of a metric, on the whole branch."""

    positional: ClassVar = ("metric",)
    type: Literal["last"]
    metric: MetricName
    """The metric."""


class Best(Model):
    """The best finite value of a metric, on the whole branch, by its goal."""

    positional: ClassVar = ("metric",)
    type: Literal["best"]
    metric: MetricName
    """The metric."""


class Nonfinite(Model):
    """How many values of a metric in a row, up to the newest, were NaN or infinite."""

    positional: ClassVar = ("metric",)
    type: Literal["nonfinite"]
    metric: MetricName
    """The metric."""


class Gain(Model):
    """How much better a metric would be after ``over`` more progress, as a share of its value.

    From the straight line through the last ``over`` of its values, as ``plateau`` fits it; unknown
    until there are enough of them.
    """

    positional: ClassVar = ("metric",)
    type: Literal["gain"]
    metric: MetricName
    """The metric; its goal says which way is better."""
    over: Duration
    """How much more progress, and how far back the line reaches."""


class Spent(Model):
    """What was paid so far, abandoned branches included; of ``params``: how many there are."""

    positional: ClassVar = ("amount",)
    type: Literal["spent"]
    amount: Amount
    """Which budget."""


class Left(Model):
    """What is left of a budget."""

    positional: ClassVar = ("amount",)
    type: Literal["left"]
    amount: Amount
    """Which budget; the graph must declare it."""


class Visits(Model):
    """How often a stage was entered, the running visit included."""

    positional: ClassVar = ("stage",)
    type: Literal["visits"]
    stage: Reference
    """The stage."""


def read_expression(value: Any) -> Any:
    """Let a string stand for the tree it spells; leave all else to validation."""
    if isinstance(value, str):
        from stagegraph.schema.guard_text import parse_expression

        return parse_expression(value)
    return value


def _tag(value: Any) -> str:
    if isinstance(value, Model):
        return str(getattr(value, "type", "number"))
    if isinstance(value, dict):
        return str(value.get("type", "missing"))
    return "number"


Expr = Annotated[
    Annotated[Number, Tag("number")]
    | Annotated[NameExpr, Tag("name")]
    | Annotated[Arithmetic, Tag("arithmetic")]
    | Annotated[Negative, Tag("negative")]
    | Annotated[Last, Tag("last")]
    | Annotated[Best, Tag("best")]
    | Annotated[Nonfinite, Tag("nonfinite")]
    | Annotated[Gain, Tag("gain")]
    | Annotated[Spent, Tag("spent")]
    | Annotated[Left, Tag("left")]
    | Annotated[Visits, Tag("visits")],
    Discriminator(_tag),
    BeforeValidator(read_expression),
]
"""A number, a string such as ``best(val_loss) * 1.05``, or a tree."""

EXPRESSION_CALLS: dict[str, type[Model]] = {
    "last": Last,
    "best": Best,
    "nonfinite": Nonfinite,
    "gain": Gain,
    "spent": Spent,
    "left": Left,
    "visits": Visits,
}
"""Expressions that a string writes as a call."""

Arithmetic.model_rebuild()
Negative.model_rebuild()
