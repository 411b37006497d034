"""gradual_unfreezing: train the top first, and thaw the groups below it one by one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.activities import Curve
from stagegraph.schema.amounts import Number
from stagegraph.schema.base import Seq, as_union
from stagegraph.schema.guards import TopGuard
from stagegraph.schema.names import Glob, Reference
from stagegraph.schema.templates.template import Template, UseTemplate, given

__all__ = ["GradualUnfreezing", "UseGradualUnfreezing"]

Group = Annotated[tuple[Glob, ...], BeforeValidator(as_union), Field(min_length=1, max_length=100)]
"""A pattern of names, or a list of them."""


class GradualUnfreezing(Template):
    """Thaw a model from the top down (ULMFiT, 1801.06146).

    The first group trains from the beginning; each of the others is frozen until its turn. With
    ``lr_decay`` d, group k trains at 1/d^(k−1) of the learning rate. Parameters in no group, and
    those that the user froze, stay as they are.
    """

    template: ClassVar = "gradual_unfreezing"

    groups: Annotated[Seq[Group], Field(min_length=2, max_length=50)]
    """The groups of parameters, the one that trains first at the head of the list."""
    every: Duration
    """How long to train before the next group is thawed."""
    when: TopGuard | None = None
    """What thaws the next group sooner, such as a plateau."""
    warmup: Duration | None = None
    """How long a thawed group's learning rate takes to come up from 0; without it, it does not."""
    curve: Curve = "linear"
    """The shape of that ramp."""
    lr_decay: Annotated[Number, Field(ge=1, le=100)] = 1.0
    """How many times slower each group trains than the one before it; 2.6 in the paper."""
    last: Duration | None = None
    """How long to train when all is thawed; default: as long as before."""
    norms: Literal["keep", "eval"] = "keep"
    """``eval``: norms with running statistics in frozen groups stop updating them."""

    @model_validator(mode="after")
    def _differ(self) -> GradualUnfreezing:
        for number, group in enumerate(self.groups):
            if group in self.groups[:number]:
                raise ValueError(f"the group {', '.join(map(repr, group))} is listed twice")
        return self

    def parts(self) -> dict[str, Any]:
        """The stages ``thaw1``, ``warmup2``, ``thaw2``, and so on, and ``done``."""
        count = len(self.groups)
        stages: dict[str, Any] = {}
        for number in range(1, count + 1):
            after = f"{'thaw' if self.warmup is None else 'warmup'}{number + 1}"
            if number == count:
                after = "done"
            held = self._held(number)
            if number > 1 and self.warmup is not None:
                ramp = {
                    "type": "lr_ramp",
                    "of": self.groups[number - 1],
                    "start": 0.0,
                    "end": 1.0,
                    "curve": self.curve,
                    "over": self.warmup,
                }
                next_ = f"thaw{number}"
                stages[f"warmup{number}"] = {"kind": "warmup", "during": [*held, ramp]}
                stages[f"warmup{number}"]["next"] = next_
            sooner = ({"target": after, "when": self.when},) if self.when is not None else ()
            stages[f"thaw{number}"] = given(
                kind="train",
                during=held,
                transitions=sooner,
                duration=self.last if number == count and self.last is not None else self.every,
                next=after,
            )
        stages["done"] = {"kind": "final"}
        return {"initial": "thaw1", "stages": stages, "activities": self._activities()}

    def _held(self, number: int) -> tuple[str, ...]:
        """What is held while so many groups are thawed."""
        below = range(number + 1, len(self.groups) + 1)
        rates = range(2, number + 1) if self.lr_decay > 1 else ()
        return (*(f"frozen{group}" for group in below), *(f"rate{group}" for group in rates))

    def _activities(self) -> dict[str, Any]:
        """Named, so that each goes on without a break while consecutive stages list it."""
        found: dict[str, Any] = {}
        for number, group in enumerate(self.groups[1:], 2):
            found[f"frozen{number}"] = {"type": "freeze", "of": group, "norms": self.norms}
            if self.lr_decay > 1:
                factor = self.lr_decay ** (1 - number)
                found[f"rate{number}"] = {"type": "lr_factor", "of": group, "factor": factor}
        return found


class UseGradualUnfreezing(UseTemplate):
    """A stage that puts a ``gradual_unfreezing`` in."""

    use: Literal["gradual_unfreezing"]
    """The template."""
    with_: GradualUnfreezing = Field(alias="with")
    """What fills the template in."""
    next: Reference
    """Where it leads when all is thawed and trained."""
