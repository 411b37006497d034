"""Knobs: the hyper-parameters of the host's own loop, which it reads from the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stagegraph.engine.core import Core
from stagegraph.engine.holding import effects
from stagegraph.engine.ports import Effect
from stagegraph.errors import ProgressError, StageGraphError, did_you_mean
from stagegraph.schema.activities import BatchSize, Hyper

__all__ = ["Knobs"]


class Knobs:
    """What the loop reads, and whether it has read it.

    Args:
        core: The engine's core.
        data: The data, for its own batch size.
    """

    def __init__(self, core: Core, data: object) -> None:
        self._core = core
        self._base: int | None = getattr(data, "batch_size", None)
        activities = [h.activity for stage in core.graph.stages.values() for h in stage.during]
        self.names = {a.knob for a in activities if isinstance(a, Hyper) and a.knob is not None}
        self.grows = any(isinstance(a, BatchSize) and a.accumulate == "grow" for a in activities)
        self._asked: set[str] = set()
        self._unasked: dict[str, str] = {}

    @property
    def any(self) -> bool:
        """Whether the graph has anything for the loop to read."""
        return bool(self.names) or self.grows

    def read(self, name: str, own: float) -> float:
        """A knob's value for the next update.

        Args:
            name: The knob.
            own: The loop's own value: where no stage holds it, and what a factor multiplies.

        Raises:
            ProgressError: The graph has no such knob.
        """
        if name not in self.names:
            raise ProgressError(
                f"the graph has no hyper-parameter with knob: {name!r}"
                f"{did_you_mean(name, self.names)}"
            )
        self._asked.add(name)
        self._unasked.pop(name, None)
        for effect in self._effects():
            if isinstance(effect.activity, Hyper) and effect.activity.knob == name:
                ((key, level),) = effect.levels.items()
                return own * level if key == "factor" else level
        return own

    def accumulate(self) -> int:
        """How many times as many micro-batches the next update takes."""
        self._asked.add(_ACCUMULATE)
        self._unasked.pop(_ACCUMULATE, None)
        times = 1
        for effect in self._effects() if self.grows else ():
            times *= _accumulation(effect, self._base)
        return times

    def held(self) -> None:
        """Other activities may be in force: remember what of them the loop has to ask for."""
        self._unasked = {}
        for effect in self._effects() if self.any else ():
            if isinstance(effect.activity, Hyper) and effect.activity.knob is not None:
                self._unasked[effect.activity.knob] = effect.place
            elif _accumulation(effect, self._base) > 1:
                self._unasked[_ACCUMULATE] = effect.place
        for name in self._asked:
            self._unasked.pop(name, None)

    def require(self) -> None:
        """Refuse an update that was to be under a knob which the loop never asks for.

        Raises:
            StageGraphError: It was.
        """
        for name, place in self._unasked.items():
            call = "engine.accumulate" if name == _ACCUMULATE else f"engine.knob({name!r}, ...)"
            raise StageGraphError(
                f"{place} is in force, and the loop has never asked for {call}, so that it would "
                "change nothing; ask before each update"
            )

    def _effects(self) -> Iterator[Effect]:
        core = self._core
        if core.started and not core.done:
            yield from effects(core.graph, replace(core.state, clock=core.progress))


_ACCUMULATE = "."
"""What no knob can be called."""


def _accumulation(effect: Effect, base: int | None) -> int:
    activity = effect.activity
    if not isinstance(activity, BatchSize) or activity.accumulate != "grow":
        return 1
    if activity.factor is not None:
        return round(activity.factor)
    if base is None or activity.size is None:
        raise StageGraphError(
            f"{effect.place}: 'size' is of the loader's own batch size, which nobody gave; give "
            "data=stagegraph.CurriculumLoader(...), or write a 'factor'"
        )
    return max(1, activity.size // base)
