"""Schedules: what a torch scheduler will do, found out on a copy; the real one is never stepped."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stagegraph.actions.optimizing.optimizers import innermost

__all__ = ["MOST_UPDATES", "Course", "course_of", "host_rate"]

MOST_UPDATES = 100_000
"""How many updates a scheduler is followed for."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is known of a scheduler.

    Attributes:
        name: Its class.
        rates: The largest rate of all groups, per update; empty if it is not known.
        follows_metric: Whether it waits for a plateau of its own.
        unknown: Why its course cannot be told, or ``None``.
        refuses: What it raises when it is stepped once more than ``rates`` has updates for, in
            words; ``None`` if it goes on.
    """

    name: str
    rates: tuple[float, ...] = ()
    follows_metric: bool = False
    unknown: str | None = None
    refuses: str | None = None


def course_of(scheduler: Any, updates: int) -> Course:
    """What a scheduler will do from where it stands.

    A deep copy of it steps on an optimizer of one number that has the same groups, so that neither
    the scheduler nor its optimizer changes. Functions that it was given are called.

    Args:
        scheduler: A scheduler of torch's, or one derived from it.
        updates: For how many updates, if it is stepped once for each.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau):
        return Course(name, follows_metric=True)
    if not isinstance(scheduler, LRScheduler):
        return Course(name, unknown="it is none of torch's schedulers")
    if updates > MOST_UPDATES:
        why = f"the run takes {updates:,} updates, and it is followed for {MOST_UPDATES:,}"
        return Course(name, unknown=why)
    try:
        rates, refuses = _follow(scheduler, updates)
        return Course(name, rates, refuses=refuses)
    except Exception as error:  # noqa: BLE001 - whatever a scheduler of somebody's own does
        return Course(name, unknown=f"a copy of it cannot be stepped: {error!r}")


def _follow(scheduler: LRScheduler, updates: int) -> tuple[tuple[float, ...], str | None]:
    twin_optimizer = _twin_of(scheduler.optimizer)
    twin = copy.deepcopy(scheduler, {id(scheduler.optimizer): twin_optimizer})
    if twin.optimizer is not twin_optimizer:
        raise TypeError("it does not hold its optimizer as 'optimizer'")
    rates = [_largest(twin_optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the twin's optimizer was never stepped
        for _ in range(updates):
            try:
                twin.step()
            except ValueError as error:
                if len(rates) == 1:
                    raise
                return tuple(rates), str(error)
            rates.append(_largest(twin_optimizer))
    return tuple(rates), None


def _twin_of(optimizer: Optimizer) -> Optimizer:
    """An optimizer of one number per group, with the same settings."""
    groups = [
        {
            key: value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)
            for key, value in group.items()
            if key not in ("params", "param_names")
        }
        | {"params": [torch.zeros(())]}
        for group in optimizer.param_groups
    ]
    lr = groups[0]["lr"]
    return SGD(groups, lr=lr if isinstance(lr, Tensor) else float(lr))


def _largest(optimizer: Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


def host_rate(optimizers: Any) -> float | None:
    """The host's learning rate now: the largest of all groups of all optimizers.

    ``None`` where it is a tensor on a device, which is not waited for.
    """
    rates: list[float] = []
    for optimizer in optimizers:
        for group in innermost(optimizer).param_groups:
            rate = group["lr"]
            if isinstance(rate, Tensor) and rate.device.type != "cpu":
                return None
            rates.append(float(rate))
    return max(rates, default=None)
