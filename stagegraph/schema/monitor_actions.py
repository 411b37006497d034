"""What follows a growth that may have hurt: measure what each part contributes, and prune."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.schema.action_model import ActionModel
from stagegraph.schema.activities import Selection
from stagegraph.schema.amounts import Number
from stagegraph.schema.names import MetricName

__all__ = ["WORST", "Attribute", "Prune"]

WORST = "worst"
"""Selects the module that the newest attribution found the most harmful."""


class Attribute(ActionModel):
    """Measure what each integrated module contributes to a metric, by ablation.

    The engine evaluates its monitor as the model is, and once more for each module with that
    module's gate closed. The contribution is how much worse the metric is without the module, in
    the direction of its goal: positive where the module helps.
    """

    type: Literal["attribute"]
    metric: MetricName
    """The metric, one that the engine's monitor measures."""
    of: Selection = ("all",)
    """Whose modules: ``all`` growths, ``grown`` (this region's last), ``{grown: name}``, or a list
    of these."""

    @model_validator(mode="after")
    def _of_growths(self) -> Attribute:
        wrong = [part for part in self.of if part not in ("all", "grown") and isinstance(part, str)]
        if wrong:
            raise ValueError(
                "an attribution is of what growths added: write 'all', 'grown' or {grown: name}, "
                f"not {wrong[0]!r}"
            )
        return self


class Prune(ActionModel):
    """Take modules that a growth added out of the model again.

    Inserted blocks leave their stack, its counts and what stands beside it; attached branches leave
    their hosts. All else stays as it is, and trained as it is.
    """

    structural: ClassVar = True
    type: Literal["prune"]
    of: Selection
    """``worst`` (what the newest attribution found the most harmful), ``grown`` (all that this
    region's last growth added), ``{grown: name}``, or a list of growths."""
    metric: MetricName | None = None
    """For ``worst``: of whose attribution; default: the newest of any metric."""
    tolerance: Annotated[Number, Field(gt=0)] | None = None
    """How far the model's output on the probe may change; default: by any amount, which is
    recorded."""

    @model_validator(mode="after")
    def _of_what_was_added(self) -> Prune:
        words = [part for part in self.of if isinstance(part, str)]
        wrong = [word for word in words if word not in (WORST, "grown")]
        if wrong:
            raise ValueError(
                "what growths added can be pruned: write 'worst', 'grown' or {grown: name}, not "
                f"{wrong[0]!r}"
            )
        if WORST in words and len(self.of) > 1:
            raise ValueError("'worst' is one module; prune nothing else beside it")
        if self.metric is not None and WORST not in words:
            raise ValueError("'metric' tells whose attribution is meant, and belongs to of: worst")
        return self
