"""Step hooks: what is in force around one optimizer's own ``step``, and only there.

Five things would break that, and each has its mend here:

* ``step`` raises and its post hook never runs: :meth:`StepHooks.heal`;
* a closure runs the user's forward inside ``step``: it is wrapped, and sees the host's values;
* ``super().step()`` fires the hooks twice: only the outermost call counts;
* parameters of one group have different factors: the group is split while ``step`` runs only;
* ``step`` is compiled, hooks and all: they are left out of what is compiled.

Most of the time nothing is in force. The hooks are off the optimizer then, and cost nothing.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from inspect import currentframe, unwrap
from types import CodeType, FrameType, MethodType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from stagegraph.actions.optimizing.group_splits import Group, Split, merge, scaled, split, take_over
from stagegraph.actions.optimizing.scales import Scale
from stagegraph.actions.optimizing.settings import Applied, Settings
from stagegraph.actions.optimizing.slice_factors import Slices
from stagegraph.errors import UnsupportedError

__all__ = ["InForce", "StepHooks"]


class InForce(Protocol):
    """What is in force, for the hooks of one optimizer to ask."""

    settings: Settings
    """Other hyper-parameters that are set while the optimizer steps."""

    @property
    def active(self) -> bool:
        """Whether there is anything at all."""
        ...

    def class_of(self, parameter: Tensor) -> tuple[tuple[str, ...], Scale]:
        """What a parameter is under; it stays so until the hooks are told of a change."""
        ...

    def scale(self, keys: Sequence[str], lasting: Scale) -> Scale:
        """What that amounts to now."""
        ...

    def slices(self, optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
        """Parameters of an optimizer of which only slices are under factors, and the factors."""
        ...


Class = tuple[tuple[str, ...], Scale]


def _on_stack(frame: FrameType) -> bool:
    above = currentframe()
    while above is not None:
        if above is frame:
            return True
        above = above.f_back
    return False


def _uncompiled(hook: Callable[..., Any]) -> Any:
    """A hook that is no part of a compiled ``step``, which would keep what it found at first."""
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call]


def _caller(wrapper: CodeType) -> FrameType | None:
    """The frame that called the hook which asks; ``wrapper`` is what stands around the hook."""
    here = currentframe()
    above = here.f_back if here is not None else None
    if above is not None:
        above = above.f_back
    while above is not None and above.f_code is wrapper:
        above = above.f_back
    return above


class StepHooks:
    """What is in force around one optimizer's ``step``.

    A factor that comes in force while ``step`` runs, in a closure, is for the rest of that step.

    Attributes:
        rates: What is in force.
        first: Called once, before the first step, if nothing was put in force yet.
    """

    def __init__(self, optimizer: Optimizer, rates: InForce) -> None:
        _refuse_second(optimizer)
        self._optimizer = optimizer
        self.rates = rates
        self.first: Callable[[], None] | None = None
        self._frame: FrameType | None = None
        self._depth = 0
        self._in_closure = False
        self._begun = False
        self._applied: list[tuple[Group, str, Any, Any]] = []
        self._splits: list[Split] = []
        self._hosts: list[Applied] = []
        self._slices = Slices()
        self._classes: dict[int, tuple[int, dict[Class, list[int]]]] = {}
        self._stepped = self._inside = False
        pre, post = _uncompiled(self._before), _uncompiled(self._after)
        self._wrapper: CodeType = pre.__code__
        before = optimizer.register_step_pre_hook(pre)
        after = optimizer.register_step_post_hook(post)
        own = vars(optimizer)
        self._places: tuple[tuple[OrderedDict[int, Any], int, Any], ...] = (
            (own["_optimizer_step_pre_hooks"], before.id, pre),
            (own["_optimizer_step_post_hooks"], after.id, post),
        )
        self._on = True

    def close(self) -> None:
        """Remove the hooks."""
        self.first = None
        self.heal()
        self._take_off()

    def rest(self) -> None:
        """Take the hooks off if there is nothing for them to do; called whenever that may change.

        Where it is called inside of a step, in a closure or another hook, factors may come in force
        there, and hooks that torch goes through must not change: ours stay.
        """
        self.heal()
        self._inside = self._inside or bool(self._depth) or _steps(self._optimizer)
        if self._begun and self._stepped and not (self._inside or self.rates.active):
            self._take_off()

    def wake(self) -> None:
        """Put the hooks on again if something is in force."""
        if not self._on and self.rates.active:
            self._on = True
            for hooks, key, hook in self._places:
                _put_back(hooks, key, hook)

    def _take_off(self) -> None:
        self._on = False
        for hooks, key, _ in self._places:
            hooks.pop(key, None)

    @property
    def _running(self) -> bool:
        return self._frame is not None and _on_stack(self._frame)

    def changed(self) -> None:
        """Other factors from now on; a step under way goes on with them."""
        self._begun = True
        self._classes.clear()
        self.wake()
        if self._depth and self._running and not self._in_closure:
            self._restore()
            self._apply()

    def heal(self) -> None:
        """Leave a step that raised."""
        if self._depth and not self._running:
            self._leave()

    def _before(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.first is not None:
            if not self._begun:  # else it is the rehearsal of what the beginning itself does
                self.first()
            self.first = None
        self._stepped = True
        if self._frame is not None:
            self.heal()
        # Before the beginning, and in a closure, factors may come in force while a step runs.
        elif self._begun and not (
            self._depth or kwargs or self.rates.active or args[1:].count(None) < len(args) - 1
        ):
            return None
        if self._depth:
            self._depth += 1
            return None
        self._frame, self._depth = _caller(self._wrapper), 1
        self._apply()
        return self._with_closure(args, kwargs) if self.rates.active else None

    def _after(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._depth:
            return
        self._depth -= 1
        if self._depth <= 0 or (self._frame is not None and _caller(self._wrapper) is self._frame):
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
            self._in_closure = True
            try:
                result = closure()  # if it raises, the host's learning rates are in place
            finally:
                self._in_closure = False
            self._apply()
            return result

        return with_host_rates

    def _apply(self) -> None:
        if not self.rates.active:
            return
        self._hosts = self.rates.settings.apply(self._optimizer)
        groups: list[Group] = []
        for group in self._optimizer.param_groups:
            groups.extend(self._scaled(group))
        if self._splits:
            self._optimizer.param_groups[:] = groups
        self._slices.keep(self.rates.slices(self._optimizer))

    def _scaled(self, group: Group) -> Sequence[Group]:
        by_scale: dict[Scale, list[int]] = {}
        for (keys, lasting), places in self._classes_of(group).items():
            by_scale.setdefault(self.rates.scale(keys, lasting), []).extend(places)
        if len(by_scale) > 1:
            parts = split(group, by_scale)
            self._splits.append(parts)
            return parts.parts
        for scale in by_scale:
            for key, number in scaled(group, scale).items():
                self._applied.append((group, key, group[key], number))
                group[key] = number
        return (group,)

    def _classes_of(self, group: Group) -> dict[Class, list[int]]:
        """The places of a group's parameters by what they are under."""
        known = self._classes.get(id(group))
        if known is None or known[0] != len(group["params"]):
            classes: dict[Class, list[int]] = {}
            for place, parameter in enumerate(group["params"]):
                classes.setdefault(self.rates.class_of(parameter), []).append(place)
            known = self._classes[id(group)] = (len(group["params"]), classes)
        return known[1]

    def _restore(self) -> None:
        self._slices.blend()
        name = type(self._optimizer).__name__
        for group, key, host, number in self._applied:
            if group[key] is number:
                group[key] = host
            else:
                what = "learning rate" if key == "lr" else key
                warnings.warn(
                    f"{name}: the {what} was written while a "
                    "factor of stagegraph was on it (a step raised, and a scheduler stepped before "
                    "engine.step()); the written value stays",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._applied.clear()
        splits, self._splits = self._splits, []
        if splits:
            self._optimizer.param_groups[:] = merge(self._optimizer.param_groups, splits)
        for one in splits:
            take_over(one, name)
        hosts, self._hosts = self._hosts, []
        self.rates.settings.give_back(hosts)


def _steps(optimizer: Optimizer) -> bool:
    """Whether the optimizer's step is under way, our own hook behind it perhaps over."""
    step = getattr(type(optimizer).step, "__code__", None)
    above: FrameType | None = currentframe()
    while above is not None:
        if above.f_code is step and above.f_locals.get("args", (None,))[0] is optimizer:
            return True
        above = above.f_back
    return False


def _put_back(hooks: OrderedDict[int, Any], key: int, hook: Any) -> None:
    """To the place it had: hooks that were registered before it come before it."""
    later = [other for other in hooks if other > key]
    hooks[key] = hook
    for other in later:
        hooks.move_to_end(other)


def _refuse_second(optimizer: Optimizer) -> None:
    for hook in vars(optimizer)["_optimizer_step_pre_hooks"].values():
        method = unwrap(hook)
        other = method.__self__ if isinstance(method, MethodType) else None
        if isinstance(other, StepHooks) and other.rates.active:
            raise UnsupportedError(
                f"{type(optimizer).__name__} is under the learning-rate factors of another engine, "
                "and both would scale it; close() the other engine first"
            )
