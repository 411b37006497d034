"""Actions: effects at a boundary, on a transition or at the entry of a stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import FrozenMap, Model, Note, Seq, as_union
from stagegraph.schema.names import Glob, Name

__all__ = [
    "ATTACHABLE",
    "Action",
    "AddExperts",
    "AddHeads",
    "Attach",
    "AttentionGrowth",
    "Deepen",
    "ExtendContext",
    "ExtendVocab",
    "GrowthAction",
    "Inherit",
    "Regrow",
    "RollBack",
    "Send",
    "SizedGrowth",
    "SnapshotAction",
    "TeacherAction",
    "UnitGrowth",
    "Upcycle",
    "Widen",
    "WidenHeadDim",
]


FieldValue = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | float
    | Annotated[str, StringConstraints(max_length=256)]
)
"""A number, a text or a truth value that a builder is called with."""


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
    """A change of the model's shape."""

    structural: ClassVar = True
    blends: ClassVar[bool] = False
    """Whether it adds modules, which can be blended in with an alpha ramp."""
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


_SPREAD_STACK = ("stack", "spread")


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


ATTACHABLE: dict[str, tuple[str, ...]] = {
    "adapter": ("bottleneck", "act", "norm", "bias", "in_features", "out_features", "axis"),
    "linear": ("bias", "in_features", "out_features", "axis"),
    "mlp": ("hidden", "act", "norm", "bias", "in_features", "out_features", "axis"),
    "copy": (),
}
"""The modules that can be attached without code, and which fields each takes."""

_NEEDED = {"adapter": "bottleneck", "mlp": "hidden"}


class Attach(GrowthAction):
    """Give modules of the model a new module beside or after them.

    With f the host and α the blend: ``parallel`` is ``y = f(x) + α g(x)``, ``after`` is
    ``y = f(x) + α g(f(x))``. The new module is a child of its host and runs in a forward hook.
    """

    blends: ClassVar = True
    type: Literal["attach"]
    host: Annotated[Seq[Glob], Field(min_length=1)]
    """The modules that get one each, such as ``blocks.*.mlp``; ``*`` is one part of a path."""
    module: Name
    """What they get: ``adapter``, ``linear``, ``mlp``, ``copy`` (the host once more), or the name
    of a builder given as ``parts``."""
    mode: Literal["parallel", "after"] = "parallel"
    """Whether it reads what its host reads, or what its host makes."""
    child: Name | None = None
    """What it is called inside its host; default: as ``module``."""
    init: Literal["zero", "keep"] | None = None
    """``zero``: its last linear layer is zero, so that nothing changes at first; ``keep``: as it is
    made. Default: ``zero`` for ours, ``keep`` for what a builder makes."""
    bottleneck: Count | None = None
    """For an adapter: how many features between down and up."""
    hidden: Count | None = None
    """For an mlp: how many features between up and down."""
    act: Literal["gelu", "relu", "silu", "tanh"] | None = None
    """The activation; default: ``gelu``."""
    norm: Literal["none", "layer", "rms"] | None = None
    """A norm before the first layer; default: none."""
    bias: bool | None = None
    """Whether its linear layers have a bias; default: yes."""
    in_features: Count | None = None
    """How many features it reads, if its host's layers do not tell."""
    out_features: Count | None = None
    """How many features it writes, if its host's layers do not tell."""
    axis: Annotated[int, Field(ge=-8, le=8)] | None = None
    """The axis of the features, such as 1 for images; default: the last."""

    @model_validator(mode="after")
    def _fields_of_the_module(self) -> Attach:
        every = {name for names in ATTACHABLE.values() for name in names}
        takes = ATTACHABLE.get(self.module, ())
        given = [name for name in sorted(every) if getattr(self, name) is not None]
        extra = [name for name in given if name not in takes]
        if extra:
            what = f"takes {', '.join(takes)}" if takes else "takes none of these"
            raise ValueError(f"module {self.module!r} {what}; got {', '.join(extra)}")
        needed = _NEEDED.get(self.module)
        if needed is not None and needed not in given:
            raise ValueError(f"module {self.module!r} needs a size: give {needed!r}")
        return self


class Upcycle(GrowthAction):
    """Make a mixture of experts of an MLP, in place (2212.05055).

    The MLP itself is expert 0, copies of it are the others, and a random router sends each token to
    ``top_k`` of them, whose outputs it weighs to a sum of 1: nothing changes at first.
    """

    blends: ClassVar = True
    type: Literal["upcycle"]
    host: Annotated[Seq[Glob], Field(min_length=1)]
    """The MLPs, such as ``blocks.*.mlp``; ``*`` is one part of a path."""
    experts: Annotated[int, Field(ge=2, le=4096)]
    """How many experts there are then, the MLP itself among them."""
    top_k: Annotated[int, Field(ge=1, le=4096)] = 2
    """How many of them a token is sent to."""
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Noise on the copies, relative to the spread of each weight; not exact."""
    reinit: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """The share of the copies' hidden units to draw anew (2502.19261); not exact."""
    child: Name = "moe"
    """What the router and the copies are called inside the MLP."""

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Upcycle:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, and there are {self.experts} experts")
        return self


