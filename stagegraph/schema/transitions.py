"""Transitions and interrupts: the ways out of stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stagegraph.schema.actions import Action
from stagegraph.schema.base import Model, Note, Seq
from stagegraph.schema.guards import TopGuard
from stagegraph.schema.names import Name, Reference, Target

__all__ = ["Interrupt", "OnError", "Transition"]


class OnError(Model):
    """What to do when an action of a transition fails; the model is then as it was before."""

    retry: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many more times to try, at following boundaries."""
    then: Reference
    """The stage to enter, without this transition's actions, when the retries are used up."""


class Way(Model):
    """What transitions and interrupts share."""

    target: Target
    """The stage to enter, or ``stop`` to end the run."""
    when: TopGuard | None = None
    """The guard; none means always."""
    actions: Annotated[Seq[Action], Field(max_length=100)] = ()
    """What to do on the way, in order."""
    at_most: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How often it may fire in the whole run."""
    on_error: OnError | None = None
    """What to do when an action fails; default: the run stops with the error."""
    note: Note | None = None
    """A remark for people."""


class Transition(Way):
    """A way out of the stage it is written in; the first whose guard is true is taken."""


class Interrupt(Way):
    """A way out of any of several stages; looked at before their own transitions."""

    name: Name
    """What it is called in the journal."""
    within: Annotated[Seq[Reference], Field(min_length=1)] | None = None
    """The stages it can leave; default: all of its region that are not final."""
