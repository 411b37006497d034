"""Growths: what all changes of the shape of a model have, and deepening."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.schema.action_model import ActionModel
from stagegraph.schema.amounts import Count, Number
from stagegraph.schema.base import Seq
from stagegraph.schema.names import Glob, Name

__all__ = [
    "Deepen",
    "GrowthAction",
    "SizedGrowth",
]


class GrowthAction(ActionModel):
    """A change of the model's shape."""

    structural: ClassVar = True
    blends: ClassVar[bool] = False
    """Whether it adds modules, which can be blended in with an alpha ramp."""
    prunable: ClassVar[bool] = False
    """Whether what it adds are parts that can be taken out again."""
    name: Name | None = None
    """The name of the cohort it adds; default: ``region:stage#visit``."""
    tolerance: Annotated[Number, Field(gt=0)] | None = None
    """How far the model's output on the probe may change; default: not at all but for rounding
    where the growth keeps the function, by any amount where it does not."""
    probe: Literal["eval", "train"] = "eval"
    """``train``: a real update is tried on the probe, and undone, before the growth holds."""


class SizedGrowth(GrowthAction):
    """A growth of something that has a size: exactly one of ``add``, ``factor`` and ``to``."""

    add: Count | None = None
    """How many units or blocks more."""
    factor: Annotated[Number, Field(gt=1, le=1000)] | None = None
    """How many times as many."""
    to: Count | None = None
    """How many afterwards."""

    @model_validator(mode="after")
    def _one_size(self) -> SizedGrowth:
        given = [key for key in ("add", "factor", "to") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "a growth says exactly one of 'add' (so many more), 'factor' (so many times) "
                f"and 'to' (so many afterwards); got {' and '.join(given) or 'none'}"
            )
        return self

    def size_after(self, before: int) -> int:
        """The size after growth of something that has ``before`` units now.

        Raises:
            ValueError: The size would not grow, or not be whole.
        """
        if self.add is not None:
            return before + self.add
        after: float = self.to if self.to is not None else before * (self.factor or 0)
        if after <= before:
            raise ValueError(f"there are {before} already, {after:g} is no growth")
        if after != int(after):
            raise ValueError(f"{before} times {self.factor} is not a whole number")
        return int(after)


_SPREAD_STACK = ("stack", "spread")


class Deepen(SizedGrowth):
    """Insert residual blocks into a stack, in place.

    ``identity`` (1511.05641, 2401.02415): each new block is a copy of its lower neighbour whose
    branches end in zero, so that the function does not change. The others are not exact: ``stack``
    (StackBERT; G_stack, 2405.15319) goes on with copies from the bottom, ``interleave``
    (2510.08008) doubles blocks where they stand, ``middle`` (MIDAS, 2409.19044) doubles those in
    the middle, ``drop_and_cat`` (SOLAR, 2312.15166) puts the upper part of one copy of the stack on
    the lower part of another, and ``random`` begins anew.
    """

    blends: ClassVar = True
    prunable: ClassVar = True
    type: Literal["deepen"]
    stack: Glob
    """Path of the ``nn.ModuleList`` or ``nn.Sequential``, such as ``transformer.blocks``."""
    how: Literal["identity", "stack", "interleave", "middle", "drop_and_cat", "random"] = "identity"
    """Which blocks are copied, and what becomes of the copies."""
    at: Literal["end", "spread"] | None = None
    """For ``identity`` and ``random``: above all others (``end``, the default), or evenly between
    them (``spread``). Of the others each says itself where its blocks go."""
    init: Literal["copy", "fresh"] | None = None
    """For ``identity``: whether weights that are not zeroed are copied (the default), or
    initialised anew."""
    noise: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Noise on the weights that are copied, relative to the root of their mean square."""
    state: Literal["fresh", "copy", "fill_v", "old_step"] = "fresh"
    """The optimizer's state of new blocks: none, as at the first step; that of the blocks they were
    copied from (StackBERT); or its step with first moments 0 and second moments the mean of theirs
    (``fill_v``) or 0 (``old_step``)."""
    zero: Seq[Glob] = ()
    """For ``identity``: the modules inside a block whose output to zero, if they are not to be
    found by trial."""
    count: Seq[Glob] = ()
    """What else holds the number of blocks, or something for each of them: attributes, lists,
    parameters with a row per block, other stacks; such as ``config.num_hidden_layers``."""
    leave: Seq[Glob] = ()
    """What is as long as the stack by chance, and stays as it is."""

    @model_validator(mode="after")
    def _what_goes_together(self) -> Deepen:
        if self.at is not None and self.how not in ("identity", "random"):
            way = ": 'interleave' spreads copies" if (self.how, self.at) == _SPREAD_STACK else ""
            raise ValueError(f"how: {self.how} says itself where its blocks go, without 'at'{way}")
        if self.zero and self.how != "identity":
            raise ValueError(f"'zero' is for how: identity; how: {self.how} zeroes nothing")
        if self.init is not None and self.how != "identity":
            raise ValueError(
                "'init' is for how: identity; without zeros, new weights are how: random, and "
                "copied ones how: stack, interleave, middle or drop_and_cat"
            )
        if self.noise is not None and self.fresh:
            raise ValueError("'noise' is for weights that are copied; here they begin anew")
        return self

    @property
    def fresh(self) -> bool:
        """Whether new blocks begin with new weights instead of copied ones."""
        return self.how == "random" or self.init == "fresh"
