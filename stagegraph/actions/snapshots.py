"""Snapshots: copies of everything that training changes, to return to.

All is kept under stable ids, so that a snapshot outlives growth, and outlives the process when its
:meth:`Snapshot.pack` is saved with the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.companions import Companions
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.module_state import (
    buffers_of,
    extra_states,
    lasting,
    passing_buffers,
    put_buffers,
    put_extra_states,
)
from stagegraph.actions.optimizing.optimizers import foreign_parameters
from stagegraph.actions.randomness import RandomState
from stagegraph.errors import SnapshotError

__all__ = ["Snapshot", "restore", "stable_parameters", "take"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot.

    Attributes:
        lineage: The structural changes that had been made.
        parameters: Contents of all parameters by stable id.
        buffers: Contents of all buffers by stable id.
        groups: Per optimizer and group: its settings, and the ids of its parameters in order.
        state: Per optimizer: state by parameter id.
        companions: States of schedulers, scaler, EMA and data.
        alphas: Alpha per block that had a gate.
        random: The random numbers.
        attributes: What attributes that were held said, by path.
        passing: The ids of buffers that modules do not keep in their state dict.
        extra: What modules keep by ``get_extra_state``, by stable id.
        beside: Per optimizer: what its state dict has beside state and groups.
    """

    lineage: Lineage
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    groups: Sequence[Sequence[Mapping[str, Any]]]
    state: Sequence[Mapping[str, Mapping[str, Any]]]
    companions: Mapping[str, Any]
    alphas: Mapping[str, float]
    random: RandomState
    attributes: Mapping[str, str | None] = field(default_factory=dict)
    passing: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    beside: Sequence[Mapping[str, Any]] = ()

    def with_data(self, companions: Companions) -> Snapshot:
        """The same, but for the data, which is where it is now."""
        return replace(self, companions={**self.companions, **companions.data_state()})

    def pack(self) -> dict[str, Any]:
        """The same in plain containers and tensors, for ``torch.save``."""
        return {
            "lineage": self.lineage.as_json(),
            "parameters": dict(self.parameters),
            "buffers": dict(self.buffers),
            "groups": [[dict(group) for group in groups] for groups in self.groups],
            "state": [{key: dict(entry) for key, entry in one.items()} for one in self.state],
            "companions": dict(self.companions),
            "alphas": dict(self.alphas),
            "random": self.random.pack(),
            "attributes": dict(self.attributes),
            "passing": list(self.passing),
            "extra": dict(self.extra),
            "beside": [dict(one) for one in self.beside],
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Snapshot:
        """The inverse of :meth:`pack`.

        Raises:
            SnapshotError: Something is missing in it.
        """
        try:
            return cls(
                lineage=Lineage.from_json(packed["lineage"]),
                parameters=packed["parameters"],
                buffers=packed["buffers"],
                groups=packed["groups"],
                state=packed["state"],
                companions=packed["companions"],
                alphas=packed["alphas"],
                random=RandomState.unpack(packed["random"]),
                attributes=packed["attributes"],
                passing=tuple(packed["passing"]),
                extra=packed["extra"],
                beside=packed["beside"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"this snapshot cannot be read: {error!r}") from error


def stable_parameters(
    model: nn.Module, optimizers: Sequence[Optimizer], lineage: Lineage
) -> dict[str, Any]:
    """All parameters by stable id: the model's, then those that only an optimizer knows."""
    named: dict[str, Any] = {lineage.stable(name): p for name, p in model.named_parameters()}
    for place, optimizer in enumerate(optimizers):
        for index, parameter in enumerate(foreign_parameters(model, optimizer)):
            named[f"optimizer{place}:{index}"] = parameter
    return named


def _cloned(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def take(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    lineage: Lineage,
    companions: Companions,
    alphas: Mapping[str, float],
    attributes: Mapping[str, str | None],
    copied: Callable[[Any], Any] = _cloned,
) -> Snapshot:
    """Copy everything as it is now.

    Args:
        model: The model.
        optimizers: Its optimizers.
        lineage: What it has been through.
        companions: Schedulers, scaler, EMA and data.
        alphas: Alpha per block that has a gate.
        attributes: What attributes that are held say.
        copied: How a tensor or another value is copied; whoever copies at once himself gives back
            the value itself.
    """
    parameters = stable_parameters(model, optimizers, lineage)
    ids = {id(parameter): key for key, parameter in parameters.items()}
    return Snapshot(
        lineage=Lineage(lineage.changes),
        parameters={key: copied(parameter.detach()) for key, parameter in parameters.items()},
        buffers={key: copied(b.detach()) for key, b in buffers_of(model, lineage).items()},
        groups=[list(_groups(optimizer, ids, copied)) for optimizer in optimizers],
        state=[
            {ids[id(p)]: {k: copied(v) for k, v in entry.items()} for p, entry in o.state.items()}
            for o in optimizers
        ],
        companions=companions.states(copied=copied),
        alphas=dict(alphas),
        random=RandomState.capture(),
        attributes=dict(attributes),
        passing=passing_buffers(model, lineage),
        extra=extra_states(model, lineage, copied=copied),
        beside=[_beside(optimizer, copied) for optimizer in optimizers],
    )


def _beside(optimizer: Optimizer, copied: Callable[[Any], Any]) -> dict[str, Any]:
    """What an optimizer of one's own keeps in its state dict beside what all optimizers do."""
    if type(optimizer).state_dict is Optimizer.state_dict:
        return {}
    whole = optimizer.state_dict()
    return {key: copied(one) for key, one in whole.items() if key not in ("state", "param_groups")}


def _groups(
    optimizer: Optimizer, ids: Mapping[int, str], copied: Callable[[Any], Any]
) -> Iterator[dict[str, Any]]:
    for group in optimizer.param_groups:
        settings = {k: copied(v) for k, v in group.items() if k not in ("params", "param_names")}
        yield {"settings": settings, "members": [ids[id(p)] for p in group["params"]]}


def restore(
    snapshot: Snapshot,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    companions: Companions,
    rewind_data: bool,
) -> None:
    """Put everything back that a snapshot holds; the structure must be the snapshot's already.

    Args:
        snapshot: The snapshot.
        model: The model, with the structure it had then.
        optimizers: Its optimizers.
        companions: Schedulers, scaler, EMA and data.
        rewind_data: Whether the data returns to its position too.

    Raises:
        SnapshotError: Model or optimizers hold other parameters than then.
    """
    parameters = stable_parameters(model, optimizers, snapshot.lineage)
    _check_same("parameter", snapshot.parameters, parameters)
    _check_same("buffer", *lasting(snapshot.buffers, snapshot.passing, model, snapshot.lineage))
    with torch.no_grad():
        for key, content in snapshot.parameters.items():
            parameters[key].copy_(content)
            parameters[key].grad = None
    put_buffers(snapshot.buffers, snapshot.passing, model, snapshot.lineage)
    put_extra_states(snapshot.extra, model, snapshot.lineage)
    for optimizer, beside in zip(optimizers, snapshot.beside, strict=True):
        if beside:  # state and groups, which this may round or make anew, come after
            optimizer.load_state_dict({**optimizer.state_dict(), **copy.deepcopy(dict(beside))})
    for optimizer, groups, state in zip(optimizers, snapshot.groups, snapshot.state, strict=True):
        _restore_groups(optimizer, groups, parameters)
        optimizer.state.clear()
        counting = _counting_on_device(optimizer)
        for key, entry in state.items():
            like = parameters[key]
            apart = id(like) not in counting
            optimizer.state[like] = {k: _moved(k, v, like, apart=apart) for k, v in entry.items()}
    companions.load(snapshot.companions, data=rewind_data)
    snapshot.random.restore()


def _counting_on_device(optimizer: Optimizer) -> set[int]:
    """``id`` of each parameter whose steps an optimizer counts where the parameter is.

    It is torch's own rule (``Optimizer.load_state_dict``): fused and capturable ones do, and the
    others count in the host's memory.
    """
    return {
        id(parameter)
        for group in optimizer.param_groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }


def _moved(key: str, value: Any, like: Tensor, *, apart: bool) -> Any:
    """A copy on its parameter's device, and with its layout in memory.

    A file keeps no layout, and fused optimizers take elements as they lie: moments that lie in
    another order than their parameter's would belong to other elements. What is one number per
    tensor and lies in the host's memory stays there, if the optimizer wants it apart.
    """
    if not isinstance(value, Tensor):
        return _cloned(value)
    if not value.dim():
        own = bool(like.dim()) or key == "step"  # and no moment of a parameter of one number
        if apart and own and value.device.type == "cpu":
            return _cloned(value)
        return value.detach().to(like.device, copy=True)
    if type(value) is Tensor and type(like.data) is Tensor and value.shape == like.shape:
        return torch.empty_like(like.data, dtype=value.dtype).copy_(value.detach())
    return value.detach().to(like.device, copy=True)


def _check_same(what: str, kept: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(kept) - set(now)), sorted(set(now) - set(kept))
    if missing or extra:
        raise SnapshotError(
            f"the snapshot knows the {what}s {missing or 'of the model'}"
            + (" that the model has lost" if missing else "")
            + (f"; the model has {extra}, unknown to the snapshot" if extra else "")
            + "; the model was changed by something else than stagegraph"
        )
    for key, tensor in kept.items():
        if tensor.shape != now[key].shape:
            raise SnapshotError(
                f"{what} {key!r} had shape {tuple(tensor.shape)} in the snapshot and has "
                f"{tuple(now[key].shape)} now"
            )
        if tensor.dtype != now[key].dtype:
            raise SnapshotError(
                f"{what} {key!r} was of {tensor.dtype} in the snapshot and is of {now[key].dtype} "
                "now, where it would be rounded; give the model the type it had"
            )


def _restore_groups(
    optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
) -> None:
    if len(groups) != len(optimizer.param_groups):
        raise SnapshotError(
            f"{type(optimizer).__name__} had {len(groups)} parameter groups in the snapshot and "
            f"has {len(optimizer.param_groups)} now"
        )
    for group, kept in zip(optimizer.param_groups, groups, strict=True):
        group["params"][:] = [parameters[key] for key in kept["members"]]
        for key, value in kept["settings"].items():
            held = group.get(key)
            if isinstance(held, Tensor) and isinstance(value, Tensor):
                with torch.no_grad():
                    held.copy_(value)  # schedulers and compiled steps hold on to this tensor
            else:
                group[key] = _cloned(value)
        for key in [k for k in group if k not in kept["settings"]]:
            if key not in ("params", "param_names"):
                del group[key]
