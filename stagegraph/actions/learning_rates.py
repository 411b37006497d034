"""Learning rates: the host's own, times the factors in force, while the optimizer steps.

The factors are applied by hooks around the optimizer's own ``step`` and are gone when it is over,
so that schedulers, checkpoints and the user's closure see the host's learning rates only. Four
things would break that, and each has its mend here:

* ``step`` raises and its post hook never runs: :meth:`LearningRates.heal`;
* a closure runs the user's forward inside ``step``: it is wrapped, and sees the host's values;
* ``super().step()`` fires the hooks twice: only the outermost call counts;
* parameters of one group have different factors: the group is split while ``step`` runs only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import currentframe
from types import FrameType, MethodType
from typing import Any

import torch
from torch.optim import Optimizer

from stagegraph.errors import UnsupportedError

__all__ = ["Factor", "LearningRates"]

Group = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor in force.

    Attributes:
        place: Where it is written.
        parameters: ``id`` of each parameter it is for; ``None`` is all.
    """

    place: str
    parameters: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class _Split:
    """One group that was split for the time of a step."""

    group: Group
    parts: tuple[Group, ...]
    rates: tuple[Any, ...]
    content: Group


def _on_stack(frame: FrameType) -> bool:
    above = currentframe()
    while above is not None:
        if above is frame:
            return True
        above = above.f_back
    return False


def _caller() -> FrameType | None:
    """The frame that called the function which asks; unknown in compiled code."""
    if torch.compiler.is_compiling():
        return None
    here = currentframe()
    asking = here.f_back if here is not None else None
    return asking.f_back if asking is not None else None


class LearningRates:
    """The learning-rate factors of several optimizers."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._steps = [_Step(optimizer, self) for optimizer in optimizers]
        self._factors: tuple[Factor, ...] = ()
        self._values: dict[str, float] = {}
        self.lasting = 1.0
        """A factor on everything that outlives its stage."""

    @property
    def active(self) -> bool:
        """Whether any factor is in force."""
        return bool(self._factors) or self.lasting != 1.0

    def hold(
        self, factors: Sequence[Factor], values: Mapping[str, float], *, lasting: float
    ) -> None:
        """Put exactly these factors in force, with their values."""
        self._factors = tuple(factors)
        self._values = dict(values)
        self.lasting = lasting
        for step in self._steps:
            step.changed()

    def tune(self, place: str, value: float) -> None:
        """Move one factor."""
        if place in self._values:
            self._values[place] = value

    def keys_of(self, parameter: torch.Tensor) -> tuple[str, ...]:
        """The factors that a parameter is under, in order."""
        key = id(parameter)
        return tuple(
            factor.place
            for factor in self._factors
            if factor.parameters is None or key in factor.parameters
        )

    def product(self, keys: Sequence[str]) -> float:
        """The product of these factors and the lasting one."""
        product = self.lasting
        for key in keys:
            product *= self._values[key]
        return product

    def heal(self) -> None:
        """Put the host's learning rates back where a step raised and left ours behind."""
        for step in self._steps:
            step.heal()

    def remember(self) -> Callable[[], None]:
        """A way back to the factors as they are now."""
        factors, values, lasting = self._factors, dict(self._values), self.lasting
        return lambda: self.hold(factors, values, lasting=lasting)

    def close(self) -> None:
        """Remove all hooks."""
        for step in self._steps:
            step.close()


