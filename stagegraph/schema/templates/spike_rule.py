"""spike_rule: keep a snapshot, and return to it past the data of a spike."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Count, Factor, Share
from stagegraph.schema.guards import TopGuard
from stagegraph.schema.names import MetricName
from stagegraph.schema.templates.template import Template, UseTemplate, diverged, given

__all__ = ["SpikeRule", "UseSpikeRule"]


class SpikeRule(Template):
    """Rewind and skip (PaLM, 2204.02311): return to a snapshot, past the data of the spike.

    A region of its own, which has no end and accompanies the others: a rollback takes all regions
    back. A spike is a metric that has become worse by ``by`` since the newest snapshot, or that was
    NaN or infinite so many times in a row; ``when`` says otherwise. After a rollback the next
    snapshot is taken a whole ``every`` later, so that none holds the spike's beginning.
    """

    template: ClassVar = "spike_rule"
    ends: ClassVar = False

    metric: MetricName
    """What spikes; its goal says which way is worse."""
    by: Share = 0.5
    """How much worse than before the newest snapshot, as a share of that value."""
    lasting: Duration | None = None
    """For how long; without it, one value is enough."""
    nonfinite: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """So many NaN or infinite values in a row are a spike too."""
    when: TopGuard | None = None
    """Another condition, in the place of these, such as
    ``unstable(loss, since=good, over=400 steps)``; the snapshot is called ``good`` in it."""
    every: Duration
    """How often a snapshot is taken; the newest is the one to return to."""
    data: Literal["skip", "rewind"] = "skip"
    """``skip``: go on with the data that follows; ``rewind``: the same data, with other random
    numbers."""
    skip_batches: Count | None = None
    """With ``data: skip``: how many batches to pass over from the snapshot's position on (200 to
    500 in the paper), per return to it, instead of all that were used since."""
    lr_factor: Annotated[Factor, Field(gt=0, lt=1)] | None = None
    """A cut of every learning rate from then on, at each spike."""
    at_most: Annotated[int, Field(ge=1, le=1_000_000)]
    """How often in the whole run."""
    then: Literal["go_on", "stop"] = "go_on"
    """What a spike does when these are used up: nothing, or end the run."""

    @model_validator(mode="after")
    def _one_condition(self) -> SpikeRule:
        fields = type(self).model_fields
        said = ("by", "lasting", "nonfinite")
        unused = [key for key in said if getattr(self, key) != fields[key].default]
        if self.when is not None and unused:
            raise ValueError(f"'when' takes the place of {', '.join(map(repr, unused))}")
        if self.skip_batches is not None and self.data != "skip":
            raise ValueError("'skip_batches' belongs to data: skip, and 'data' is rewind")
        return self

    def parts(self) -> dict[str, Any]:
        """The stages ``keep`` (a snapshot at each entry) and ``again`` (after a rollback)."""
        spike = self._spike()
        differs = {"data": "skip"} if self.data == "skip" else {"rng": "fork"}
        back = given(
            type="roll_back",
            to="good",
            **differs,
            skip_batches=self.skip_batches,
            lr_factor=self.lr_factor,
        )
        rule = {"name": "spike", "when": spike, "actions": [back], "target": "again"}
        interrupts = [{**rule, "at_most": self.at_most}]
        if self.then == "stop":
            interrupts.append({"name": "too_many", "when": spike, "target": "stop"})
        train = {"kind": "train", "duration": self.every, "next": "keep"}
        kept = {"type": "snapshot", "name": "good"}
        return {
            "initial": "keep",
            "stages": {"keep": {**train, "actions": [kept]}, "again": train},
            "interrupts": interrupts,
        }

    def _spike(self) -> Any:
        if self.when is not None:
            return self.when
        worse = given(
            type="regressed", metric=self.metric, by=self.by, since="good", lasting=self.lasting
        )
        return {"type": "any", "of": [worse, diverged(self.metric, self.nonfinite)]}


class UseSpikeRule(UseTemplate):
    """A stage that puts a ``spike_rule`` in; the only stage of its region."""

    use: Literal["spike_rule"]
    """The template."""
    with_: SpikeRule = Field(alias="with")
    """What fills the template in."""
