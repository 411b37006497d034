"""Companions: what belongs to a run beside model and optimizers, and has a state of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch.optim.swa_utils import AveragedModel

from stagegraph.errors import UnsupportedError

__all__ = ["Companions", "Stateful"]


@runtime_checkable
class Stateful(Protocol):
    """What can save its state and take it up again: a scheduler, scaler, EMA, loader."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take a state up."""
        ...


@dataclass(frozen=True, slots=True)
class Companions:
    """The schedulers, scaler, EMA and data of a run; what was not given is not restored.

    Attributes:
        schedulers: LR schedulers and other schedulers.
        scaler: Gradient scaler.
        ema: Averaged weights.
        data: Whatever knows the data's position.
    """

    schedulers: tuple[Stateful, ...] = ()
    scaler: Stateful | None = None
    ema: Stateful | None = None
    data: Stateful | None = None

    @classmethod
    def of(cls, scheduler: object, scaler: object, ema: object, data: object) -> Companions:
        """Check what was given.

        Raises:
            UnsupportedError: Something has no ``state_dict`` and ``load_state_dict``.
        """
        several = scheduler if isinstance(scheduler, list | tuple) else (scheduler,)
        given = [("scheduler", one) for one in several if one is not None]
        given += [(key, one) for key, one in (("scaler", scaler), ("ema", ema), ("data", data))]
        known: dict[str, list[Stateful]] = {"scheduler": [], "scaler": [], "ema": [], "data": []}
        for key, one in given:
            if isinstance(one, Stateful):
                known[key].append(one)
            elif one is not None:
                raise UnsupportedError(
                    f"{key}= takes something with state_dict() and load_state_dict(), got "
                    f"{type(one).__name__}; without them its state cannot be kept"
                )
        return cls(
            schedulers=tuple(known["scheduler"]),
            scaler=next(iter(known["scaler"]), None),
            ema=next(iter(known["ema"]), None),
            data=next(iter(known["data"]), None),
        )

    def named(self, *, data: bool) -> dict[str, Stateful]:
        """All of them by name, with or without the data."""
        named: dict[str, Stateful] = {f"scheduler{i}": s for i, s in enumerate(self.schedulers)}
        others = {"scaler": self.scaler, "ema": self.ema, "data": self.data if data else None}
        return named | {key: one for key, one in others.items() if one is not None}

    def states(self, *, copied: Callable[[Any], Any] = copy.deepcopy) -> dict[str, Any]:
        """Copies of all their states."""
        return {key: copied(one.state_dict()) for key, one in self.named(data=True).items()}

    def data_state(self) -> dict[str, Any]:
        """A copy of the data's state, if it is known."""
        return {} if self.data is None else {"data": copy.deepcopy(self.data.state_dict())}

    def load(self, states: Mapping[str, Any], *, data: bool) -> None:
        """Take states up again, with or without the data's."""
        for key, one in self.named(data=data).items():
            if key in states:
                one.load_state_dict(copy.deepcopy(states[key]))

    def remember(self) -> Callable[[], None]:
        """A way back to their states as they are now; an averaged model is undone by reference."""
        held = {
            key: one
            for key, one in self.named(data=True).items()
            if not isinstance(one, AveragedModel)
        }
        states = {key: copy.deepcopy(one.state_dict()) for key, one in held.items()}

        def way_back() -> None:
            for key, one in held.items():
                one.load_state_dict(states[key])

        return way_back
