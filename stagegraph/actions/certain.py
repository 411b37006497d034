"""Certain: what an activity asks of the model as it is now, and no growth of the graph can mend.

What a growth may still bring is waited for, and refused at the boundary that finds it missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stagegraph.actions.attribute_holding import Wanted, refuse_unknown_head
from stagegraph.actions.growth.attributes import matching_attributes, matching_owners
from stagegraph.actions.number_holding import WantedNumber, find_numbers
from stagegraph.errors import SelectorError, UnsupportedError
from stagegraph.schema.actions import Action, AddHead, Attach, Regrow, Upcycle
from stagegraph.schema.activities import Activity, Head, Hyper

__all__ = ["certain_refusals"]


def certain_refusals(
    activity: Activity, model: nn.Module, actions: Sequence[Action], *, place: str
) -> list[str]:
    """Why an activity cannot be held, whatever the graph's growths bring.

    Args:
        activity: The activity.
        model: The model as it is now.
        actions: All actions of the graph.
        place: Where the activity is written.

    Returns:
        The reasons, each as ``place: sentence``.
    """
    try:
        if isinstance(activity, Hyper) and activity.attribute is not None:
            _refuse_number(activity, activity.attribute, model, actions, place)
        if isinstance(activity, Head):
            _refuse_head(activity, model, actions, place)
    except (SelectorError, UnsupportedError) as error:
        return [str(error)]
    return []


def _refuse_number(
    activity: Hyper, path: str, model: nn.Module, actions: Sequence[Action], place: str
) -> None:
    if _may_come(model, path, actions):
        return
    times, reach = activity.factor is not None, activity.reach
    wanted = WantedNumber(place, path, reach[0], times=times, reach=reach)
    for attribute in find_numbers(model, path, place=place):
        wanted.require(attribute, attribute.value)


def _refuse_head(activity: Head, model: nn.Module, actions: Sequence[Action], place: str) -> None:
    """A head is brought by an ``add_head``, which says so, or with the whole model."""
    regrown = any(isinstance(one, Regrow) for one in actions)
    if regrown or _may_come(model, activity.of, actions):
        return
    refuse_unknown_head(
        model,
        Wanted(place, activity.of, activity.use),
        added=[(one.heads, one.head) for one in actions if isinstance(one, AddHead)],
    )


def _may_come(model: nn.Module, path: str, actions: Sequence[Action]) -> bool:
    """Whether a growth may bring an attribute that is not there.

    It may where nothing of that name is there yet. Where it is, and has no such attribute, more of
    its kind will not have it either: only a growth that brings modules of another kind may, to a
    pattern that means any of them, or one that makes the whole model anew.
    """
    if matching_attributes(model, path):
        return False
    where = path.rpartition(".")[0]
    if not matching_owners(model, where) or any(isinstance(one, Regrow) for one in actions):
        return True
    of_any_name = not set("*?[").isdisjoint(where)  # a wildcard may stand for several levels
    return of_any_name and any(isinstance(one, Attach | Upcycle) for one in actions)
