"""context_extension: longer sequences in steps, each warmed up and consolidated."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.activities import Curve
from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import as_union
from stagegraph.schema.names import Name, Reference
from stagegraph.schema.templates.template import Template, UseTemplate, given

__all__ = ["ContextExtension", "UseContextExtension"]

_Lengths = Annotated[
    tuple[Count, ...], BeforeValidator(as_union), Field(min_length=1, max_length=50)
]
_Factors = Annotated[
    tuple[Annotated[Number, Field(gt=0, le=1_000_000)], ...],
    BeforeValidator(as_union),
    Field(max_length=50),
]


class ContextExtension(Template):
    """Let a model read longer sequences, in steps (2309.16039; in six steps 2407.21783).

    Each length is a growth: ``extend_context``, a warm-up of every learning rate, and a
    consolidation. With ``data`` the loader's sequences get that long too.
    """

    template: ClassVar = "context_extension"

    space: Name
    """The space of the positions, as declared in ``spaces``."""
    lengths: _Lengths
    """The lengths, one after another, each more than the one before."""
    rope_base: _Factors = ()
    """By how much to multiply the base of rotary positions: one number for all steps, or one for
    each; without it, the base stays."""
    data: bool = False
    """Whether the data's ``sequence_length`` follows the lengths; the loader must be able to."""
    init: Literal["last", "mean", "interpolate", "zero"] = "last"
    """What new learned positions hold, as in ``extend_context``."""
    warmup: Duration
    """How long the learning rates take to come up again after each step."""
    curve: Curve = "linear"
    """The shape of that ramp."""
    lr_start: Annotated[Factor, Field(lt=1)] = 0.0
    """The learning-rate factor at the first update of each step."""
    train: Duration
    """How long to train at each length after its warm-up."""

    @model_validator(mode="after")
    def _fits(self) -> ContextExtension:
        for before, after in pairwise(self.lengths):
            if after <= before:
                raise ValueError(
                    f"each of 'lengths' is more than the one before; got {before}, {after}"
                )
        if len(self.rope_base) not in (0, 1, len(self.lengths)):
            raise ValueError(
                f"there are {len(self.lengths)} lengths and {len(self.rope_base)} numbers in "
                "'rope_base'; give one for all, or one for each"
            )
        return self

    def parts(self) -> dict[str, Any]:
        """The stages ``extend1``, ``warmup1``, ``train1``, and so on, and ``done``."""
        count = len(self.lengths)
        bases = self.rope_base * count if len(self.rope_base) == 1 else self.rope_base
        ramp = {
            "type": "lr_ramp",
            "of": ["grown", "all"],
            "start": self.lr_start,
            "end": 1.0,
            "curve": self.curve,
            "over": self.warmup,
        }
        stages: dict[str, Any] = {}
        for number, (length, base) in enumerate(
            zip(self.lengths, bases or (None,) * count, strict=True), 1
        ):
            growth = given(
                type="extend_context", space=self.space, to=length, init=self.init, rope_base=base
            )
            held = [{"type": "sequence_length", "length": length}] if self.data else []
            after = "done" if number == count else f"extend{number + 1}"
            stages |= {
                f"extend{number}": {"kind": "grow", "actions": [growth], "next": f"warmup{number}"},
                f"warmup{number}": {
                    "kind": "warmup",
                    "during": [ramp, *held],
                    "next": f"train{number}",
                },
                f"train{number}": {
                    "kind": "consolidate",
                    "during": held,
                    "duration": self.train,
                    "next": after,
                },
            }
        stages["done"] = {"kind": "final"}
        return {"initial": "extend1", "stages": stages}


class UseContextExtension(UseTemplate):
    """A stage that puts a ``context_extension`` in."""

    use: Literal["context_extension"]
    """The template."""
    with_: ContextExtension = Field(alias="with")
    """What fills the template in."""
    next: Reference
    """Where it leads when the last length is trained."""
