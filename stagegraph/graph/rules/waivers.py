"""Waivers: findings that the author lets pass, with a reason."""

from __future__ import annotations

from stagegraph.graph.rules.registry import declare

__all__: list[str] = []

declare(
    "cannot-waive",
    "error",
    "A waiver for an error.",
    "An error says that the run cannot work, whatever the reason to let it pass.\n\n"
    "Example: `waive: {unknown-target: later}`.",
    group=__name__,
)
declare(
    "unknown-waiver",
    "warning",
    "A waiver for a finding that does not exist.",
    "A misspelt waiver lets nothing pass, and hides that from its author.\n\n"
    "Example: `waive: {no-monitr: short run}`.",
    group=__name__,
)
declare(
    "unused-waiver",
    "warning",
    "A waiver for something that does not occur.",
    "A waiver that outlived its finding would let the next one pass unseen.\n\n"
    "Example: `waive: {no-monitor: …}` in a graph that asks `regressed`.",
    group=__name__,
)
