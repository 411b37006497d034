"""Learning rates: the host's own, times the factors in force, while the optimizer steps.

The factors are applied by hooks around the optimizer's own ``step`` (:mod:`~.step_hooks`) and are
gone when it is over, so that schedulers, checkpoints and the user's closure see the host's learning
rates only. The same holds for the scales that a
grown parameter keeps for good, on its eps and weight decay too, and for factors on the updates of
a slice of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.optim import Optimizer

from stagegraph.actions.optimizing.scales import Scale
from stagegraph.actions.optimizing.settings import Setting, Settings
from stagegraph.actions.optimizing.slice_factors import SliceFactor, entry_factors
from stagegraph.actions.optimizing.step_hooks import StepHooks

__all__ = ["Factor", "LearningRates", "SliceFactor"]

_ONE = Scale()


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor in force.

    Attributes:
        place: Where it is written.
        parameters: ``id`` of each parameter it is for; ``None`` is all.
        but: ``id`` of each parameter that it is not for.
    """

    place: str
    parameters: frozenset[int] | None
    but: frozenset[int] = frozenset()


class LearningRates:
    """The learning-rate factors of several optimizers."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._steps = [StepHooks(optimizer, self) for optimizer in optimizers]
        self._factors: tuple[Factor, ...] = ()
        self._slices: tuple[SliceFactor, ...] = ()
        self._values: dict[str, float] = {}
        self._scales: dict[int, Scale] = {}
        self._lasting = self._batch = 1.0
        self.settings = Settings()
        """Other hyper-parameters that are set while an optimizer steps."""

    @property
    def active(self) -> bool:
        """Whether anything is in force."""
        held = self._factors or self._slices or self._scales or self.settings.held
        return bool(held) or self._lasting != 1.0 or self._batch != 1.0

    @property
    def lasting(self) -> float:
        """A factor on everything that outlives its stage."""
        return self._lasting

    @lasting.setter
    def lasting(self, factor: float) -> None:
        self._lasting = factor
        self._wake()

    @property
    def batch(self) -> float:
        """A factor on everything that goes with the size of the batch in hand."""
        return self._batch

    @batch.setter
    def batch(self, factor: float) -> None:
        self._batch = factor
        self._wake()

    def _wake(self) -> None:
        for step in self._steps:
            step.wake()

    @property
    def lasting_scales(self) -> Mapping[int, Scale]:
        """Scales that outlive their stage, by ``id`` of the parameter; replaced as a whole."""
        return dict(self._scales)

    @lasting_scales.setter
    def lasting_scales(self, scales: Mapping[int, Scale]) -> None:
        self._scales = {key: scale for key, scale in scales.items() if scale != _ONE}
        self._changed()

    def hold(
        self,
        factors: Sequence[Factor | SliceFactor],
        values: Mapping[str, float],
        *,
        lasting: float,
    ) -> None:
        """Put exactly these factors in force, with their values; lasting scales stay.

        Args:
            factors: Factors on whole parameters and on slices; several may share a place.
            values: The value of each place.
            lasting: The factor on everything that outlives its stage.
        """
        self._factors = tuple(one for one in factors if isinstance(one, Factor))
        self._slices = tuple(
            replace(one, mask=one.mask.to(one.parameter.device))
            for one in factors
            if isinstance(one, SliceFactor)
        )
        self._values = dict(values)
        self.lasting = lasting
        self._changed()

    def hold_settings(self, held: Mapping[str, Setting]) -> None:
        """Put exactly these hyper-parameters in force, by what they are tuned by."""
        self.settings.held = dict(held)
        self._wake()

    def _changed(self) -> None:
        for step in self._steps:
            step.changed()

    def tune(self, place: str, value: float) -> None:
        """Move one factor."""
        if place in self._values:
            self._values[place] = value

    def keys_of(self, parameter: torch.Tensor) -> tuple[str, ...]:
        """The factors that a parameter is under as a whole, in order."""
        key = id(parameter)
        return tuple(
            factor.place
            for factor in self._factors
            if (factor.parameters is None or key in factor.parameters) and key not in factor.but
        )

    def product(self, keys: Sequence[str]) -> float:
        """The product of these factors and the lasting one."""
        product = self.lasting * self.batch
        for key in keys:
            product *= self._values[key]
        return product

    def class_of(self, parameter: torch.Tensor) -> tuple[tuple[str, ...], Scale]:
        """The factors that a parameter is under as a whole, and its lasting scale."""
        return self.keys_of(parameter), self._scales.get(id(parameter), _ONE)

    def scale(self, keys: Sequence[str], lasting: Scale) -> Scale:
        """What these factors and a lasting scale amount to."""
        return replace(lasting, lr=lasting.lr * self.product(keys))

    def slices(self, optimizer: Optimizer) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The optimizer's parameters of which slices are under factors now, with the factors."""
        moved = [one for one in self._slices if self._values[one.place] != 1.0]
        if not moved:
            return []
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        by_parameter: dict[int, list[SliceFactor]] = {}
        for one in moved:
            if id(one.parameter) in own:
                by_parameter.setdefault(id(one.parameter), []).append(one)
        return [
            (several[0].parameter, entry_factors(several[0].parameter, self._valued(several)))
            for several in by_parameter.values()
        ]

    def _valued(self, several: Sequence[SliceFactor]) -> list[tuple[torch.Tensor, float]]:
        return [(one.mask, self._values[one.place]) for one in several]

    def watch_first_step(self, begin: Callable[[], None]) -> None:
        """Call ``begin`` before each optimizer's first step."""
        for step in self._steps:
            step.first = begin

    def heal(self) -> None:
        """Put the host's learning rates back where a step raised and left ours behind."""
        for step in self._steps:
            step.heal()

    def rest(self) -> None:
        """Take the hooks off optimizers that nothing is in force for; called between steps."""
        for step in self._steps:
            step.rest()

    def remember(self) -> Callable[[], None]:
        """A way back to what is in force now."""
        factors: tuple[Factor | SliceFactor, ...] = (*self._factors, *self._slices)
        values, lasting, scales = dict(self._values), self.lasting, dict(self._scales)
        batch, settings = self._batch, dict(self.settings.held)

        def way_back() -> None:
            self._scales = scales
            self._batch, self.settings.held = batch, settings
            self.hold(factors, values, lasting=lasting)

        return way_back

    def close(self) -> None:
        """Remove all hooks."""
        for step in self._steps:
            step.close()
