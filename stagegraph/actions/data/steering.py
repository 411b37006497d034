"""Steering: what the activities in force ask of the data, and of the numbers beside it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from stagegraph.actions.data.curriculum import CurriculumLoader
from stagegraph.actions.data.draws import Drawn, Knobs
from stagegraph.engine.ports import Effect, Restore
from stagegraph.errors import StageGraphError, UnsupportedError
from stagegraph.schema.activities import Activity, BatchSize, Difficulty, Mixture, SequenceLength
from stagegraph.schema.data_activities import DataActivity

__all__ = ["Steering", "accumulation", "batch_factor", "data_refusals", "lr_factor"]


def data_refusals(activity: Activity, data: object) -> list[str]:
    """Why this data cannot do what an activity asks of it, before the run.

    Args:
        activity: The activity; one that is not of the data is never refused.
        data: What the engine was given as ``data=``.
    """
    if not isinstance(activity, DataActivity):
        return []
    if isinstance(activity, BatchSize) and activity.accumulate == "grow":
        return _of_accumulation(activity, data)
    if not isinstance(data, CurriculumLoader):
        got = "nobody gave the data" if data is None else f"data= is a {type(data).__name__}"
        return [
            f"{activity.type} steers the data, and {got}; give "
            "data=stagegraph.CurriculumLoader(...), and loop over it"
        ]
    match activity:
        case Difficulty():
            return _of_level(activity.level, data)
        case Mixture():
            return _of_mixture(activity, data)
        case SequenceLength() if not data.cuts_length:
            return [
                "the loader cannot cut items to a length; give it crop= (a function of item and "
                "length), or the data set a method item(asked), which is told asked.length"
            ]
    return []


def _of_accumulation(activity: BatchSize, data: object) -> list[str]:
    if activity.size is None:
        return []
    if not isinstance(data, CurriculumLoader):
        return [
            f"'size: {activity.size}' is of the loader's own batch size, which nobody gave; give "
            "data=stagegraph.CurriculumLoader(...), or write a 'factor'"
        ]
    if activity.size % data.batch_size:
        return [
            f"with accumulate: grow an update takes whole batches of {data.batch_size}, and "
            f"{activity.size} is no multiple of it"
        ]
    return []


def _of_level(level: int, data: CurriculumLoader[object]) -> list[str]:
    if not data.num_levels:
        return [
            f"level {level} is asked for, and the loader knows no difficulty levels; give it "
            "score= and levels="
        ]
    if level >= data.num_levels:
        return [
            f"level {level} is asked for, and the loader has {data.num_levels} levels, 0 to "
            f"{data.num_levels - 1}"
        ]
    return []


def _of_mixture(activity: Mixture, data: CurriculumLoader[object]) -> list[str]:
    if data.mixes_by_level:
        return [
            "the loader's difficulty levels are mixtures already, and two would write one knob; "
            "use 'difficulty', or give the loader levels by score"
        ]
    try:
        data.mixture(dict.fromkeys(activity.weights, 1.0), what="weights")
    except UnsupportedError as error:
        return [str(error)]
    return []


def batch_factor(activity: BatchSize, base: int | None) -> float:
    """How many times as many samples as usual an update takes."""
    if activity.factor is not None:
        return activity.factor
    if base is None or activity.size is None:
        raise UnsupportedError("a batch size is of the loader's own, which nobody gave")
    return activity.size / base


def lr_factor(activity: BatchSize, base: int | None) -> float:
    """What a batch size does to the learning rate."""
    if activity.lr == "keep":
        return 1.0
    factor = batch_factor(activity, base)
    return factor if activity.lr == "linear" else math.sqrt(factor)


def accumulation(activities: Iterable[Activity], base: int | None) -> int:
    """How many times as many micro-batches an update takes."""
    times = 1
    for one in activities:
        if isinstance(one, BatchSize) and one.accumulate == "grow":
            times *= round(batch_factor(one, base))
    return times


class Steering:
    """Hands what activities ask for to the data, and hears of each batch.

    Args:
        data: What the engine was given as ``data=``.
        heard: Told of each batch that is handed out.
    """

    def __init__(self, data: object, heard: Callable[[Drawn], None]) -> None:
        self.loader = data if isinstance(data, CurriculumLoader) else None
        self._effects: tuple[Effect, ...] = ()
        self._values: dict[str, float] = {}
        self._hears = _while_alive(heard)
        if self.loader is not None:
            self.loader.listen(self._hears)

    @property
    def base(self) -> int | None:
        """The loader's own batch size."""
        return None if self.loader is None else self.loader.batch_size

    def hold(self, effects: Sequence[Effect]) -> None:
        """Let the data be drawn by exactly these.

        Raises:
            UnsupportedError: Two hold one knob, or no batch can be drawn so.
        """
        held = [effect for effect in effects if isinstance(effect.activity, DataActivity)]
        seen: dict[str, str] = {}
        for effect in held:
            other = seen.setdefault(effect.activity.writes, effect.place)
            if other != effect.place:
                raise UnsupportedError(
                    f"{effect.place}: the data knob {effect.activity.writes!r} is held by {other} "
                    "already, and can have one value only; keep one of the two"
                )
        values = {
            f"{effect.place}/{key}": level
            for effect in held
            for key, level in effect.levels.items()
        }
        if self.loader is not None:
            since = self.loader.consumed
            _blamed(held, lambda: self._steer(held, values, since))
        self._effects, self._values = tuple(held), values

    def tune(self, key: str, value: float) -> bool:
        """Move a level; whether it is one of the data's. :meth:`settle` puts it in force."""
        if key not in self._values:
            return False
        self._values[key] = value
        return True

    def settle(self) -> None:
        """Put in force what was tuned."""
        if self.loader is not None and self._values:
            self._steer(self._effects, self._values, self.loader.coming.since)

    def _steer(self, effects: Sequence[Effect], values: Mapping[str, float], since: int) -> None:
        assert self.loader is not None
        self.loader.steer(replace(_knobs(self.loader, effects, values), since=since))

    def require(self) -> None:
        """Refuse an update that was to be steered and whose batch comes from elsewhere.

        Raises:
            StageGraphError: It was, and no batch of the loader has been used yet.
        """
        held = [one for one in self._effects if _is_of_the_loader(one)]
        if held and self.loader is not None and self.loader.drawn is None:
            raise StageGraphError(
                f"{held[0].place} is in force, and no batch of the CurriculumLoader that data= "
                "gave has been used, so that it would change nothing; loop over that loader"
            )

    def skip(self, restore: Restore | None) -> None:
        """Pass over the batches that a rollback names."""
        if restore is not None and restore.skip_batches and self.loader is not None:
            self.loader.skip(restore.skip_batches)

    def remember(self) -> Callable[[], None]:
        """A way back to what is in force now."""
        effects, values = self._effects, dict(self._values)
        loader = None if self.loader is None else self.loader.remember()

        def way_back() -> None:
            self._effects, self._values = effects, values
            if loader is not None:
                loader()

        return way_back

    def close(self) -> None:
        """Hear of no batch any more; the data stays as it is."""
        self._effects, self._values = (), {}
        if self.loader is not None:
            self.loader.forget(self._hears)


