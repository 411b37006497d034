"""Growths that take weights from another model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stagegraph.schema.amounts import Count
from stagegraph.schema.base import FrozenMap, Seq
from stagegraph.schema.growth_actions import GrowthAction
from stagegraph.schema.names import Glob, Name

__all__ = [
    "FieldValue",
    "Inherit",
    "Regrow",
]


FieldValue = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | float
    | Annotated[str, StringConstraints(max_length=256)]
)
"""A number, a text or a truth value that a builder is called with."""


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
