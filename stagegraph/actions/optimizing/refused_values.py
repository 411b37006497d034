"""Refused values: what an optimizer's own class says of a hyper-parameter, asked before the run.

Nobody checks a number that is written into a parameter group: beta_2 = 1 trains to NaN without an
error. The constructor of the class does check, so it is called, with the settings of a group and
one number changed, on a parameter that nobody has.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.settings import Setting, has_number
from stagegraph.actions.randomness import preserved_randomness

__all__ = ["why_no_value"]

Group = dict[str, Any]


def why_no_value(
    optimizers: Sequence[Optimizer], path: str, values: Iterable[float], *, times: bool
) -> list[str]:
    """What the optimizers' classes refuse of the values that an activity may take.

    A class whose constructor cannot be called with a group's own settings is not asked.

    Args:
        optimizers: The innermost optimizers.
        path: A key of the groups, or an entry of one, such as ``betas.0``.
        values: The values; of a ramp both ends, as no curve leaves what lies between.
        times: Whether they are factors on what each group has now.

    Returns:
        Each refusal once, in the words of the class; empty if it takes all.
    """
    found: dict[str, None] = {}
    for value in dict.fromkeys(values):
        one = Setting.of("", path, value, times=times)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if not has_number(group, one.key, one.entry):
                    continue
                changed = one.applied(group[one.key])
                said = _refusal(type(optimizer), group, one.key, changed)
                if said is not None:
                    number = float(changed if one.entry is None else changed[one.entry])
                    found[_sentence(type(optimizer), path, value, number, said, times=times)] = None
    return list(found)


def _sentence(kind: type, path: str, value: float, number: float, said: str, *, times: bool) -> str:
    if times:
        return (
            f"a factor of {value:g} makes {path} {number:g}, which {kind.__name__} refuses "
            f"({said}); give a 'factor' with which it is one that {kind.__name__} takes"
        )
    return (
        f"{kind.__name__} refuses {path} of {number:g} ({said}); give a 'value' that "
        f"{kind.__name__} takes"
    )


def _refusal(kind: type[Optimizer], group: Group, key: str, changed: Any) -> str | None:
    """What the constructor says of a group's settings with one changed, if not of its own."""
    own = _arguments(kind, group, key)
    if own is not None and "nesterov" in own:
        own["nesterov"] = False  # it is asked for at the constructor alone; a step passes over it
    if own is None or _error(kind, group, own) is not None:
        return None
    error = _error(kind, group, {**own, key: changed})
    return None if error is None else str(error) or type(error).__name__


def _arguments(kind: type[Optimizer], group: Group, key: str) -> dict[str, Any] | None:
    """A group's settings as the constructor takes them; ``None`` if it does not take this one."""
    try:
        takes = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return None
    named = [name for name, one in takes.items() if one.kind in _BY_NAME and name in group]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        named.append(key)
    return {name: group[name] for name in named if name != "params"} if key in named else None


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _error(kind: type[Optimizer], group: Group, arguments: Mapping[str, Any]) -> Exception | None:
    """Construct one, on a parameter of its own; what was drawn or warned of meanwhile is not."""
    first = next(iter(group["params"]), None)
    ndim, dtype = (1, torch.float32) if first is None else (first.ndim, first.dtype)
    stand_in = nn.Parameter(torch.zeros((1,) * ndim, dtype=dtype, device="cpu"))
    try:
        with preserved_randomness(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind([stand_in], **arguments)
    except Exception as error:  # noqa: BLE001 - whatever a class refuses with
        return error
    return None
