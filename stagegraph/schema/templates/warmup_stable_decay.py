"""warmup_stable_decay: warm up, train at a constant rate, and anneal off that trunk."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.activities import Curve, During
from stagegraph.schema.amounts import Factor
from stagegraph.schema.base import Seq, as_union
from stagegraph.schema.names import Reference
from stagegraph.schema.templates.template import Template, UseTemplate, given

__all__ = ["UseWarmupStableDecay", "WarmupStableDecay"]

_Durations = Annotated[
    tuple[Duration, ...], BeforeValidator(as_union), Field(min_length=1, max_length=50)
]

_OFTEN = 100
"""How often one anneal may be taken back. Once, but for another rollback that goes back before it;
a limit that could be used up would leave the run in the anneal for ever."""


class WarmupStableDecay(Template):
    """Train at a constant learning rate and anneal several times (2404.06395, 2405.18392).

    ``stable`` lists the parts of the constant trunk. After each part a branch is annealed to
    ``end``; but for the last one, the run then returns to the snapshot from before the anneal and
    goes on with the trunk. The model at the end of each anneal is saved in the run's folder, as
    ``anneal1``, ``anneal2`` and so on. What the branches cost counts as spent. The factors multiply
    the host's own learning rate, which should be constant.
    """

    template: ClassVar = "warmup_stable_decay"

    warmup: Duration | None = None
    """How long the learning rate takes to come up from 0; without it, it does not."""
    stable: _Durations
    """How long each part of the trunk is: one amount, or a list; an anneal follows each."""
    decay: _Durations
    """How long an anneal is: one amount for all, or a list, one for each."""
    curve: Curve = "linear"
    """The shape of the anneals."""
    end: Annotated[Factor, Field(lt=1)] = 0.0
    """The learning-rate factor at the end of an anneal."""
    data: Literal["rewind", "skip"] = "rewind"
    """Whether the trunk goes on with the data that the anneal has seen too (``rewind``, with other
    random numbers), or with what follows (``skip``)."""
    save: bool = True
    """Whether the model at the end of each anneal is kept in the run's folder, under the name of
    its stage; ``stagegraph.load_saved`` reads it back. On a model, the run then needs a folder."""
    decay_during: Annotated[Seq[During], Field(max_length=50)] = ()
    """What else is held during the anneals."""

    @model_validator(mode="after")
    def _one_decay_each(self) -> WarmupStableDecay:
        if len(self.decay) not in (1, len(self.stable)):
            raise ValueError(
                f"'stable' has {len(self.stable)} parts and 'decay' {len(self.decay)} amounts; "
                "give one for all, or one for each"
            )
        return self

    def parts(self) -> dict[str, Any]:
        """The stages ``warmup``, ``stable1``, ``anneal1``, ``stable2``, and so on, and ``done``."""
        stages: dict[str, Any] = {}
        if self.warmup is not None:
            ramp = {"type": "lr_ramp", "start": 0.0, "end": 1.0, "over": self.warmup}
            stages["warmup"] = {"kind": "warmup", "during": [ramp], "next": "stable1"}
        count = len(self.stable)
        for number, (stable, decay) in enumerate(zip(self.stable, self._decays, strict=True), 1):
            anneal = f"anneal{number}"
            stages[f"stable{number}"] = {"kind": "train", "duration": stable, "next": anneal}
            stages[anneal] = self._anneal(decay, number, last=number == count)
        stages["done"] = {"kind": "final"}
        return {"initial": next(iter(stages)), "stages": stages}

    @property
    def _decays(self) -> tuple[Duration, ...]:
        return self.decay * len(self.stable) if len(self.decay) == 1 else self.decay

    def _anneal(self, decay: Duration, number: int, *, last: bool) -> dict[str, Any]:
        """The anneal of this number: a branch, or the last one, after which nothing returns."""
        ramp = {"type": "lr_ramp", "end": self.end, "curve": self.curve, "over": decay}
        stage = {"kind": "train", "during": [ramp, *self.decay_during], "duration": decay}
        saves = ({"type": "save", "name": f"anneal{number}"},) if self.save else ()
        completed = {"type": "completed"}
        if last:
            end = given(target="done", when=completed, actions=saves)
            return {**stage, "transitions": (end,)} if saves else {**stage, "next": "done"}
        differs = {"data": "skip"} if self.data == "skip" else {"rng": "fork"}
        back = {
            "target": f"stable{number + 1}",
            "when": completed,
            "actions": [*saves, {"type": "roll_back", "to": "trunk", **differs}],
            "at_most": _OFTEN,
        }
        kept = {"type": "snapshot", "name": "trunk"}
        return given(**stage, actions=(kept,), transitions=(back,))


class UseWarmupStableDecay(UseTemplate):
    """A stage that puts a ``warmup_stable_decay`` in."""

    use: Literal["warmup_stable_decay"]
    """The template."""
    with_: WarmupStableDecay = Field(alias="with")
    """What fills the template in."""
    next: Reference
    """Where it leads after the last anneal."""
