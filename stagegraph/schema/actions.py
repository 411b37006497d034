"""Actions: effects at a boundary, on a transition or at the entry of a stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import FrozenMap, Model, Note, Seq, as_union
from stagegraph.schema.names import Glob, Name

__all__ = [
    "Action",
    "Deepen",
    "GrowthAction",
    "Inherit",
    "Regrow",
    "RollBack",
    "Send",
    "SizedGrowth",
    "SnapshotAction",
    "Widen",
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
    name: Name | None = None
    """The name of the cohort it adds; default: ``region:stage#visit``."""


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
    branches end in zero, so that the function does not change. ``stack`` (StackBERT; G_stack,
    2405.15319): the stack is continued with copies of its blocks from the bottom; not exact.
    """

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

    @model_validator(mode="after")
    def _noise_for_copies(self) -> Widen:
        if self.noise and self.how not in ("split", "uneven"):
            raise ValueError(f"'noise' makes copies differ, and {self.how!r} makes none")
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
    SnapshotAction | RollBack | Send | Deepen | Widen | Inherit | Regrow,
    Field(discriminator="type"),
]
