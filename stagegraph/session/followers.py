"""Followers: tells those who follow a run what has happened once it has, whatever they raise."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagegraph.engine.core import Core
from stagegraph.engine.follower import Figures, Follower, Past
from stagegraph.engine.ports import Record
from stagegraph.runs.folder import RunFolder

if TYPE_CHECKING:
    from stagegraph.actions.actor import TorchActor

__all__ = ["Followers", "figures_of"]

PATIENCE = 3
"""A follower that fails so many times in a row is left out: each time may take minutes."""

_ACTED = frozenset({"move", "roll_back", "trial", "end"})
"""Records that only a boundary's transaction writes, which is not over yet then."""


def figures_of(core: Core, torch: TorchActor | None) -> Figures:
    """The numbers of an engine now; nothing on a device is waited for."""
    state, progress = core.state, core.progress
    values: dict[str, float] = {"step": progress.step}
    for region, key in state.stages.items():
        values[f"stage/{region}"] = list(core.graph.by_name[region].stages).index(key)
    if state.facts.params is not None:
        values["params"] = state.facts.params
    values |= {f"alpha/{cohort}": alpha for cohort, alpha in core.alphas.items()}
    if torch is not None:
        rates, factors = torch.learning_rates(), torch.lr_factors()
        values |= {f"lr/{number}": rate for number, rate in enumerate(rates)}
        values |= {f"lr_factor/{number}": factor for number, factor in enumerate(factors)}
    boundary = state.spent.step + core.unabsorbed
    return Figures(boundary, progress.step, core.stages, values)


@dataclass(slots=True)
class _One:
    """A follower, and how it fares.

    Attributes:
        follower: It.
        ready: Whether it has taken the run up.
        lost: How often it has failed.
        in_a_row: How often since it last did not.
        error: What it raised last.
        told: Of how many failures the journal knows.
    """

    follower: Follower
    ready: bool = False
    lost: int = 0
    in_a_row: int = 0
    error: str = ""
    told: int = 0

    @property
    def left_out(self) -> bool:
        return self.in_a_row >= PATIENCE

    def tell(self, call: Callable[[Follower], None]) -> None:
        """Tell it something; what it raises is noted."""
        if not self.ready or self.left_out:
            return
        try:
            call(self.follower)
        except Exception as error:  # noqa: BLE001 - whatever a backend of somebody's own does
            self.lost += 1
            self.in_a_row += 1
            self.error = f"{type(error).__name__}: {error}"
        else:
            self.in_a_row = 0


class Followers:
    """All followers of one engine.

    Args:
        core: The engine's core, which holds this; only a weak reference is kept.
        torch: Who holds its model, if it has one.
    """

    def __init__(self, core: Core, torch: TorchActor | None) -> None:
        self._core, self._torch = weakref.ref(core), torch
        self._all: list[_One] = []
        self._held: list[Record] = []
        self._seen: object = None
        self._shown: Figures | None = None
        self._loaded = False

    @property
    def core(self) -> Core:
        """The engine's core."""
        core = self._core()
        assert core is not None
        return core

    def add(self, follower: Follower) -> None:
        """One more; it is to be told by :meth:`take_up` where the run stands."""
        self._all.append(_One(follower))

    def take_up(self, folder: RunFolder | None, *, again: bool = False) -> None:
        """The run begins or goes on: those who have not been told yet are.

        Args:
            folder: The run's folder.
            again: Tell all: another state has been loaded.
        """
        self._loaded |= again
        new = [one for one in self._all if again or not one.ready]
        if not new:
            return
        core = self.core
        records = () if folder is None else tuple(folder.records())
        start = core.state.spent.step + (not core.wants_evaluation) if core.started else 0
        past = Past(
            core.graph,
            records,
            figures_of(core, self._torch) if core.started else None,
            start,
            self._loaded or any(record["type"] == "resume" for record in records),
            None if folder is None else folder.identity().id,
        )
        self._held.clear()
        self._seen, self._shown = self._moved(), None
        for one in new:
            one.follower.take_up(past)
            one.ready = True
        if past.figures is not None and not past.goes_on:  # they listen late
            figures = past.figures
            for one in new:
                one.tell(lambda follower: follower.show(figures))

    def write(self, records: tuple[Record, ...]) -> None:
        """Records that the journal has; those of a boundary wait until it has held."""
        if not self._all:
            return
        self._held += records
        if _ACTED.isdisjoint(record["type"] for record in records):
            self._deliver()

    def decided(self) -> None:
        """A boundary has held."""
        if not self._all:
            return
        self._deliver()
        if self._moved() != self._seen:
            self.show()
        self._tell_troubles()

    def show(self) -> None:
        """Tell the numbers of now, unless they were told already."""
        if not any(one.ready and not one.left_out for one in self._all):
            return
        self._deliver()
        self._seen, figures = self._moved(), figures_of(self.core, self._torch)
        if figures != self._shown:
            self._shown = figures
            for one in self._all:
                one.tell(lambda follower: follower.show(figures))

    def close(self) -> None:
        """The engine is closed: say what was lost."""
        self._deliver()
        for one in self._all:
            one.in_a_row = 0  # even one that was left out lets go of what it holds
            one.tell(lambda follower: follower.close())
            one.ready = False
        self._tell_troubles(last=True)

    def _deliver(self) -> None:
        if self._held:
            records = tuple(self._held)
            self._held.clear()
            for one in self._all:
                one.tell(lambda follower: follower.write(records))

    def _moved(self) -> object:
        state = self.core.state
        return dict(state.stages), dict(state.visits), state.facts.params

    def _tell_troubles(self, *, last: bool = False) -> None:
        """Say what has failed: when it first does, when it is given up, and at the end."""
        for one in self._all:
            news = not one.told or one.left_out or last
            if one.lost == one.told or not news:
                continue
            first, one.told = not one.told, one.lost
            name, given_up = one.follower.name, one.left_out
            self.core.tell("tracker", name=name, reason=one.error, lost=one.lost, left_out=given_up)
            if first or given_up:
                rest = "it is told no more" if given_up else "training goes on, and it is told on"
                warnings.warn(
                    f"{name} has failed ({one.error}), and does not show what has just happened; "
                    f"{rest}",
                    stacklevel=2,
                )