class AddExperts(SizedGrowth):
    """Give mixtures of experts more experts, copies of those there are, with copied router rows.

    With ``top_k: scale`` as many times as many are taken, and nothing changes (2510.08008). With
    ``keep`` (2604.19835) it does, unless an alpha ramp from 0 lets the router find them.
    """

    blends: ClassVar = True
    type: Literal["add_experts"]
    moe: Annotated[Seq[Glob], Field(min_length=1)]
    """The mixtures, such as ``blocks.*.mlp.moe``; ``*`` is one part of a path."""
    top_k: Literal["keep", "scale"] = "scale"
    """Whether a token is sent to as many experts as before, or to as many times more as there are
    more experts."""
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Noise on the copies, relative to the spread of each weight; not exact."""
    experts: Glob | None = None
    """For a mixture of the model's own: where its ``nn.ModuleList`` of experts is, inside it."""
    router: Glob | None = None
    """For a mixture of the model's own: where its router is, an ``nn.Linear`` inside it."""
    active: Glob | None = None
    """For a mixture of the model's own: its attribute that holds how many a token is sent to."""
    count: Seq[Glob] = ()
    """For a mixture of the model's own: its attributes that hold how many experts there are."""

    @model_validator(mode="after")
    def _declared_together(self) -> AddExperts:
        if (self.experts is None) != (self.router is None):
            raise ValueError("'experts' and 'router' declare a mixture together; give both")
        if self.experts is None and (self.active is not None or self.count):
            raise ValueError("'active' and 'count' are for a mixture declared by 'experts'")
        return self


class Inherit(GrowthAction):
    """Give the model the weights of a smaller one, and account for every tensor.

    Where tensors are larger here, their declared spaces say how the smaller model's units become
    these (Net2Net, 1511.05641; HyperCloning, 2409.12903; LEMON, 2310.07999), so that the model
    computes what the smaller one did. Nothing is cut off.
    """

    type: Literal["inherit"]
    source: Name
    """The weights, given as ``parts``: a state dict, a model, or the path of a checkpoint."""
    how: Literal["split", "uneven", "zero_out", "zero_in", "pair", "corner"] = "split"
    """Where units come from that the smaller model does not have, as for ``widen``; ``corner`` puts
    each tensor into the corner of the larger one and leaves the rest: not exact."""
    stacks: Literal["identity", "stack", "interleave", "leave"] = "identity"
    """What blocks become that the smaller model does not have: the identity; copies, from the
    bottom or each right above its template, which is not exact; or they are left as they are."""
    zero: Seq[Glob] = ()
    """For ``identity``: the modules inside a block whose output to zero, if they are not to be
    found by trial."""
    rename: Annotated[FrozenMap[Glob, Glob], Field(max_length=100)] = FrozenMap()
    """Per pattern over the names of the weights what they are called here; what ``*`` stands for
    is put in for each ``*``."""
    leave: Seq[Glob] = ()
    """Parameters and buffers of the model to leave as they are."""
    sizes: Annotated[FrozenMap[Name, Count], Field(max_length=100)] = FrozenMap()
    """Sizes that spaces have in the smaller model, where they do not follow from its tensors."""
    strict: bool = True
    """Whether a tensor that cannot be taken is an error, and a function that changed, where all
    was taken and the smaller model itself was given to compare with."""
    state: Literal["reset", "keep"] = "reset"
    """What becomes of the optimizer's state of parameters that get other contents."""


class Regrow(GrowthAction):
    """Make the model, in place, what its class is with larger numbers, and keep what fits.

    Another instance is built and inherits from the model, which then takes over what it lacks:
    larger tensors, new modules, attributes. The function stays only where all was mapped by the
    spaces of the graph.
    """

    type: Literal["regrow"]
    build: Name | None = None
    """The builder, given as ``parts``: a function that takes the fields and returns a new model of
    the same class. Without it the class is made from a copy of the model's ``config``."""
    fields: Annotated[FrozenMap[Name, FieldValue], Field(min_length=1, max_length=100)]
    """What the builder is called with; without one, the fields of the config that differ."""
    how: Literal["corner", "split", "uneven", "zero_out", "zero_in", "pair"] = "corner"
    """Where units come from that the model does not have, as for ``inherit``."""
    stacks: Literal["identity", "stack", "interleave", "leave"] = "leave"
    """What blocks become that the model does not have, as for ``inherit``; ``leave``: as built."""
    zero: Seq[Glob] = ()
    """For ``identity``: the modules inside a block whose output to zero, if they are not to be
    found by trial."""


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
    | WidenHeadDim
    | Attach
    | Upcycle
    | AddExperts
    | Inherit
    | Regrow,
    Field(discriminator="type"),
]
