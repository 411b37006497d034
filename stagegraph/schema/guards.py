"""Guards: the conditions on transitions, as data.

A guard is true, false, or unknown; an edge fires on true alone. Missing and non-finite metrics
are unknown, and unknown survives ``not``. A string is a second spelling of the same tree.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Number, Share
from stagegraph.schema.base import Model, Seq
from stagegraph.schema.expressions import Expr
from stagegraph.schema.names import MetricName, Name, Reference
from stagegraph.schema.since_guards import Improved, Recovered, Regressed, Unstable

__all__ = [
    "Affordable",
    "All",
    "Any_",
    "Compare",
    "Completed",
    "Done",
    "Elapsed",
    "EventSeen",
    "Exhausted",
    "Guard",
    "Harmful",
    "Improved",
    "InStage",
    "Not",
    "Plateau",
    "Recovered",
    "Regressed",
    "Unstable",
]


_CONFIRM: Final = 3
_CONFIDENCE: Final = 0.95


class Compare(Model):
    """A comparison of two numbers; unknown if one of them is."""

    type: Literal["compare"]
    left: Expr
    """The first number."""
    op: Literal["<", "<=", ">", ">=", "==", "!="]
    """How to compare."""
    right: Expr
    """The second number."""


class All(Model):
    """True when all are true, false when one is false, else unknown."""

    type: Literal["all"]
    of: Annotated[Seq[Guard], Field(min_length=2, max_length=200)]
    """The guards."""


class Any_(Model):
    """True when one is true, false when all are false, else unknown."""

    type: Literal["any"]
    of: Annotated[Seq[Guard], Field(min_length=2, max_length=200)]
    """The guards."""


class Not(Model):
    """The opposite of a guard; the opposite of unknown is unknown."""

    type: Literal["not"]
    of: Guard
    """The guard."""


class Elapsed(Model):
    """A duration has passed since the region entered its stage."""

    positional: ClassVar = ("duration",)
    type: Literal["elapsed"]
    duration: Duration
    """How long."""


class Completed(Model):
    """The stage has run its course: its duration is over, or all its ramps have ended."""

    type: Literal["completed"]


class Plateau(Model):
    """A metric no longer improves: by ``worth`` (an equivalence test) or by ``patience``.

    With ``worth``: the upper confidence bound of the relative improvement that ``over`` more
    progress would bring, corrected for autocorrelation, lies under ``worth``, ``confirm`` times,
    spaced in progress. With fewer than eight observations in the window, or more noise than
    ``worth``, the answer is "cannot tell". With ``patience``: no new best for that long.
    """

    positional: ClassVar = ("metric",)
    type: Literal["plateau"]
    metric: MetricName
    """The metric; its goal says which way is better."""
    worth: Share | None = None
    """The improvement over one window below which going on is not worth it, such as ``0.5%``."""
    over: Duration | None = None
    """The window, a span of progress; default: eight of the metric's ``every`` intervals."""
    confirm: Annotated[int, Field(ge=1, le=100)] = _CONFIRM
    """How many times in a row the test must hold, spaced by an eighth of the window."""
    confidence: Annotated[Share, Field(ge=0.5, lt=1)] = _CONFIDENCE
    """With ``worth``: of the upper bound; at ``50%`` the bound is the estimate."""
    patience: Duration | None = None
    """Instead of ``worth``: how long without a new best."""
    delta: Annotated[Number, Field(ge=0, lt=10)] = 0.0
    """With ``patience``: the relative improvement that a new best must bring."""

    @model_validator(mode="after")
    def _one_way(self) -> Plateau:
        if (self.worth is None) == (self.patience is None):
            raise ValueError(
                "a plateau is told either by 'worth' (an equivalence test) or by 'patience'; "
                "give exactly one of them"
            )
        if self.patience is not None and (self.over is not None or self.confirm != _CONFIRM):
            raise ValueError("'over' and 'confirm' belong to 'worth', not to 'patience'")
        if self.patience is not None and self.confidence != _CONFIDENCE:
            raise ValueError("'confidence' belongs to 'worth', not to 'patience'")
        if self.worth is not None and self.delta != 0:
            raise ValueError("'delta' belongs to 'patience', not to 'worth'")
        return self


