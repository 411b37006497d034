"""Holding: put the activities of a boundary in force, and release what is not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from stagegraph.actions.attribute_holding import Wanted
from stagegraph.actions.data.steering import lr_factor
from stagegraph.actions.number_holding import WantedNumber
from stagegraph.actions.optimizing.learning_rates import Factor, SliceFactor
from stagegraph.actions.optimizing.settings import Setting
from stagegraph.actions.parameters import Selection, select
from stagegraph.actions.standing import Standing
from stagegraph.actions.stillness import still_modules
from stagegraph.engine.ports import Effect, Selected
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.activities import (
    AlphaRamp,
    BatchSize,
    Distill,
    Freeze,
    Head,
    Hyper,
    LrFactor,
    LrRamp,
    SequenceLength,
)
from stagegraph.schema.data_activities import DataActivity

__all__ = ["Held", "hold"]


class Held:
    """The activities in force, for values that move between boundaries.

    Attributes:
        effects: The activities.
        ramped: Per place of an alpha ramp, the blocks it moves.
    """

    def __init__(self, effects: Sequence[Effect], ramped: Mapping[str, Sequence[str]]) -> None:
        self.effects = tuple(effects)
        self.ramped = dict(ramped)
        self._places = frozenset(effect.place for effect in effects)

    def tune(self, standing: Standing, values: Mapping[str, float]) -> None:
        """Set values for the next update.

        Raises:
            UnsupportedError: There is no such activity in force.
        """
        for place, value in values.items():
            if place in standing.teaching.levels:
                standing.teaching.tune(place, value)
            elif standing.steering.tune(place, value) or _tune_hyper(standing, place, value):
                continue
            elif place in self.ramped:
                standing.gates.tune(self.ramped[place], value)
            elif place in self._places:
                standing.rates.tune(place, value)
            else:
                raise UnsupportedError(
                    f"no activity {place!r} is in force{did_you_mean(place, self._places)}"
                )
        standing.steering.settle()


def hold(standing: Standing, effects: Sequence[Effect], alphas: Mapping[str, float]) -> Held:
    """Put exactly these activities in force.

    Raises:
        SelectorError: A selection matches nothing.
        UnsupportedError: An activity that this layer cannot hold.
    """
    chosen = [
        (effect, _selection(standing, effect))
        for effect in effects
        if not isinstance(effect.activity, Distill | Head | Hyper | DataActivity)
    ]
    standing.attributes.hold(
        standing.grown_models,
        [
            Wanted(effect.place, effect.activity.of, effect.activity.use)
            for effect in effects
            if isinstance(effect.activity, Head)
        ],
        added=standing.added_heads(),
    )
    standing.numbers.hold(standing.grown_models, _numbers(effects))
    _hold_freezes(standing, chosen)
    _hold_factors(standing, chosen, effects)  # a slice that is frozen is held by a factor of 0
    _hold_settings(standing, effects)
    standing.steering.hold(effects)
    standing.teaching.hold(
        effects, model=standing.model, lineage=standing.lineage, teachers=standing.teachers
    )
    return Held(effects, _hold_alphas(standing, effects, alphas))


def _selection(standing: Standing, effect: Effect) -> Selection:
    if not isinstance(effect.activity, AlphaRamp | Freeze | LrFactor | LrRamp):
        raise UnsupportedError(
            f"{effect.place}: this version has nothing that could hold a {effect.activity.type}"
        )
    chosen = _select(standing, effect.of, effect.place)
    if not effect.but:
        return chosen
    left = chosen.without(_select(standing, effect.but, effect.place))
    if not (left.everything or left.parameters or left.slices):
        raise SelectorError(
            f"{effect.place}: nothing is left of the selection once 'but' is taken out"
        )
    return left


def _select(standing: Standing, selected: Selected, place: str) -> Selection:
    return select(
        standing.model,
        selected,
        lineage=standing.lineage,
        place=place,
        optimizers=standing.optimizers,
    )


def _hold_freezes(standing: Standing, chosen: Sequence[tuple[Effect, Selection]]) -> None:
    parameters: dict[int, nn.Parameter] = {}
    still: dict[int, nn.Module] = {}
    for effect, selection in chosen:
        if isinstance(effect.activity, Freeze):
            parameters |= {id(parameter): parameter for parameter in selection.parameters}
            still |= {id(module): module for module in still_modules(effect.activity, selection)}
    standing.freezing.hold(parameters.values(), still.values())


def _numbers(effects: Sequence[Effect]) -> list[WantedNumber]:
    """The attributes of the model that are to hold a number."""
    wanted: list[WantedNumber] = []
    for effect in effects:
        activity, place = effect.activity, effect.place
        if isinstance(activity, Hyper) and activity.attribute is not None:
            ((key, value),) = effect.levels.items()
            tuned = f"{place}/{key}"
            wanted.append(
                WantedNumber(
                    place,
                    activity.attribute,
                    value,
                    times=key == "factor",
                    key=tuned,
                    reach=activity.reach,
                )
            )
        elif isinstance(activity, SequenceLength) and activity.rope_base is not None:
            base = activity.rope_base
            wanted += [WantedNumber(place, path, base) for path in activity.rope_attributes]
    return wanted


def _hold_settings(standing: Standing, effects: Sequence[Effect]) -> None:
    held: dict[str, Setting] = {}
    for effect in effects:
        activity, place = effect.activity, effect.place
        if not isinstance(activity, Hyper) or activity.optimizer is None:
            continue
        ((key, value),) = effect.levels.items()
        one = Setting.of(place, activity.optimizer, value, times=key == "factor")
        other = next((o for o in held.values() if (o.key, o.entry) == (one.key, one.entry)), None)
        if other is not None:
            raise UnsupportedError(
                f"{place}: {activity.optimizer!r} of the optimizer is held by {other.place} "
                "already, and can have one value only; keep one of the two"
            )
        held[f"{place}/{key}"] = one
    standing.rates.hold_settings(held)


def _tune_hyper(standing: Standing, key: str, value: float) -> bool:
    """Move a hyper-parameter; whether it is one that is held, or that the loop reads itself."""
    settings = standing.rates.settings.held
    if key in settings:
        settings[key] = replace(settings[key], value=value)
        return True
    return standing.numbers.tune(key, value)


def _hold_factors(
    standing: Standing,
    chosen: Sequence[tuple[Effect, Selection]],
    effects: Sequence[Effect],
) -> None:
    factors: list[Factor | SliceFactor] = []
    values: dict[str, float] = {}
    for effect in effects:
        activity = effect.activity
        if isinstance(activity, BatchSize) and activity.accumulate == "grow":
            factors.append(Factor(effect.place, None))
            values[effect.place] = lr_factor(activity, standing.steering.base)
    for effect, selection in chosen:
        if isinstance(effect.activity, LrFactor | LrRamp):
            if effect.value is None:
                raise UnsupportedError(f"{effect.place}: a learning-rate factor needs a value")
            ids = frozenset(map(id, selection.parameters))
            if selection.everything:
                factors.append(Factor(effect.place, None, selection.excepted))
            else:
                factors.append(Factor(effect.place, ids))
            values[effect.place] = effect.value
        elif isinstance(effect.activity, Freeze) and selection.slices:
            values[effect.place] = 0.0
        if effect.place in values:
            factors += [SliceFactor(effect.place, p, mask) for p, mask in selection.slices]
    standing.rates.hold(factors, values, lasting=standing.rates.lasting)


def _hold_alphas(
    standing: Standing, effects: Sequence[Effect], alphas: Mapping[str, float]
) -> dict[str, list[str]]:
    wanted: dict[str, float] = {}
    whole = dict.fromkeys(standing.lineage.cohorts(), 1.0)  # a gate that nobody holds is folded
    for cohort, alpha in (whole | dict(alphas)).items():
        changes = standing.lineage.cohort(cohort)
        blocks = standing.modules_of(changes)
        if not blocks and alpha != 1.0 and not any(change.modules for change in changes):
            raise _nothing_to_blend(standing, cohort, alpha)
        wanted |= dict.fromkeys(blocks, alpha)
    ramped: dict[str, list[str]] = {}
    for effect in effects:
        if isinstance(effect.activity, AlphaRamp):
            ramped[effect.place] = [
                block
                for cohort in effect.of.cohorts
                for block in standing.modules_of(standing.lineage.cohort(cohort))
            ]
            if effect.value is not None:
                wanted |= dict.fromkeys(ramped[effect.place], effect.value)
    moving = {block for blocks in ramped.values() for block in blocks}
    standing.gates.set(wanted, standing.module, moving=moving)
    return ramped


def _nothing_to_blend(standing: Standing, cohort: str, alpha: float) -> SelectorError:
    if standing.lineage.cohort(cohort):
        return SelectorError(
            f"alpha {alpha:g} is for {cohort!r}, which added no block "
            "that could be blended in; ease it in with an lr_ramp of the same growth"
        )
    near = did_you_mean(cohort, standing.lineage.cohorts())
    return SelectorError(f"alpha {alpha:g} is for {cohort!r}, which nothing grew{near}")
