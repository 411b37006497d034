"""Guards that compare a metric with what it was: since a snapshot, or since a baseline."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Number, Share
from stagegraph.schema.base import Model
from stagegraph.schema.names import MetricName, Name

__all__ = ["Compared", "Improved", "Recovered", "Regressed", "Since", "Unstable"]


class Regressed(Model):
    """A metric is worse than it was just before a snapshot was taken.

    Compared with the last finite value before the snapshot or baseline, as a share of its absolute
    value, in the direction of the metric's goal.
    """

    positional: ClassVar = ("metric",)
    type: Literal["regressed"]
    metric: MetricName
    """The metric."""
    by: Share
    """How much worse, as a share, such as ``5%``."""
    since: Name
    """The snapshot or baseline."""
    lasting: Duration | None = None
    """How long it must have been worse, in at least two observations."""


class Recovered(Model):
    """A metric is back where it was before a snapshot, within a share of it, or better.

    Compared as by ``regressed``.
    """

    positional: ClassVar = ("metric",)
    type: Literal["recovered"]
    metric: MetricName
    """The metric."""
    within: Share
    """How much worse it may still be, as a share, such as ``1%``."""
    since: Name
    """The snapshot or baseline."""
    lasting: Duration | None = None
    """How long it must have been back, in at least two observations."""


class Improved(Model):
    """A metric is better than it was before a snapshot, by more than a share of it.

    Compared as by ``regressed``. Its negation, asked when the growth has had its time, is the
    stopping rule "growth no longer helps".
    """

    positional: ClassVar = ("metric",)
    type: Literal["improved"]
    metric: MetricName
    """The metric."""
    by: Share
    """How much better, as a share, such as ``2%``."""
    since: Name
    """The snapshot or baseline."""
    lasting: Duration | None = None
    """How long it must have been better, in at least two observations."""


class Unstable(Model):
    """A metric has stayed far above what it was before a snapshot, beyond an allowed transient.

    The reference is the median of the values before the snapshot or baseline, and the spread of
    them (median absolute deviation). A reading is the median of the values of the last ``over``,
    so that single outliers do nothing.
    """

    positional: ClassVar = ("metric",)
    type: Literal["unstable"]
    metric: MetricName
    """The metric: a loss, or the norm of the gradient."""
    since: Name
    """The snapshot or baseline."""
    over: Duration
    """The window of a reading, at least three of the metric's values."""
    spreads: Annotated[Number, Field(gt=0, le=1000)] = 2.0
    """How many spreads worse than the reference is too much."""
    by: Share = 0.02
    """The least that is too much, as a share of the reference, however small the spread."""
    allow: Duration | None = None
    """How long after the snapshot nothing is judged: the transient of the growth."""
    within: Duration | None = None
    """The deadline: what has not come back so long after the snapshot is unstable at once."""
    lasting: Duration | None = None
    """How long it must have stayed too much; default: ``over``."""

    @model_validator(mode="after")
    def _in_order(self) -> Unstable:
        unit = self.over.unit
        for name in ("allow", "within", "lasting"):
            given: Duration | None = getattr(self, name)
            if given is not None and given.unit is not unit:
                raise ValueError(
                    f"'over', 'allow', 'within' and 'lasting' are counted in one unit; 'over' is "
                    f"in {unit}, {name!r} in {given.unit}"
                )
        allow, within = self.allow, self.within
        if allow is not None and within is not None and within.exact <= allow.exact:
            raise ValueError(
                f"the deadline 'within' comes after the transient 'allow'; got {within} and {allow}"
            )
        return self


Compared = Regressed | Recovered | Improved
"""Guards that compare one value with one other."""

Since = Compared | Unstable
"""Guards that ask since a snapshot or a baseline."""
