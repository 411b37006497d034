"""The moment: where training stands at the start of a boundary, for what is kept of it for good."""

from __future__ import annotations

from typing import Any

from stagegraph.engine.state import State

__all__ = ["moment_of"]


def moment_of(state: State) -> dict[str, Any]:
    """Where training stands, as JSON data.

    Args:
        state: The state that a boundary is decided on, or that it returns to.

    Returns:
        ``step`` (the clock of this branch), ``boundary`` (updates ever made), ``progress``,
        ``stages`` per region, and the newest finite value of each ``metrics``.
    """
    return {
        "step": state.clock.step,
        "boundary": state.spent.step,
        "progress": state.clock.to_json(),
        "stages": {name: key.removeprefix(f"{name}:") for name, key in state.stages.items()},
        "metrics": {
            name: metric.last for name, metric in state.metrics.items() if metric.last is not None
        },
    }
