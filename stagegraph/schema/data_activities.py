"""Activities of the data: how hard it is, where it comes from, how long and how much at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.schema.activity_model import ActivityModel
from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import FrozenMap, Seq
from stagegraph.schema.levels import CountLevel, Level, MovingLevel, bounds_of
from stagegraph.schema.names import Glob, Name

__all__ = ["BatchSize", "DataActivity", "Difficulty", "Mixture", "SequenceLength"]


class DataActivity(ActivityModel):
    """What holds a knob of the data; two of one knob at once have no meaning."""

    data: ClassVar[bool] = True


class Difficulty(DataActivity):
    """The difficulty level of the data, for a sampler that knows levels."""

    writes: ClassVar = "difficulty"
    type: Literal["difficulty"]
    level: Annotated[int, Field(ge=0, le=1_000_000)]
    """The level, from 0."""


class Mixture(DataActivity):
    """How the sources of the data are mixed: a share of each batch per source."""

    writes: ClassVar = "mixture"
    type: Literal["mixture"]
    weights: Annotated[FrozenMap[Name, Level], Field(min_length=1, max_length=200)]
    """Per source how much it counts; the weights are made to add up to 1, and a source that is
    not named gets none."""

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """Per source ``weight:NAME``."""
        return {f"weight:{name}": weight for name, weight in self.weights.items()}

    @model_validator(mode="after")
    def _draws(self) -> Mixture:
        for end, word in enumerate(("begin", "end")):
            if all(bounds_of(weight)[end] == 0 for weight in self.weights.values()):
                raise ValueError(
                    f"the weights of all sources {word} at 0, so that there is nothing to draw "
                    "from then; let one of them be over 0"
                )
        return self


class SequenceLength(DataActivity):
    """How long the sequences of the data are, and the base of rotary positions with it."""

    writes: ClassVar = "sequence_length"
    type: Literal["sequence_length"]
    length: CountLevel
    """The length, in whatever the data counts; a moving one is rounded down."""
    multiple: Count = 1
    """What a moving length is a multiple of."""
    rope_base: Annotated[Number, Field(gt=0)] | None = None
    """The base of rotary positions while the stage lasts."""
    rope_attributes: Seq[Glob] = ()
    """The attributes of the model that the base is written to, such as ``config.rope_theta``; its
    own ``forward`` reads them."""

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """``length``."""
        return {"length": self.length}

    @model_validator(mode="after")
    def _base_and_where(self) -> SequenceLength:
        if (self.rope_base is None) != (not self.rope_attributes):
            raise ValueError(
                "'rope_base' and 'rope_attributes' belong together: the base, and the attributes "
                "of the model that it is written to; give both"
            )
        least = min(bounds_of(self.length))
        if least < self.multiple:
            raise ValueError(
                f"a length of {least:g} rounded down to a multiple of {self.multiple} is 0; begin "
                "with a longer one"
            )
        if not isinstance(self.length, MovingLevel) and self.length % self.multiple:
            raise ValueError(f"a length of {self.length:g} is no multiple of {self.multiple}")
        return self


class BatchSize(DataActivity):
    """How many samples an update takes, and what that does to the learning rate.

    With f the new size over the loader's own: ``lr: linear`` multiplies every learning rate by f
    (1706.02677), ``lr: sqrt`` by √f (1404.5997).
    """

    writes: ClassVar = "batch_size"
    type: Literal["batch_size"]
    size: Count | None = None
    """How many samples."""
    factor: Annotated[Factor, Field(gt=0)] | None = None
    """How many times as many as the loader's own."""
    lr: Literal["keep", "linear", "sqrt"] = "keep"
    """What the learning rate does."""
    accumulate: Literal["keep", "grow"] = "keep"
    """``keep``: the loader's batches change; ``grow``: they stay, and an update takes more of
    them: ``Engine.accumulate`` says how many times as many."""

    @model_validator(mode="after")
    def _one_size(self) -> BatchSize:
        if (self.size is None) == (self.factor is None):
            raise ValueError("give exactly one of 'size' and 'factor'")
        if self.accumulate == "grow" and self.factor is not None and self.factor % 1:
            raise ValueError(
                f"with accumulate: grow an update takes whole batches, and {self.factor:g} is no "
                "whole number of them; take a whole factor"
            )
        return self
