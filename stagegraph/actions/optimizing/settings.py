"""Settings: hyper-parameters of an optimizer's groups while it steps, and only then.

As with learning rates: schedulers, checkpoints and the user see the host's own values, so that a
scheduler that writes the same key (momentum and betas in OneCycle) goes on undisturbed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from stagegraph.errors import did_you_mean

__all__ = ["Setting", "Settings", "has_number", "why_no_setting"]

Group = dict[str, Any]

Applied = tuple[Group, str, Any, Any]
"""A group, its key, what the host had there, and what is there instead."""

_NOT_NUMBERS = ("params", "param_names")


@dataclass(frozen=True, slots=True)
class Setting:
    """One number that is set.

    Attributes:
        place: Where the activity is written.
        key: The key of the groups.
        entry: Which entry of it, where it holds several; ``None`` where it holds one.
        value: The number.
        times: Whether it is a factor on the host's own.
    """

    place: str
    key: str
    entry: int | None
    value: float
    times: bool

    @classmethod
    def of(cls, place: str, path: str, value: float, *, times: bool) -> Setting:
        """From a key as it is written, such as ``betas.0``."""
        key, _, entry = path.partition(".")
        return cls(place, key, int(entry) if entry else None, value, times)

    def applied(self, host: Any) -> Any:
        """What the group is to hold, beside what the host gave it."""
        if self.entry is None:
            return self._number(host)
        changed = list(host)
        changed[self.entry] = self._number(changed[self.entry])
        return type(host)(changed)

    def _number(self, host: Any) -> Any:
        if isinstance(host, torch.Tensor):
            with torch.no_grad():
                return host * self.value if self.times else torch.full_like(host, self.value)
        number = host * self.value if self.times else self.value
        whole = isinstance(host, int) and float(number).is_integer()
        return int(number) if whole else float(number)


@dataclass(slots=True)
class Settings:
    """What is set now, and what a step has in it while it runs.

    Attributes:
        held: The settings in force, by what they are tuned by.
    """

    held: dict[str, Setting] = field(default_factory=dict)

    def apply(self, optimizer: Optimizer) -> list[Applied]:
        """Set them in all groups that have their key; what :meth:`give_back` takes."""
        hosts: list[Applied] = []
        for one in self.held.values():
            for group in optimizer.param_groups:
                if has_number(group, one.key, one.entry):
                    host, ours = group[one.key], one.applied(group[one.key])
                    hosts.append((group, one.key, host, ours))
                    group[one.key] = ours
        return hosts

    @staticmethod
    def give_back(hosts: Sequence[Applied]) -> None:
        """Let the groups hold the host's own values again."""
        for group, key, host, ours in reversed(hosts):
            if group[key] is ours:
                group[key] = host
            else:
                warnings.warn(
                    f"the optimizer's {key} was written while stagegraph held it (a step raised, "
                    "and a scheduler stepped before engine.step()); the written value stays",
                    RuntimeWarning,
                    stacklevel=2,
                )


def has_number(group: Group, key: str, entry: int | None) -> bool:
    """Whether a group has a number under this key, or at this entry of what is there."""
    if key in _NOT_NUMBERS or key not in group:
        return False
    host = group[key]
    if entry is None:
        return _is_number(host)
    return isinstance(host, tuple | list) and entry < len(host) and _is_number(host[entry])


def _is_number(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, int | float) and not isinstance(value, bool)


def why_no_setting(optimizers: Sequence[Optimizer], path: str) -> list[str]:
    """Why no group of any optimizer has such a number; empty if one has."""
    one = Setting.of("", path, 0.0, times=False)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if any(has_number(group, one.key, one.entry) for group in groups):
        return []
    known = {key for group in groups for key in group if has_number(group, key, None)}
    known |= {
        f"{key}.{entry}"
        for group in groups
        for key, value in group.items()
        if isinstance(value, tuple | list) and key not in _NOT_NUMBERS
        for entry in range(len(value))
    }
    names = ", ".join(type(optimizer).__name__ for optimizer in optimizers) or "no optimizer"
    near = did_you_mean(path, known - {"lr", "initial_lr"})
    return [f"{path!r} is no number of a parameter group of {names}{near}"]
