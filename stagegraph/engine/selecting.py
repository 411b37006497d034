"""Selecting: what ``grown``, ``{grown: name}``, ``worst`` and the like mean in a state. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from stagegraph.engine.ports import Selected
from stagegraph.engine.state import RegionState, State
from stagegraph.errors import ActionError
from stagegraph.graph.compiled import PlacedAction
from stagegraph.schema.activities import GroupMembers, GrownCohort, Selection
from stagegraph.schema.monitor_actions import WORST, Attribute, Prune

__all__ = ["acted_on", "selected", "without_pruned"]


def selected(place: str, selection: Selection, region: RegionState, state: State) -> Selected:
    """A selection with its cohorts resolved.

    Args:
        place: Where it is written.
        selection: The selection.
        region: The region that asks.
        state: The state.

    Raises:
        ActionError: It asks for a growth that has not happened, or that was pruned.
    """
    globs: list[str] = []
    groups: list[str] = []
    names: list[str] = []
    everything = False
    for part in selection:
        if isinstance(part, GroupMembers):
            groups.append(part.group)
        elif isinstance(part, GrownCohort):
            newest = [name for name in state.cohorts if name.split("#")[0] == part.grown]
            if not newest:
                raise ActionError(place, _no_growth(part.grown, state.pruned))
            names.append(newest[-1])
        elif part == "grown":
            if not region.grown:
                raise ActionError(place, _nothing_grown(state.pruned))
            names.extend(region.grown)
        elif part == "all":
            everything = True
        else:
            globs.append(part)
    return Selected(everything, tuple(globs), tuple(dict.fromkeys(names)), tuple(groups))


def _no_growth(name: str, pruned: Mapping[str, int]) -> str:
    gone = [(cohort, at) for cohort, at in pruned.items() if cohort.split("#")[0] == name]
    if gone:
        return f"the growth {name!r} was pruned at boundary {gone[-1][1]}, and is no more"
    return f"no growth named {name!r} has happened yet"


def _nothing_grown(pruned: Mapping[str, int]) -> str:
    if pruned:
        cohort, at = list(pruned.items())[-1]
        return (
            f"'grown' is asked for, but nothing of this region's last growth is left: {cohort!r} "
            f"was pruned at boundary {at}"
        )
    return "'grown' is asked for, but nothing has grown yet"


def acted_on(placed: PlacedAction, region: RegionState, state: State) -> Selected | None:
    """What an attribution or a prune is about; ``None`` for other actions.

    Raises:
        ActionError: It asks for what is not there.
    """
    action = placed.action
    if isinstance(action, Attribute):
        found = selected(placed.place, action.of, region, state)
        names = dict.fromkeys(state.cohorts if found.everything else found.cohorts)
        return Selected(cohorts=tuple(names))
    if not isinstance(action, Prune):
        return None
    if WORST not in action.of:
        return selected(placed.place, action.of, region, state)
    return _worst(placed.place, action, state)


def _worst(place: str, action: Prune, state: State) -> Selected:
    metric, region = action.metric, place.partition(":")[0]
    own = [one for one in state.attributions if one.is_of(region)]
    measured = [one for one in own if metric in (None, one.metric)]
    if not measured:
        raise ActionError(
            place,
            f"'worst' is asked for, but {'nothing' if metric is None else repr(metric)} has been "
            "attributed since the model's structure last changed; let harmful(...) guard the way "
            "here",
        )
    worst = measured[-1].worst
    if worst is None:
        raise ActionError(
            place,
            f"'worst' is asked for, but the attribution of {measured[-1].metric!r} at boundary "
            f"{measured[-1].boundary} found no module that harms; let harmful(...) guard the way "
            "here",
        )
    cohorts = (worst.cohort,) if worst.alone else ()
    return Selected(cohorts=cohorts, modules=(worst.module,))


def without_pruned(state: State, gone: Collection[str], *, boundary: int) -> State:
    """A state from which whole growths have been pruned.

    Args:
        state: The state.
        gone: The cohorts of which nothing is left.
        boundary: Updates ever made.
    """
    return replace(
        state,
        cohorts=tuple(name for name in state.cohorts if name not in gone),
        alphas={name: alpha for name, alpha in state.alphas.items() if name not in gone},
        regions={
            key: replace(region, grown=tuple(n for n in region.grown if n not in gone))
            for key, region in state.regions.items()
        },
        pruned={**state.pruned, **dict.fromkeys(gone, boundary)},
        unblended=tuple(name for name in state.unblended if name not in gone),
    )
