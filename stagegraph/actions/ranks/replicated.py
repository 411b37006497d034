"""Replicated: a ``DistributedDataParallel`` that goes on with a model whose parameters change.

The wrapper keeps a reducer over the parameters that it was made with; it sees neither a new one nor
one that is frozen. Who holds the wrapper, such as a trainer's loop, cannot be given another, so the
same object is initialised again around the same model: with the arguments, hooks and attributes
that it has. That leans on what is not public in torch, and is pinned by a test.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.utils import _sync_module_states
from torch.nn.parallel import DistributedDataParallel

from stagegraph.actions.probes import Probe
from stagegraph.actions.ranks.order import settle_order
from stagegraph.errors import UnsupportedError

__all__ = ["Replicated", "replicated_in", "why_not_followed"]

_HELD = ("reducer", "logger", "_accum_grad_hooks", "_comm_hooks")


class Replicated:
    """One wrapper.

    Args:
        wrapper: It.
    """

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self._wrapper = wrapper
        self._searches = bool(wrapper.find_unused_parameters)
        self._known = self._reduced()
        self._comm_hooks: list[tuple[Any, Any]] = []
        self._unused = self._dropped = self._grown = False
        self._reduces = _Noticed(wrapper)

    @property
    def size(self) -> int:
        """Over how many ranks gradients are averaged."""
        return self._wrapper.process_group.size()

    def let_go(self) -> None:
        """Drop the reducer, so that parameters can be given other memory; :meth:`follow` next."""
        wrapper = self._wrapper
        if not self._dropped:
            self._comm_hooks = list(wrapper._comm_hooks)  # noqa: SLF001 - said above
            wrapper.reducer = wrapper.logger = None  # type: ignore[assignment]
            self._dropped = True

    def follow(self, *, unused: bool) -> None:
        """Reduce what the model trains now; a collective where anything has changed.

        Args:
            unused: Whether some parameters may get no gradient, behind a closed gate or in a head
                that is not in use.
        """
        known = self._reduced()
        if not self._dropped and known == self._known and self._unused == unused:
            return
        self._grown |= [one[:3] for one in known] != [one[:3] for one in self._known]
        self.let_go()
        self._initialise(searches=self._searches or unused)
        self._known, self._unused, self._dropped = known, unused, False
        self._reduces.forget()
        self._reduces = _Noticed(self._wrapper)

    def align(self) -> None:
        """Give all ranks rank 0's parameters where they have grown, as a new wrapper would.

        A collective, and so apart from :meth:`follow`, which may fail on one rank alone.
        """
        if self._grown:
            self._grown = False
            wrapper = self._wrapper
            _sync_module_states(
                module=wrapper.module,
                process_group=wrapper.process_group,
                broadcast_bucket_size=wrapper.broadcast_bucket_size,
                src=0,
                params_and_buffers_to_ignore=wrapper.parameters_to_ignore,
                broadcast_buffers=False,  # each rank's own, or rank 0's at the next forward
            )

    @property
    def has_own_buffers(self) -> bool:
        """Whether each rank keeps buffers of its own, such as running statistics."""
        syncs = getattr(self._wrapper, "forward_sync_buffers", None)
        return not (self._wrapper.broadcast_buffers if syncs is None else syncs)

    def mind(self, *, unused: bool) -> None:
        """The same between boundaries, where only that can have changed."""
        if self._unused != unused:
            self.follow(unused=unused)

    @property
    def has_reduced(self) -> bool:
        """Whether gradients were averaged since it was initialised last.

        From the second time on the wrapper adds up in an order that the first has shown it, and
        among three ranks or more the last bits hang on the order.
        """
        return self._reduces.happened

    def settle(self, probe: Probe) -> None:
        """Average gradients once for nothing, so that the order is that of a run that goes on.

        Args:
            probe: A batch.
        """
        if self.size >= 3 and not self._reduces.happened:
            settle_order(self._wrapper, probe)

    def _reduced(self) -> tuple[tuple[int, tuple[int, ...], Any, bool], ...]:
        """The parameters: which they are, shapes, types, and whether they are trained."""
        return tuple(
            (id(p), tuple(p.shape), p.dtype, p.requires_grad)
            for p in self._wrapper.module.parameters()
        )

    def _initialise(self, *, searches: bool) -> None:
        wrapper = self._wrapper
        before = dict(vars(wrapper))
        syncs, averages = wrapper.require_backward_grad_sync, wrapper.require_forward_param_sync
        arguments = _arguments(wrapper)
        arguments |= {"find_unused_parameters": searches, "init_sync": False}
        own = vars(nn.Module())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say was said when the user made it
            wrapper.__init__(wrapper.module, **arguments)  # type: ignore[misc]
        for name, value in before.items():
            hooks = name in own and name not in ("_modules", "_parameters", "_buffers")
            if hooks or (name not in vars(wrapper) and name not in _HELD):
                vars(wrapper)[name] = value
        wrapper.require_backward_grad_sync = syncs
        wrapper.require_forward_param_sync = averages
        for hook, state in self._comm_hooks:
            wrapper.register_comm_hook(state, hook)


class _Noticed:
    """Whether a wrapper was called to train; the hook goes with the first time.

    Args:
        wrapper: It.
    """

    def __init__(self, wrapper: nn.Module) -> None:
        self.happened = False
        self._handle = wrapper.register_forward_pre_hook(self._before)

    def forget(self) -> None:
        """Take the hook off, if it is still there."""
        self._handle.remove()

    def _before(self, module: nn.Module, _inputs: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self.happened = True
            self._handle.remove()


def _arguments(wrapper: DistributedDataParallel) -> dict[str, Any]:
    """What a wrapper was made with, as far as this version of torch takes it."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    bucket = getattr(wrapper, "bucket_bytes_cap", None)
    usual = getattr(wrapper, "bucket_bytes_cap_default", False)
    found: Mapping[str, Any] = {
        "device_ids": wrapper.device_ids,
        "output_device": wrapper.output_device,
        "dim": wrapper.dim,
        "process_group": wrapper.process_group,
        "bucket_cap_mb": None if usual or bucket is None else bucket / 2**20,
        "gradient_as_bucket_view": wrapper.gradient_as_bucket_view,
        "static_graph": wrapper.static_graph,
        "mixed_precision": wrapper.mixed_precision,
        "skip_all_reduce_unused_params": getattr(wrapper, "skip_all_reduce_unused_params", False),
        "batched_grad_copy": getattr(wrapper, "batched_grad_copy", False),
    }
    taken = {name: value for name, value in found.items() if name in known}
    if "forward_sync_buffers" in known:
        taken["forward_sync_buffers"] = wrapper.forward_sync_buffers
    else:
        taken["broadcast_buffers"] = wrapper.broadcast_buffers
    return taken


