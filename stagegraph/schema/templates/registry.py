"""The templates that there are, by name: the one list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stagegraph.schema.templates.context_extension import ContextExtension
from stagegraph.schema.templates.gradual_unfreezing import GradualUnfreezing
from stagegraph.schema.templates.grow_cycle import GrowCycle
from stagegraph.schema.templates.overlapping import Overlapping
from stagegraph.schema.templates.sequential import Sequential
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.template import RegionTemplate, Template
from stagegraph.schema.templates.warmup_stable_decay import WarmupStableDecay

__all__ = ["REGION_TEMPLATES", "TEMPLATES"]

TEMPLATES: Final[Mapping[str, type[Template]]] = {
    template.template: template
    for template in (
        GrowCycle,
        Sequential,
        GradualUnfreezing,
        WarmupStableDecay,
        ContextExtension,
        SpikeRule,
    )
}
"""Every template of stages by the name that a stage's ``use`` gives it."""

REGION_TEMPLATES: Final[Mapping[str, type[RegionTemplate]]] = {
    template.template: template for template in (Overlapping,)
}
"""Every template of regions by the name that ``use`` under ``regions`` gives it."""
