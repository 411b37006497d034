"""Neighbours: which optimizer group a parameter joins that was made from no other one.

The rule, for all growths: it joins the group of the nearest parameter that an optimizer trains and
that has as many dimensions, so that matrices go where matrices are (Muon), and biases and norms
where those are (no weight decay); if there is none with as many, that of the nearest at all. The
nearest is looked for in the host, then in what is around it, outward to the whole model; there, it
is the one that stands closest in ``model.parameters()``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

__all__ = ["Neighbours"]


class Neighbours:
    """The parameters of a model that its optimizers train.

    Args:
        model: The model.
        optimizers: Its optimizers.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        trained = {
            id(parameter)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._trained = trained
        self._known = [(n.split("."), p) for n, p in model.named_parameters() if id(p) in trained]

    def templates(
        self,
        path: str,
        new: Mapping[str, nn.Parameter],
        *,
        copied_from: nn.Module | None = None,
    ) -> dict[nn.Parameter, nn.Parameter]:
        """The parameter whose group each new one joins.

        Args:
            path: Today's path of the host.
            new: The new parameters by name.
            copied_from: The module that some of them are copies from: a parameter whose name ends
                as one of its parameters is called, and of that shape. It joins that one.

        Returns:
            New parameter to its template; to itself where no optimizer trains anything.
        """
        originals = dict(copied_from.named_parameters()) if copied_from is not None else {}
        near = self._by_distance(path.split(".") if path else [])
        found: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in new.items():
            original = _original(name, parameter, originals)
            if original is not None and id(original) in self._trained:
                found[parameter] = original
                continue
            alike = [other for other in near if other.dim() == parameter.dim()]
            found[parameter] = next(iter(alike or near), parameter)
        return found

    def _by_distance(self, host: list[str]) -> list[nn.Parameter]:
        outward = [len(host) - _common(host, name) for name, _ in self._known]
        anchor = outward.index(min(outward)) if outward else 0
        order = sorted(range(len(outward)), key=lambda at: (outward[at], abs(at - anchor)))
        return [self._known[at][1] for at in order]


def _original(
    name: str, parameter: nn.Parameter, originals: Mapping[str, nn.Parameter]
) -> nn.Parameter | None:
    parts = name.split(".")
    for start in range(len(parts)):
        original = originals.get(".".join(parts[start:]))
        if original is not None and original.shape == parameter.shape:
            return original
    return None


def _common(host: list[str], name: list[str]) -> int:
    shared = 0
    for one, other in zip(host, name, strict=False):
        if one != other:
            break
        shared += 1
    return shared
