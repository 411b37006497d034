"""Group splits: parts of a parameter group with numbers of their own, for the time of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stagegraph.actions.optimizing.scales import Scale
from stagegraph.errors import UnsupportedError

__all__ = ["Group", "Split", "merge", "scaled", "split", "take_over"]

Group = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Split:
    """One group that was split for the time of a step.

    Attributes:
        group: The group, which waits.
        parts: What stands in for it.
        given: Per part, what was scaled in it.
        content: What the group held.
    """

    group: Group
    parts: tuple[Group, ...]
    given: tuple[dict[str, Any], ...]
    content: Group


def scaled(group: Group, scale: Scale) -> dict[str, Any]:
    """The numbers of a group that a scale changes, as it makes them."""
    factors = {"lr": scale.lr, "eps": scale.eps, "weight_decay": scale.weight_decay}
    return {
        key: _times(group[key], factor)
        for key, factor in factors.items()
        if factor != 1.0 and key in group
    }


def _times(number: Any, factor: float) -> Any:
    if isinstance(number, torch.Tensor):
        with torch.no_grad():
            return number * factor
    return number * factor


def split(group: Group, places: Mapping[Scale, Sequence[int]]) -> Split:
    """Split a group into one part per scale.

    Args:
        group: The group; it stays as it is.
        places: Per scale, the places of the group's parameters that it is for.
    """
    given = tuple(scaled(group, scale) for scale in places)
    parts = tuple(
        {**_part(group, sorted(own)), **numbers}
        for own, numbers in zip(places.values(), given, strict=True)
    )
    return Split(group, parts, given, dict(group))


def _part(group: Group, places: Sequence[int]) -> Group:
    part = {**group, "params": [group["params"][place] for place in places]}
    if "param_names" in group:
        part["param_names"] = [group["param_names"][place] for place in places]
    return part


def merge(groups: Sequence[Group], splits: Sequence[Split]) -> list[Group]:
    """The groups with every split one whole again."""
    owner = {id(part): one for one in splits for part in one.parts}
    whole: list[Group] = []
    for group in groups:
        one = owner.get(id(group))
        back = group if one is None else one.group
        if not whole or whole[-1] is not back:
            whole.append(back)
    return whole


def take_over(split: Split, optimizer: str) -> None:
    """What the optimizer wrote into the parts of a group goes into the group.

    Raises:
        UnsupportedError: It wrote different things into its parts.
    """
    scaled_keys = {key for given in split.given for key in given}
    keys = dict.fromkeys(key for part in split.parts for key in part)
    differing: list[str] = []
    for key in keys:
        if key in ("params", "param_names", *scaled_keys):
            continue
        values = [part.get(key) for part in split.parts]
        if all(value is split.content.get(key) for value in values):
            continue
        if all(_same(value, values[0]) for value in values):
            split.group[key] = values[0]
        else:
            differing.append(key)
    differing += [
        key
        for key in sorted(scaled_keys)
        if any(
            part[key] is not given.get(key, split.content[key])
            for part, given in zip(split.parts, split.given, strict=True)
        )
    ]
    if differing:
        raise UnsupportedError(
            f"{optimizer} keeps {', '.join(map(repr, differing))} per parameter group, and it came "
            "out differently for parameters of one group that are under different learning-rate "
            "factors; put these parameters into groups of their own"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    return bool(a == b)
