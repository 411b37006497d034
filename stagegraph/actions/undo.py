"""Undo: a moment of model and optimizer kept by reference, and the way back to it.

Nothing is copied but the small dictionaries that hold the tensors together, and where the caller
asks for it the tensors themselves. Going back restores object identities too: the same modules,
parameters, groups and state dictionaries as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.contents import Contents
from stagegraph.actions.giving import give
from stagegraph.actions.randomness import RandomState
from stagegraph.actions.sharding.units import settle

__all__ = ["Moment", "UndoLog", "untouched"]

_CONTAINERS = frozenset((dict, OrderedDict, list, set))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


class _Attributes:
    """The attributes of one object by reference, and what its own containers hold.

    A module has a dozen containers, most of them empty hooks: these are kept without a copy.
    """

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._values = dict(vars(owner))
        containers = [value for value in self._values.values() if type(value) in _CONTAINERS]
        self._empty = [container for container in containers if not container]
        self._filled = [(container, container.copy()) for container in containers if container]

    def restore(self) -> None:
        _refill(vars(self._owner), self._values)
        for container in self._empty:
            if container:
                container.clear()
        for container, content in self._filled:
            _refill(container, content)


class _Group:
    """One parameter group, its values by reference, and what its lists and tensors hold."""

    def __init__(self, owner: dict[str, Any]) -> None:
        self._owner = owner
        self._values = dict(owner)
        self._lists = [(value, list(value)) for value in owner.values() if type(value) is list]
        self._tensors = [(v, v.detach().clone()) for v in owner.values() if isinstance(v, Tensor)]

    def restore(self) -> None:
        _refill(self._owner, self._values)
        for container, content in self._lists:
            _refill(container, content)
        with torch.no_grad():
            for tensor, value in self._tensors:
                tensor.copy_(value)


class _OptimizerMoment:
    """One optimizer: its attributes, groups and state by reference."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._attributes = _Attributes(optimizer)
        self._groups = [_Group(group) for group in optimizer.param_groups]
        self._state = optimizer.state
        self._entries = [
            (parameter, entry, dict(entry)) for parameter, entry in optimizer.state.items()
        ]

    def restore(self) -> None:
        self._attributes.restore()
        for group in self._groups:
            group.restore()
        self._state.clear()
        for parameter, entry, content in self._entries:
            _refill(entry, content)
            self._state[parameter] = entry


class Moment:
    """How things are now, so that they can be made so again.

    Args:
        modules: The models; all their sub-modules are kept too.
        optimizers: The optimizers.
        owners: Other objects whose attributes may change, such as a model's config.
        buffers: Whether the contents of buffers may change.
        parameters: Whether the contents of parameters may change.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizers: Sequence[Optimizer] = (),
        *,
        owners: Iterable[object] = (),
        buffers: bool = False,
        parameters: bool = False,
    ) -> None:
        self._models = tuple(modules)
        settle(self._models)
        parts = list({id(part): part for model in modules for part in model.modules()}.values())
        self._attributes = [_Attributes(part) for part in parts]
        self._attributes += [_Attributes(owner) for owner in owners]
        self._optimizers = [_OptimizerMoment(optimizer) for optimizer in optimizers]
        trained = [
            parameter
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        own = [p for part in parts for p in part._parameters.values() if p is not None]
        unique = {id(parameter): parameter for parameter in own + trained}.values()
        self._flags = [(p, p.requires_grad, p.grad) for p in unique]
        held = [b for part in parts for b in part._buffers.values() if b is not None]
        self._storages = [(tensor, tensor.data) for tensor in (*unique, *held)]
        contents: list[Tensor] = list(unique) if parameters else []
        if buffers:
            contents += held
        self._contents = Contents(contents)
        self._random = RandomState.capture()
        self._grad_enabled = torch.is_grad_enabled()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Do something, and go back afterwards; as often as one likes."""
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Go back: contents, identities, modes, hooks, gradients and random numbers.

        Whether gradients are on at all is among them: an interrupt may come right between the body
        of ``with torch.no_grad():`` and its end.
        """
        torch.set_grad_enabled(self._grad_enabled)
        settle(self._models, interrupted=True)
        for attributes in self._attributes:
            attributes.restore()
        for optimizer in self._optimizers:
            optimizer.restore()
        for tensor, storage in self._storages:
            _give_back(tensor, storage)
        for parameter, requires_grad, grad in self._flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        self._contents.restore()
        settle(self._models)
        self._random.restore()


def _give_back(tensor: Tensor, storage: Tensor) -> None:
    """Let a tensor have the memory that it had, if it was given another one."""
    if tensor.shape != storage.shape or tensor.data_ptr() != storage.data_ptr():
        give(tensor, storage)


class UndoLog:
    """Ways back, taken in reverse order when a transaction fails."""

    def __init__(self) -> None:
        self._ways: list[Callable[[], None]] = []

    def push(self, way_back: Callable[[], None]) -> None:
        """Remember how to undo what comes next."""
        self._ways.append(way_back)

    def undo(self) -> None:
        """Take every way back, the newest first; one that fails does not keep the others."""
        failed: list[Exception] = []
        while self._ways:
            try:
                self._ways.pop()()
            except Exception as error:  # noqa: BLE001 - raised below, when all else is undone
                failed.append(error)
        if failed:
            raise failed[0]


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Run a model inside and leave no trace: modes, buffers, hooks, ``.grad``, random numbers."""
    with Moment(models, buffers=True).restored():
        yield
