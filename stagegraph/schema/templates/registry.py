"""The templates that there are, by name: the one list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stagegraph.schema.templates.context_extension import ContextExtension
from stagegraph.schema.templates.gradual_unfreezing import GradualUnfreezing
from stagegraph.schema.templates.grow_cycle import GrowCycle
from stagegraph.schema.templates.sequential import Sequential
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.template import Template
from stagegraph.schema.templates.warmup_stable_decay import WarmupStableDecay

__all__ = ["TEMPLATES"]

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
"""Every template by the name that ``use`` gives it."""
