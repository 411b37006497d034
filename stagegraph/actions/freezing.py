"""Freezing: parameters that keep still, and modules that run as in evaluation.

A frozen parameter has ``requires_grad=False`` and no gradient, and stays in its optimizer group:
with ``grad=None`` the optimizer passes it by, weight decay and momentum included. Which modules
keep still beside it, :mod:`~.stillness` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from stagegraph.actions.stillness import StillModule

__all__ = ["Freezing"]


class Freezing:
    """What is frozen now, and what each of it was before."""

    def __init__(self) -> None:
        self._originals: dict[int, tuple[nn.Parameter, bool]] = {}
        self._still: dict[int, StillModule] = {}

    def original(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter would be trained if nothing here were frozen."""
        held = self._originals.get(id(parameter))
        return parameter.requires_grad if held is None else held[1]

    def be_originally(self, parameter: nn.Parameter, *, trained: bool) -> None:
        """Say whether the parameter would be trained if nothing here were frozen."""
        if id(parameter) in self._originals:
            self._originals[id(parameter)] = (parameter, trained)
        else:
            parameter.requires_grad_(trained)

    def originals(self) -> list[tuple[nn.Parameter, bool]]:
        """The frozen parameters, each with ``requires_grad`` as it was before."""
        return list(self._originals.values())

    def hold(self, parameters: Iterable[nn.Parameter], still: Iterable[nn.Module]) -> None:
        """Freeze exactly these, and release what else was frozen to what it was before.

        Args:
            parameters: Parameters that are not trained.
            still: Modules that run as in evaluation.
        """
        wanted = {id(parameter): parameter for parameter in parameters}
        for key in [key for key in self._originals if key not in wanted]:
            parameter, original = self._originals.pop(key)
            parameter.requires_grad_(original)
        for key, parameter in wanted.items():
            if key not in self._originals:
                self._originals[key] = (parameter, parameter.requires_grad)
            parameter.requires_grad_(False)
            parameter.grad = None
        modules = {id(module): module for module in still}
        for key in [key for key in self._still if key not in modules]:
            self._still.pop(key).remove()
        for key, module in modules.items():
            if key not in self._still:
                self._still[key] = StillModule(module)

    @property
    def held(self) -> frozenset[int]:
        """``id`` of what keeps still: parameters, and modules that run as in evaluation."""
        return frozenset(self._originals) | frozenset(self._still)

    def remember(self) -> Callable[[], None]:
        """A way back to what is frozen now; flags and hooks are undone by reference."""
        originals, still = dict(self._originals), dict(self._still)

        def way_back() -> None:
            self._originals, self._still = originals, still

        return way_back

    def close(self) -> None:
        """Release everything."""
        self.hold((), ())