class _Step:
    """The factors around one optimizer's ``step``."""

    def __init__(self, optimizer: Optimizer, rates: LearningRates) -> None:
        _refuse_second(optimizer)
        self._optimizer = optimizer
        self.rates = rates
        self._frame: FrameType | None = None
        self._depth = 0
        self._applied: list[tuple[Group, Any, Any]] = []
        self._splits: list[_Split] = []
        self._classes: dict[int, tuple[int, dict[tuple[str, ...], list[int]]]] = {}
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def close(self) -> None:
        self.heal()
        for handle in self._handles:
            handle.remove()

    @property
    def _running(self) -> bool:
        return self._frame is not None and _on_stack(self._frame)

    def changed(self) -> None:
        """Other factors from now on; a step under way goes on with them."""
        self._classes.clear()
        if self._depth and self._running:
            self._restore()
            self._apply()

    def heal(self) -> None:
        """Leave a step that raised."""
        if self._depth and not self._running:
            self._leave()

    def _before(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._frame is not None:
            self.heal()
        if self._depth:
            self._depth += 1
            return None
        self._frame, self._depth = _caller(), 1
        self._apply()
        return self._with_closure(args, kwargs) if self.rates.active else None

    def _after(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._depth -= 1
        if self._depth <= 0 or (self._frame is not None and _caller() is self._frame):
            self._leave()

    def _leave(self) -> None:
        self._frame, self._depth = None, 0
        self._restore()

    def _with_closure(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "closure" in kwargs and kwargs["closure"] is not None:
            return args, {**kwargs, "closure": self._wrapped(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._wrapped(args[1]), *args[2:]), kwargs
        return args, kwargs

    def _wrapped(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def with_host_rates() -> Any:
            self._restore()
            result = closure()  # if it raises, the host's learning rates are in place
            self._apply()
            return result

        return with_host_rates

    def _apply(self) -> None:
        if not self.rates.active:
            return
        groups: list[Group] = []
        for group in self._optimizer.param_groups:
            groups.extend(self._scaled(group))
        if self._splits:
            self._optimizer.param_groups[:] = groups

    def _scaled(self, group: Group) -> Sequence[Group]:
        by_factor: dict[float, list[int]] = {}
        for keys, places in self._classes_of(group).items():
            by_factor.setdefault(self.rates.product(keys), []).extend(places)
        host = group["lr"]
        if len(by_factor) == 1:
            (factor,) = by_factor
            if factor != 1.0:
                group["lr"] = _times(host, factor)
                self._applied.append((group, host, group["lr"]))
        if len(by_factor) < 2:
            return (group,)
        parts = tuple(
            _part(group, sorted(places), _times(host, factor))
            for factor, places in by_factor.items()
        )
        rates = tuple(part["lr"] for part in parts)
        self._splits.append(_Split(group, parts, rates, dict(group)))
        return parts

    def _classes_of(self, group: Group) -> dict[tuple[str, ...], list[int]]:
        """The places of a group's parameters by the factors they are under."""
        known = self._classes.get(id(group))
        if known is None or known[0] != len(group["params"]):
            classes: dict[tuple[str, ...], list[int]] = {}
            for place, parameter in enumerate(group["params"]):
                classes.setdefault(self.rates.keys_of(parameter), []).append(place)
            known = self._classes[id(group)] = (len(group["params"]), classes)
        return known[1]

    def _restore(self) -> None:
        for group, host, scaled in self._applied:
            if group["lr"] is scaled:
                group["lr"] = host
            else:
                warnings.warn(
                    f"{type(self._optimizer).__name__}: the learning rate was written while a "
                    "factor of stagegraph was on it (a step raised, and a scheduler stepped before "
                    "engine.step()); the written value stays",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._applied.clear()
        if self._splits:
            self._merge()

    def _merge(self) -> None:
        splits, self._splits = self._splits, []
        owner = {id(part): split for split in splits for part in split.parts}
        groups: list[Group] = []
        for group in self._optimizer.param_groups:
            split = owner.get(id(group))
            whole = group if split is None else split.group
            if not groups or groups[-1] is not whole:
                groups.append(whole)
        self._optimizer.param_groups[:] = groups
        for split in splits:
            _take_over(split, type(self._optimizer).__name__)


def _refuse_second(optimizer: Optimizer) -> None:
    for hook in vars(optimizer)["_optimizer_step_pre_hooks"].values():
        other = hook.__self__ if isinstance(hook, MethodType) else None
        if isinstance(other, _Step) and other.rates.active:
            raise UnsupportedError(
                f"{type(optimizer).__name__} is under the learning-rate factors of another engine, "
                "and both would scale it; close() the other engine first"
            )


def _times(rate: Any, factor: float) -> Any:
    if isinstance(rate, torch.Tensor):
        with torch.no_grad():
            return rate * factor
    return rate * factor


def _part(group: Group, places: Sequence[int], rate: Any) -> Group:
    part = {**group, "params": [group["params"][place] for place in places], "lr": rate}
    if "param_names" in group:
        part["param_names"] = [group["param_names"][place] for place in places]
    return part


def _take_over(split: _Split, optimizer: str) -> None:
    """What the optimizer wrote into the parts of a group goes into the group."""
    keys = dict.fromkeys(key for part in split.parts for key in part)
    differing: list[str] = []
    for key in keys:
        if key in ("params", "param_names", "lr"):
            continue
        values = [part.get(key) for part in split.parts]
        if all(value is split.content.get(key) for value in values):
            continue
        if all(_same(value, values[0]) for value in values):
            split.group[key] = values[0]
        else:
            differing.append(key)
    if any(part["lr"] is not rate for part, rate in zip(split.parts, split.rates, strict=True)):
        differing.append("lr")
    if differing:
        raise UnsupportedError(
            f"{optimizer} keeps {', '.join(map(repr, differing))} per parameter group, and it came "
            "out differently for parameters of one group that are under different learning-rate "
            "factors; put these parameters into groups of their own"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    return bool(a == b)
