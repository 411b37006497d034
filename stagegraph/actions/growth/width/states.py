"""States: the optimizers' state of tensors that grow, and the scales that they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.entries import State
from stagegraph.actions.optimizing.optimizer_state import CopiedState, FreshState, grown_state
from stagegraph.actions.optimizing.scales import scales_of

__all__ = ["StatePolicy"]


@dataclass(frozen=True, slots=True)
class StatePolicy:
    """What the optimizer's state of what is new is.

    Attributes:
        fresh: For units that come from no old one.
        copies: For copies.
        keep_scales: Whether what grew keeps scales for good.
        optimizers: The optimizers, for the scales.
    """

    fresh: FreshState = "fill_v"
    copies: CopiedState = "mapped"
    keep_scales: bool = False
    optimizers: tuple[Optimizer, ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """For the certificate."""
        scales = "kept for good" if self.keep_scales else "none"
        return {"new": self.fresh, "copies": self.copies, "scales": scales}

    def states(
        self,
        optimizers: Sequence[Optimizer],
        tensors: Sequence[TensorGrowth],
        new: Mapping[str, Tensor],
    ) -> list[State]:
        """The new entries of all parameters that have one.

        Raises:
            UnsupportedError: An optimizer, or a state of it, is not known.
        """
        found: list[State] = []
        for optimizer in optimizers:
            for growth in tensors:
                if not isinstance(growth.tensor, nn.Parameter):
                    continue
                entry = grown_state(
                    optimizer,
                    growth.tensor,
                    growth.binding,
                    policy=self.fresh,
                    copies=self.copies,
                    times=growth.factor,
                    weight=new[growth.name],
                )
                if entry is not None:
                    found.append(State(optimizer, growth.tensor, entry))
        return found

    def scales_of(
        self, tensors: Sequence[TensorGrowth], lineage: Lineage
    ) -> tuple[tuple[str, float, float, float], ...]:
        """The scales that parameters keep, by stable id; none unless they are asked for.

        Raises:
            UnsupportedError: No scale keeps a parameter as it was.
        """
        if not self.keep_scales:
            return ()
        groups = [(o, group) for o in self.optimizers for group in o.param_groups]
        found: list[tuple[str, float, float, float]] = []
        for growth in tensors:
            for optimizer, group in groups:
                if any(parameter is growth.tensor for parameter in group["params"]):
                    one = scales_of(optimizer, growth.binding, times=growth.factor, group=group)
                    name = lineage.stable(growth.name)
                    found.append((name, one.lr, one.eps, one.weight_decay))
        return tuple(found)