class InStage(Model):
    """A region is in a stage."""

    positional: ClassVar = ("stage",)
    type: Literal["in"]
    stage: Reference
    """The stage, such as ``data:hard``."""


class Done(Model):
    """A region has reached a final stage."""

    positional: ClassVar = ("region",)
    type: Literal["done"]
    region: Name
    """The region."""


class EventSeen(Model):
    """An event was sent before this boundary."""

    positional: ClassVar = ("event",)
    type: Literal["event"]
    event: Name
    """The event, as declared."""


class Affordable(Model):
    """The parameters that entering a stage would add fit what is left of ``params``."""

    positional: ClassVar = ("stage",)
    type: Literal["affordable"]
    stage: Reference
    """The stage that grows."""


class Exhausted(Model):
    """No growth is left to a stage: each option was taken, is excluded, failed, or does not fit."""

    positional: ClassVar = ("stage",)
    type: Literal["exhausted"]
    stage: Reference
    """The stage that grows."""


class Harmful(Model):
    """The newest attribution of a metric found a module without which it would be better.

    Better by at least ``by``, as a share of the absolute value that the metric had with all modules
    in place. Unknown until the metric has been attributed since the structure last changed.
    """

    positional: ClassVar = ("metric",)
    type: Literal["harmful"]
    metric: MetricName
    """The metric that was attributed."""
    by: Share
    """How much better it would be without the module, as a share, such as ``1%``."""


MAX_TREE_DEPTH: Final = 24
"""How many guards and expressions inside one another."""


def tree_depth(node: Model | float) -> int:
    """How many guards and expressions stand inside one another, this one included.

    >>> tree_depth(3.0), tree_depth(Not(type="not", of=Done(type="done", region="a")))
    (1, 2)
    """
    deepest, waiting = 0, [(node, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(node, Model):
            fields = vars(node)  # asking a model for what it does not have is slow
            for name in ("of", "left", "right"):
                below = fields.get(name)
                parts = below if isinstance(below, tuple) else (below,)
                waiting.extend(
                    (part, depth + 1) for part in parts if isinstance(part, Model | float)
                )
    return deepest


def _not_too_deep(guard: Model) -> Model:
    if tree_depth(guard) > MAX_TREE_DEPTH:
        raise ValueError(f"guards and expressions nested deeper than {MAX_TREE_DEPTH}")
    return guard


def read_guard(value: Any) -> Any:
    """Let a string stand for the tree it spells; leave all else to validation."""
    if isinstance(value, str):
        from stagegraph.schema.guard_text import parse_guard

        return parse_guard(value)
    return value


Guard = Annotated[
    Annotated[
        Compare
        | All
        | Any_
        | Not
        | Elapsed
        | Completed
        | Plateau
        | Regressed
        | Recovered
        | Improved
        | Unstable
        | InStage
        | Done
        | EventSeen
        | Affordable
        | Exhausted
        | Harmful,
        Field(discriminator="type"),
    ],
    BeforeValidator(read_guard),
]
"""A guard string such as ``plateau(val_loss, worth=0.5%) and left(steps) > 6000``, or a tree."""

TopGuard = Annotated[Guard, AfterValidator(_not_too_deep)]
"""A guard as a whole, no deeper than a guard string can spell."""

GUARD_CALLS: dict[str, type[Model]] = {
    "elapsed": Elapsed,
    "completed": Completed,
    "plateau": Plateau,
    "regressed": Regressed,
    "recovered": Recovered,
    "improved": Improved,
    "unstable": Unstable,
    "in": InStage,
    "done": Done,
    "event": EventSeen,
    "affordable": Affordable,
    "exhausted": Exhausted,
    "harmful": Harmful,
}
"""Guards that a string writes as a call."""

for _model in (All, Any_, Not):
    _model.model_rebuild()
