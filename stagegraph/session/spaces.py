"""propose_spaces: a declaration of a model's spaces, from one run of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["propose_spaces"]


def propose_spaces(model: nn.Module, probe: Any) -> dict[str, dict[str, str]]:
    """What to write under ``spaces:``, as far as running the model once can tell.

    Read it before you use it: names are guesses, ``?`` stands where an operation hides what it does
    to its axes, and attributes that state a size (``sizes:``) are not looked for. Layouts of spaces
    that never grow can be left out.

    Args:
        model: The model; it is left as it was.
        probe: A batch as the model takes it, of at least two, all of whose sizes are above one.

    Returns:
        ``{"tensors": {pattern: layout}}``.

    Raises:
        UnsupportedError: There is no floating tensor in the model's output.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> propose_spaces(mlp, torch.ones(2, 4))["tensors"]["2.weight"]
        'outputs hidden'
    """
    from stagegraph.actions.growth.width.tracing.propose import propose
    from stagegraph.actions.growth.width.tracing.reading import trace

    return {"tensors": propose(trace(model, probe), model)}
