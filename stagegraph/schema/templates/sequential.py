"""sequential: growths one after another, each when the one before has consolidated."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stagegraph.schema.base import Seq
from stagegraph.schema.names import Reference
from stagegraph.schema.templates.grow_cycle import GrowCycle
from stagegraph.schema.templates.template import Template, UseTemplate

__all__ = ["Sequential", "UseSequential"]


class Sequential(Template):
    """Growths one after another: ``growth1``, ``growth2``, and so on.

    A growth's trigger is asked for only when the consolidation before it is over, so that no growth
    begins while another one still sets.
    """

    template: ClassVar = "sequential"

    growths: Annotated[Seq[GrowCycle], Field(min_length=1, max_length=50)]
    """The growths, each with the fields of ``grow_cycle``."""

    def parts(self) -> dict[str, Any]:
        """A ``grow_cycle`` for each growth, and ``done``."""
        names = [f"growth{number}" for number in range(1, len(self.growths) + 1)]
        after = [*names[1:], "done"]
        stages: dict[str, Any] = {
            name: {"use": GrowCycle.template, "with": growth, "next": following}
            for name, growth, following in zip(names, self.growths, after, strict=True)
        }
        return {"initial": names[0], "stages": {**stages, "done": {"kind": "final"}}}


class UseSequential(UseTemplate):
    """A stage that puts growths in, one after another."""

    use: Literal["sequential"]
    """The template."""
    with_: Sequential = Field(alias="with")
    """What fills the template in."""
    next: Reference
    """Where it leads when the last one is over."""
