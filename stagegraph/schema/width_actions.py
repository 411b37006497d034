"""Growths in width: more units for a space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from stagegraph.schema.amounts import Number
from stagegraph.schema.base import Seq, as_union
from stagegraph.schema.growth_actions import SizedGrowth
from stagegraph.schema.names import Glob, Name

__all__ = [
    "AddHeads",
    "AttentionGrowth",
    "ExtendContext",
    "ExtendVocab",
    "FreshState",
    "UnitGrowth",
    "Widen",
    "WidenHeadDim",
]


FreshState = Literal["fill_v", "old_step", "fresh_step"]


class Widen(SizedGrowth):
    """Make spaces of the model wider, in all tensors that write or read them.

    ``split`` (Net2Net, 1511.05641; HyperCloning, 2409.12903): new units are copies, and what they
    are read with is divided among the copies; ``uneven`` (LEMON, 2310.07999): in unequal shares.
    ``zero_out``: new units write something new and are read with zero; ``zero_in``: the other way
    round (2308.06103). ``pair``: new units in twos that cancel.
    """

    type: Literal["widen"]
    space: Annotated[
        tuple[Name, ...], BeforeValidator(as_union), Field(min_length=1, max_length=20)
    ]
    """The space, such as ``mlp``; or several, to grow at once by the same ``add`` or ``factor``."""
    how: Literal["split", "uneven", "zero_out", "zero_in", "pair"] = "split"
    """Where the new units come from."""
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """For ``split``: how much copies are made to differ where they are read, as a share of the
    spread of what is there; it cancels, so that the function stays."""

    state: FreshState = "fill_v"
    """The optimizer's state of units that come from no old one: first moments 0 and second moments
    the mean of the others (``fill_v``), both 0 (``old_step``), or all of the tensor's anew
    (``fresh_step``)."""
    copies: Literal["mapped", "asymmetric"] = "mapped"
    """The optimizer's state of copies: their share of the original's, or none for all but the first
    (SPARKLING, 2602.02472), which sets them apart."""
    scales: Literal["none", "keep"] = "none"
    """``keep``: learning rate, eps and weight decay of what grew are scaled for good, so that the
    grown model trains on as the small one would have (2602.10545)."""

    @model_validator(mode="after")
    def _noise_for_copies(self) -> Widen:
        if self.noise and self.how not in ("split", "uneven"):
            raise ValueError(f"'noise' makes copies differ, and {self.how!r} makes none")
        return self


class UnitGrowth(SizedGrowth):
    """A growth of one space, whose units are known for what they are."""

    space: Name
    """The space, as declared."""
    state: FreshState = "fill_v"
    """The optimizer's state of new units: first moments 0 and second moments the mean of the
    others (``fill_v``), both 0 (``old_step``), or all of the tensor's anew (``fresh_step``)."""


class ExtendVocab(UnitGrowth):
    """Give a vocabulary more entries: rows of the embedding and of the head; old logits stay."""

    type: Literal["extend_vocab"]
    init: Literal["mean", "mean_noise", "random"] = "mean"
    """What new rows hold: the mean of the old ones, the mean and a tenth of their spread at random,
    or random numbers as large as they."""
    quiet: bool = False
    """Whether new entries begin with so low a bias that they have no probability, so that the loss
    stays too; the head must have a bias."""


class ExtendContext(UnitGrowth):
    """Let a model read longer sequences; what it says of those it could read stays."""

    type: Literal["extend_context"]
    init: Literal["last", "mean", "interpolate", "zero"] = "last"
    """What new learned positions hold: the last old one, the mean of all, the old ones stretched
    over the new places, or zero."""
    rope_base: Annotated[Number, Field(gt=0, le=1_000_000)] | None = None
    """By how much to multiply the base of rotary positions; changes what the model computes."""


class AttentionGrowth(UnitGrowth):
    """A growth inside of attention, which must know queries, keys and values from each other."""

    q: Seq[Glob] = ()
    """Parameters that make queries, where their names do not tell (``q_proj``, ``query``, ...)."""
    k: Seq[Glob] = ()
    """Parameters that make keys."""
    v: Seq[Glob] = ()
    """Parameters that make values."""
    order: Literal["qkv", "qvk", "kqv", "kvq", "vqk", "vkq"] = "qkv"
    """The order in which they are packed, in an axis such as ``(3 heads head_dim)``."""


class AddHeads(AttentionGrowth):
    """Give attention more heads: with grouped queries whole groups, or heads in each group."""

    type: Literal["add_heads"]
    how: Literal["zero_out", "split", "uneven", "zero_in"] = "zero_out"
    """Where new heads come from: read with zero; copies, read in equal or unequal shares; or values
    of zero."""


class WidenHeadDim(AttentionGrowth):
    """Make each head of an attention wider; with rotary positions, by one half of its units."""

    type: Literal["widen_head_dim"]
    scale: Literal["auto", "by_size", "fixed"] = "auto"
    """What scores are multiplied with: 1/√d for heads of d units (``by_size``), or a number that
    stays (``fixed``). ``auto``: fixed where the attention has a scale that is another number."""
