"""Hyper-parameters as activities: any number of the optimizer, the model or the host's loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.schema.activity_model import ActivityModel
from stagegraph.schema.levels import Level, MovingLevel, Setting, bounds_of
from stagegraph.schema.names import Glob, Name

__all__ = ["Hyper"]

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


class Hyper(ActivityModel):
    """A hyper-parameter while the stage lasts: of the optimizer, the model, or the host's loop."""

    writes: ClassVar = "hyper"
    type: Literal["hyper"]
    optimizer: Annotated[Glob, Field(pattern=r"^[A-Za-z_]\w*(\.\d+)?\z")] | None = None
    """A key of the optimizer's parameter groups, such as ``weight_decay``, or an entry of one,
    such as ``betas.0``."""
    attribute: Glob | None = None
    """A number that the model or what its modules hold has, such as ``blocks.*.drop.p``."""
    knob: Name | None = None
    """A number of the loop's own, which it reads: ``engine.knob("clip", 1.0)``."""
    value: Setting | None = None
    """What it is while the stage lasts."""
    factor: Level | None = None
    """Or what the host's own value is multiplied by."""

    @property
    def target(self) -> str:
        """What it is about, in words that no other hyper-parameter has."""
        if self.optimizer is not None:
            return f"optimizer {self.optimizer}"
        return f"attribute {self.attribute}" if self.knob is None else f"knob {self.knob}"

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """``value`` or ``factor``."""
        given = {"value": self.value, "factor": self.factor}
        return {key: level for key, level in given.items() if level is not None}

    @property
    def reach(self) -> tuple[float, float]:
        """The two numbers between which ``value``, or ``factor``, stays."""
        ((_, level),) = self.levels.items()
        return bounds_of(level)

    @model_validator(mode="after")
    def _one_of_each(self) -> Hyper:
        about = [self.optimizer, self.attribute, self.knob]
        if sum(one is not None for one in about) != 1:
            raise ValueError(
                "a hyper-parameter is one thing: give exactly one of 'optimizer' (a key of its "
                "parameter groups), 'attribute' (of the model) and 'knob' (read by the loop)"
            )
        if (self.value is None) == (self.factor is None):
            raise ValueError("give exactly one of 'value' and 'factor'")
        if self.optimizer is not None and self.optimizer.partition(".")[0] in _RATES:
            raise ValueError(
                "the learning rate has activities of its own, which compose with schedulers; use "
                "lr_factor or lr_ramp"
            )
        if self.factor is not None and bounds_of(self.factor) == (1.0, 1.0):
            raise ValueError("a factor of 1 changes nothing; leave the activity out")
        return self
