"""Actions: effects at a boundary, on a transition or at the entry of a stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import Model, Note, Seq, as_union
from stagegraph.schema.names import Glob, Name

__all__ = [
    "Action",
    "AddHeads",
    "AttentionGrowth",
    "Deepen",
    "ExtendContext",
    "ExtendVocab",
    "GrowthAction",
    "RollBack",
    "Send",
    "SnapshotAction",
    "TeacherAction",
    "UnitGrowth",
    "Widen",
    "WidenHeadDim",
]


class ActionModel(Model):
    """What every action has."""

    structural: ClassVar[bool] = False
    """Whether it changes the shape of the model."""
    note: Note | None = None
    """A remark for people."""


class SnapshotAction(ActionModel):
    """Keep model, optimizer and engine as they are at the start of this boundary."""

    type: Literal["snapshot"]
    name: Name
    """What to call it; a later one of the same name is the newer."""


class TeacherAction(ActionModel):
    """Keep a frozen copy of the model as it is at the start of this boundary, to learn from."""

    type: Literal["teacher"]
    name: Name
    """What to call it; a later one of the same name takes its place."""


class RollBack(ActionModel):
    """Return model, optimizer, clock and all regions to a snapshot.

    What was spent, visits and ``at_most`` do not come back. It must name what will differ this
    time, or it would fail the same way again.
    """

    type: Literal["roll_back"]
    to: Name
    """The snapshot; the newest of that name."""
    data: Literal["rewind", "skip"] = "rewind"
    """Whether the data returns to its position too, or goes on from where it is."""
    lr_factor: Annotated[Factor, Field(gt=0, lt=1)] | None = None
    """A cut of every learning rate from now on."""
    rng: Literal["restore", "fork"] = "restore"
    """``fork``: other random numbers than the last time, derived from the attempt's number."""


class Send(ActionModel):
    """Send an event to all regions, seen at the next boundary."""

    type: Literal["send"]
    event: Name
    """The event, as declared."""


class GrowthAction(ActionModel):
    """A change of the model's shape; says exactly one of ``add``, ``factor`` and ``to``."""

    structural: ClassVar = True
    blends: ClassVar[bool] = False
    """Whether it adds modules, which can be blended in with an alpha ramp."""
    name: Name | None = None
    """The name of the cohort it adds; default: ``region:stage#visit``."""
    add: Count | None = None
    """How many units or blocks more."""
    factor: Annotated[Number, Field(gt=1, le=1000)] | None = None
    """How many times as many."""
    to: Count | None = None
    """How many afterwards."""
    tolerance: Annotated[Number, Field(gt=0)] | None = None
    """How far the model's output on the probe may change; default: not at all but for rounding
    where the growth keeps the function, by any amount where it does not."""
    probe: Literal["eval", "train"] = "eval"
    """``train``: a real update is tried on the probe, and undone, before the growth holds."""

    @model_validator(mode="after")
    def _one_size(self) -> GrowthAction:
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


class Deepen(GrowthAction):
    """Insert residual blocks into a stack, in place.

    ``identity`` (1511.05641, 2401.02415): each new block is a copy of its lower neighbour whose
    branches end in zero, so that the function does not change. ``stack`` (StackBERT; G_stack,
    2405.15319): the stack is continued with copies of its blocks from the bottom; not exact.
    """

    blends: ClassVar = True
    type: Literal["deepen"]
    stack: Glob
    """Path of the ``nn.ModuleList`` or ``nn.Sequential``, such as ``transformer.blocks``."""
    how: Literal["identity", "stack"] = "identity"
    """Where the new blocks' weights come from."""
    at: Literal["end", "spread"] = "end"
    """Where they go: above all others, or spread evenly between them."""
    zero: Seq[Glob] = ()
    """For ``identity``: the modules inside a block whose output to zero, if they are not to be
    found by trial."""
    count: Seq[Glob] = ()
    """Attributes that hold the number of blocks, such as ``config.num_hidden_layers``."""


FreshState = Literal["fill_v", "old_step", "fresh_step"]


class Widen(GrowthAction):
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


class UnitGrowth(GrowthAction):
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


Action = Annotated[
    SnapshotAction
    | TeacherAction
    | RollBack
    | Send
    | Deepen
    | Widen
    | ExtendVocab
    | ExtendContext
    | AddHeads
    | WidenHeadDim,
    Field(discriminator="type"),
]
