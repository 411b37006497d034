"""Entries: what an optimizer is to hold of a parameter, made before it is put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.optimizer_state import CopyPolicy, state_for_copy

__all__ = ["State", "copied_states"]


@dataclass(frozen=True, slots=True)
class State:
    """The state entry that a parameter is to have.

    Attributes:
        optimizer: The optimizer.
        parameter: The parameter.
        entry: What its entry is to hold.
    """

    optimizer: Optimizer
    parameter: nn.Parameter
    entry: Mapping[str, Any]

    def put(self) -> None:
        """Put it into the entry that is there."""
        there = self.optimizer.state[self.parameter]
        there.clear()
        there.update(self.entry)


def copied_states(
    optimizers: Sequence[Optimizer],
    templates: Mapping[nn.Parameter, nn.Parameter],
    policy: CopyPolicy,
) -> list[State]:
    """The entries of parameters that were copied whole, where they are to have one.

    Args:
        optimizers: The optimizers.
        templates: New parameter to the one that it was copied from.
        policy: What they begin with.

    Raises:
        UnsupportedError: An optimizer, or a state of it, is not known.
    """
    found: list[State] = []
    for optimizer in optimizers:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for new, template in templates.items():
            if id(template) not in trained:
                continue
            entry = state_for_copy(optimizer, template, policy=policy, weight=new)
            if entry is not None:
                found.append(State(optimizer, new, entry))
    return found