def _is_of_the_loader(effect: Effect) -> bool:
    return not (isinstance(effect.activity, BatchSize) and effect.activity.accumulate == "grow")


def _while_alive(heard: Callable[[Drawn], None]) -> Callable[[Drawn], None]:
    """A listener that keeps nobody alive: the loader may outlive the engine."""
    held = weakref.WeakMethod(heard)

    def hear(drawn: Drawn) -> None:
        alive = held()
        if alive is not None:
            alive(drawn)

    return hear


def _blamed(held: Sequence[Effect], steer: Callable[[], None]) -> None:
    try:
        steer()
    except UnsupportedError as error:
        places = ", ".join(effect.place for effect in held)
        raise UnsupportedError(f"{places}: {error}") from error


def _knobs(
    loader: CurriculumLoader[object], effects: Sequence[Effect], values: Mapping[str, float]
) -> Knobs:
    level = weights = length = size = None
    lr = 1.0
    for effect in effects:
        match effect.activity:
            case Difficulty():
                level = effect.activity.level
                weights = loader.mixture_of(level) or weights
            case Mixture():
                now = {
                    name: values[f"{effect.place}/weight:{name}"]
                    for name in effect.activity.weights
                }
                weights = loader.mixture(now, what="weights")
            case SequenceLength():
                multiple = effect.activity.multiple
                length = int(values[f"{effect.place}/length"]) // multiple * multiple
            case BatchSize() if effect.activity.accumulate == "keep":
                factor = batch_factor(effect.activity, loader.batch_size)
                size = max(1, round(loader.batch_size * factor))
                lr = lr_factor(effect.activity, loader.batch_size)
    return Knobs(level=level, weights=weights, length=length, batch_size=size, lr_factor=lr)
