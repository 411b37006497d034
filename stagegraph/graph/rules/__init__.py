"""The rules of the checks: one function per rule, files by idea."""

from stagegraph.graph.rules import (
    activities,
    budgets,
    completion,
    growth,
    guards,
    metrics,
    monitors,
    names,
    options,
    parts,
    ramps,
    reach,
    regions,
    rollback,
    teachers,
    unused,
    waiting,
    waivers,
)
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.names import REMEDIES, breaks_structure
from stagegraph.graph.rules.registry import RULES, Found, Rule

__all__ = ["GROUPS", "REMEDIES", "RULES", "Context", "Found", "Rule", "breaks_structure"]

GROUPS = (
    names,
    reach,
    completion,
    guards,
    waiting,
    budgets,
    growth,
    monitors,
    options,
    ramps,
    activities,
    teachers,
    parts,
    rollback,
    metrics,
    regions,
    unused,
    waivers,
)
"""The files of rules, in the order of the documentation."""
