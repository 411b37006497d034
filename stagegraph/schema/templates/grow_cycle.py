"""grow_cycle: wait, grow, warm up, settle, consolidate; undone if it made things worse."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.actions import Action, GrowthAction
from stagegraph.schema.activities import Curve, During
from stagegraph.schema.amounts import Factor, Share
from stagegraph.schema.base import Model, Seq
from stagegraph.schema.guards import TopGuard
from stagegraph.schema.names import MetricName, Reference
from stagegraph.schema.templates.template import Template, UseTemplate, diverged, given

__all__ = ["GrowCycle", "Undo", "UseGrowCycle"]


class Undo(Model):
    """When a growth counts as a mistake; it is then rolled back, and training goes on without it.

    The metric is compared with its last value before the growth, while settling and consolidating.
    One that is NaN or infinite compares with nothing, and is a mistake by itself.
    """

    metric: MetricName
    """What must not get worse; its goal says which way is worse."""
    by: Share = 0.05
    """How much worse, as a share of the value before the growth."""
    lasting: Duration | None = None
    """For how long."""
    nonfinite: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """So many NaN or infinite values in a row are a mistake too."""
    at_most: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How often in the whole run."""


class GrowCycle(Template):
    """Grow once: wait for the trigger, grow, warm up, settle, consolidate.

    The warm-up ramps the learning rate of what has grown from ``lr_start`` to 1 and, where the
    growth adds modules, blends them in by an alpha ramp. The settling cuts every learning rate by
    ``settle_factor``. Nothing else grows in this region before the consolidation is over, and it is
    always over after ``consolidate``. Sources: StackBERT; G_stack (2405.15319); bert2BERT
    (2110.07143); for the warm-up of new parameters 2310.07999.
    """

    template: ClassVar = "grow_cycle"

    growth: Annotated[Seq[Action], Field(min_length=1, max_length=50)]
    """What to do, in order; at least one growth."""
    trigger: TopGuard | None = None
    """When to grow; none means at once."""
    wait: Duration | None = None
    """How long to wait for the trigger at most; without it, until it comes."""
    otherwise: Literal["grow", "skip"] = "grow"
    """What to do when the wait is over and the trigger has not come."""
    warmup: Duration
    """How long what has grown is eased in."""
    curve: Curve = "cosine"
    """The shape of the ramps."""
    lr_start: Annotated[Factor, Field(lt=1)] = 0.0
    """The learning-rate factor of what has grown, at its first update."""
    blend: bool = True
    """Whether new modules are blended in by an alpha ramp too; a growth in width adds none."""
    settle: Duration | None = None
    """How long every learning rate is cut after the warm-up; without it, it is not."""
    settle_factor: Annotated[Factor, Field(gt=0, lt=1)] = 0.3
    """The cut."""
    consolidate: Duration
    """How long to train under the structure lock."""
    until: TopGuard | None = None
    """What ends the consolidation sooner."""
    undo: Undo | None = None
    """When to take the growth back; without it, never."""
    during: Annotated[Seq[During], Field(max_length=50)] = ()
    """What else is held while warming up, settling and consolidating."""

    @model_validator(mode="after")
    def _fits(self) -> GrowCycle:
        if not any(isinstance(action, GrowthAction) for action in self.growth):
            raise ValueError("'growth' has no growth in it; add an action such as deepen or widen")
        if self.trigger is None and self.wait is not None:
            raise ValueError("'wait' is for a trigger that may not come; add 'trigger'")
        if self.wait is None and self.otherwise != "grow":
            raise ValueError("'otherwise' is for when the wait is over; add 'wait'")
        return self

    def parts(self) -> dict[str, Any]:
        """The stages ``wait``, ``grow``, ``warmup``, ``settle``, ``consolidate``, ``done``.

        ``wait`` is there with a trigger, ``settle`` if asked for, ``undone`` with ``undo``.
        """
        stages: dict[str, Any] = {}
        if self.trigger is not None:
            stages["wait"] = self._wait()
        before = [{"type": "snapshot", "name": "before"}] if self.undo else []
        stages["grow"] = {"kind": "grow", "actions": [*before, *self.growth], "next": "warmup"}
        stages["warmup"] = {
            "kind": "warmup",
            "during": [*self._ramps(), *self.during],
            "next": "consolidate" if self.settle is None else "settle",
        }
        if self.settle is not None:
            stages["settle"] = given(
                kind="settle",
                during=self.during,
                lr_factor=self.settle_factor,
                duration=self.settle,
                next="consolidate",
            )
        sooner = ({"target": "done", "when": self.until},) if self.until is not None else ()
        stages["consolidate"] = given(
            kind="consolidate",
            during=self.during,
            transitions=sooner,
            duration=self.consolidate,
            next="done",
        )
        if self.undo is not None:
            stages["undone"] = {"kind": "train", "duration": self.consolidate, "next": "done"}
        stages["done"] = {"kind": "final"}
        return given(
            initial=next(iter(stages)),
            stages=stages,
            interrupts=() if self.undo is None else (self._way_back(self.undo),),
        )

    def _wait(self) -> dict[str, Any]:
        after = None if self.wait is None else "grow" if self.otherwise == "grow" else "done"
        return given(
            kind="train",
            transitions=({"target": "grow", "when": self.trigger},),
            duration=self.wait,
            next=after,
        )

    def _ramps(self) -> list[dict[str, Any]]:
        ramp = {"of": "grown", "curve": self.curve, "over": self.warmup}
        ramps = [{"type": "lr_ramp", **ramp, "start": self.lr_start, "end": 1.0}]
        modules = any(isinstance(one, GrowthAction) and one.blends for one in self.growth)
        return [{"type": "alpha_ramp", **ramp}, *ramps] if self.blend and modules else ramps

    def _way_back(self, undo: Undo) -> dict[str, Any]:
        worse = given(
            type="regressed", metric=undo.metric, by=undo.by, since="before", lasting=undo.lasting
        )
        return {
            "name": "undo",
            "within": [*(("settle",) if self.settle is not None else ()), "consolidate"],
            "when": {"type": "any", "of": [worse, diverged(undo.metric, undo.nonfinite)]},
            "actions": [{"type": "roll_back", "to": "before", "rng": "fork"}],
            "target": "undone",
            "at_most": undo.at_most,
        }


class UseGrowCycle(UseTemplate):
    """A stage that puts a ``grow_cycle`` in."""

    use: Literal["grow_cycle"]
    """The template."""
    with_: GrowCycle = Field(alias="with")
    """What fills the template in."""
    next: Reference
    """Where it leads when it is over."""