def why_not_followed(wrapper: DistributedDataParallel) -> list[str]:
    """What keeps a wrapper from being initialised again, each as a sentence."""
    reasons = []
    if wrapper.static_graph:
        reasons.append(
            "DistributedDataParallel(static_graph=True) promises that the same parameters are used "
            "for ever, and the graph changes them; leave static_graph out"
        )
    if wrapper.mixed_precision is not None:
        reasons.append(
            "DistributedDataParallel(mixed_precision=...) hooks every module when it is made, and "
            "would do so again; use torch.autocast"
        )
    stateful = [
        getattr(hook, "__qualname__", str(hook))
        for hook, state in wrapper._comm_hooks  # noqa: SLF001 - said above
        if state is not None and not isinstance(state, ProcessGroup)
    ]
    if stateful:
        reasons.append(
            f"the communication hook {stateful[0]} has a state of its own, such as PowerSGD's "
            "memory, which has the sizes of before a change and is in no checkpoint; register a "
            "hook without one"
        )
    if getattr(wrapper, "_delay_all_reduce_params", None):
        reasons.append(
            "DistributedDataParallel(delay_all_reduce_named_params=...) names parameters that may "
            "change; leave it out"
        )
    return reasons


def replicated_in(model: nn.Module) -> DistributedDataParallel | None:
    """The wrapper that was given as the model, compiled or not; ``None`` if there is none.

    Raises:
        UnsupportedError: There are several, one in the other.
    """
    found: DistributedDataParallel | None = None
    while True:
        if isinstance(model, DistributedDataParallel):
            if found is not None:
                raise UnsupportedError("the model is wrapped in DistributedDataParallel twice")
            found, model = model, model.module
        elif "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
            assert inner is not None
            model = inner
        else:
            return found
