"""Certificates of growth, as far as they can be read.

Those of a simulation know parameter counts alone; those measured on a model say much more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stagegraph.drawing.clean import shown
from stagegraph.drawing.history import finite, mapping, sequence

__all__ = ["Certificate", "read_certificate"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a growth's certificate says, each part unknown if it does not say it.

    Attributes:
        before: Parameters before.
        after: Parameters after.
        changes: Largest change of the output, by mode.
        exactness: What that amounts to, in words.
        blocks: The new blocks or units, in words.
        checks: Whether they ran and got a gradient, and what it took, in words.
    """

    before: int | None
    after: int | None
    changes: tuple[tuple[str, str], ...]
    exactness: str
    blocks: str
    checks: tuple[str, ...]


def read_certificate(value: Any) -> Certificate:
    """Read a record's ``certificate``.

    >>> read_certificate({"params": {"before": 10, "after": 14}}).after
    14
    """
    data = mapping(value)
    counts, change = mapping(data.get("params")), mapping(data.get("change"))
    return Certificate(
        before=_count(data.get("params_before", counts.get("before"))),
        after=_count(data.get("params_after", counts.get("after"))),
        changes=tuple(
            (name, shown(found))
            for name, key in (("eval", "eval"), ("train", "train"), ("α at 1", "alpha_1"))
            if (found := data.get(f"max_change_{key}", change.get(key))) is not None
        ),
        exactness=shown(data.get("exactness")),
        blocks=_blocks(data),
        checks=tuple(_checks(data)),
    )


def _count(value: Any) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _blocks(data: Mapping[str, Any]) -> str:
    named = sequence(data.get("new_blocks"))
    if named:
        return ", ".join(map(shown, named))
    counts, units = mapping(data.get("blocks")), mapping(data.get("units"))
    if units:
        return ", ".join(f"{shown(space)}: {_sizes(sizes)} units" for space, sizes in units.items())
    if "head" in data:
        like = f", like {shown(data['like'])}" if data.get("like") is not None else ""
        return f"{shown(data.get('heads'))}: {shown(data['head'])}{like}"
    attached = mapping(data.get("attached"))
    if attached:
        return ", ".join(f"{host}: {shown(branch)}" for host, branch in attached.items())
    if not counts:
        return shown(data.get("new_blocks", data.get("kind")))
    stack = f"{shown(data['stack'])}: " if "stack" in data else ""
    places = [shown(mapping(block).get("at")) for block in sequence(data.get("inserted"))]
    where = f", new at {', '.join(places)}" if places else ""
    return f"{stack}{shown(counts.get('before'))} → {shown(counts.get('after'))} blocks{where}"


def _sizes(sizes: Any) -> str:
    return " → ".join(map(shown, sequence(sizes)))


def _checks(data: Mapping[str, Any]) -> list[str]:
    if "head" in data:  # the probe went through another one
        return ["not in use yet", *_memory(data)]
    ran = data.get("ran", data.get("executed"))
    checks = [] if ran is None else [f"ran: {shown(ran)}"]
    gradient = data.get("gradient")
    reached = mapping(gradient)
    if reached:
        told = f"{shown(reached.get('reached'))} of {shown(reached.get('of'))} parameters"
        checks.append(f"gradient reached {told}")
    elif gradient is not None:
        checks.append(f"got a gradient: {shown(gradient)}")
    if (tolerance := data.get("tolerance")) is not None:
        checks.append(f"tolerance {shown(tolerance)}")
    return checks + _memory(data)


def _memory(data: Mapping[str, Any]) -> list[str]:
    """What the growth takes, and the update that was tried, as far as it was measured."""
    memory, rehearsal = mapping(data.get("memory")), mapping(data.get("rehearsal"))
    told = []
    if (new := finite(memory.get("new_bytes"))) is not None:
        told.append(f"{_size(new)} new{_at_peak(memory)}")
    if rehearsal:
        told.append(f"an update was tried{_at_peak(rehearsal)}")
    return told


def _at_peak(data: Mapping[str, Any]) -> str:
    peak = finite(data.get("peak_bytes"))
    return "" if peak is None else f", {_size(peak)} at its peak"


def _size(num_bytes: float) -> str:
    """Bytes as people say them.

    >>> _size(340_217_856)
    '324 MiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} GiB" if num_bytes < 1000 else f"{num_bytes:,.0f} GiB"
