"""Watching: a run as it stands, from its status, as lines of text for a terminal.

Whatever a run's folder says is shown, never obeyed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stagegraph.drawing.clean import clip, for_terminal, shown
from stagegraph.drawing.history import finite, mapping, sequence
from stagegraph.drawing.terminal import moved
from stagegraph.drawing.wording import exact_number, rough_number, span_words

__all__ = ["view"]

_COLOURS = {"bold": "1", "faint": "2", "red": "31", "green": "32", "yellow": "33"}
_STATES = {"running": "green", "paused": "yellow", "done": "bold", "closed": "faint"}
MOST_WAITS = 8
MOST_NOTED = 5
BAR = 24


def view(
    status: Mapping[str, Any],
    *,
    width: int = 100,
    silent: str | None = None,
    colour: bool = False,
) -> list[str]:
    """How a run stands, line by line.

    Args:
        status: What ``status.json`` says; any of it may be missing.
        width: Columns of the terminal.
        silent: Why nobody is believed to run it, or ``None`` if somebody does.
        colour: Whether to use colours.
    """
    lines = [*_head(status, silent, colour=colour), "", *_stages(status, colour=colour)]
    for title, found in (
        ("waits for", list(_waits(status))),
        ("metrics", list(_metrics(status))),
        ("model", list(_model(status))),
        ("budget", list(_budget(status))),
    ):
        if found:
            lines += [f"{title:<10}{found[0]}", *(f"{'':<10}{line}" for line in found[1:])]
    noted = [record for record in sequence(status.get("noted")) if isinstance(record, Mapping)]
    if noted:
        lines.append("")
        for record in noted[-MOST_NOTED:]:
            lines.append(moved(record).partition("\n")[0])
    return [line if colour and "\x1b" in line else clip(line, width) for line in lines]


def _head(status: Mapping[str, Any], silent: str | None, *, colour: bool) -> Iterator[str]:
    state = shown(status.get("state"))
    if state == "done":
        state = f"ended: {shown(status.get('ended'))}"
    paused = mapping(status.get("commands")).get("paused")
    if paused is not None and silent is None:
        state = f"paused by {shown(paused)}"
    if silent is not None and status.get("state") != "done":
        state = silent
    words = for_terminal(state)
    paint = "red" if silent is not None else _STATES.get(shown(status.get("state")), "")
    name = for_terminal(status.get("graph") or "a run")
    yield f"{_painted(name, 'bold', colour=colour)}  {_painted(words, paint, colour=colour)}"
    step, made = finite(status.get("step")), finite(status.get("made"))
    pieces = [f"step {int(step):,}" if step is not None else "no step yet"]
    if made is not None and step is not None and made > step:
        pieces[0] += f" ({int(made):,} made)"
    rate = finite(status.get("steps_per_second"))
    if rate is not None:
        pieces.append(f"{rate:.3g} steps/s")
    progress = mapping(status.get("progress"))
    pieces += [
        f"{rough_number(amount)} {key}"
        for key in ("samples", "tokens")
        if (amount := finite(progress.get(key))) is not None
    ]
    seconds = finite(progress.get("seconds"))
    if seconds is not None:
        pieces.append(span_words(seconds))
    if status.get("wants_evaluation") is True:
        pieces.append("an evaluation is due")
    where = f"{shown(status.get('host'))}, process {shown(status.get('pid'))}"
    yield for_terminal("  ".join([*pieces, where]))
    if status.get("trouble") is not None:
        yield for_terminal(f"trouble: {shown(status['trouble'])}")


def _stages(status: Mapping[str, Any], *, colour: bool) -> Iterator[str]:
    within = mapping(status.get("in_stage"))
    held = mapping(mapping(status.get("commands")).get("held"))
    stages = mapping(status.get("stages"))
    if not stages:
        yield "no stage yet"
    for region, stage in stages.items():
        steps = finite(within.get(region))
        since = f"  for {int(steps):,} steps" if steps is not None else ""
        by = f"  held by {for_terminal(held[region])}" if region in held else ""
        name = _painted(for_terminal(stage), "bold", colour=colour)
        yield f"{clip(for_terminal(region), 9):<10}{name}{since}{by}"


def _waits(status: Mapping[str, Any]) -> Iterator[str]:
    waits = sequence(status.get("waits"))
    for wait in waits[:MOST_WAITS]:
        yield for_terminal(wait)
    if len(waits) > MOST_WAITS:
        yield f"and {len(waits) - MOST_WAITS} more"


def _metrics(status: Mapping[str, Any]) -> Iterator[str]:
    found = []
    for name, value in mapping(status.get("metrics")).items():
        number = finite(value)
        found.append(f"{name} {shown(value) if number is None else rough_number(number)}")
    if found:
        yield for_terminal("  ".join(found))


def _model(status: Mapping[str, Any]) -> Iterator[str]:
    params = finite(status.get("params"))
    rates = [rate for rate in map(finite, sequence(status.get("lr"))) if rate is not None]
    pieces = [f"{exact_number(params)} params"] if params is not None else []
    if rates:
        pieces.append("lr " + ", ".join(dict.fromkeys(f"{rate:.3g}" for rate in rates)))
    for cohort, value in mapping(status.get("alphas")).items():
        alpha = finite(value)
        pieces.append(f"α {cohort} {'?' if alpha is None else f'{alpha:.2f}'}")
    if pieces:
        yield for_terminal("  ".join(pieces))


def _budget(status: Mapping[str, Any]) -> Iterator[str]:
    for name, amounts in mapping(status.get("budget")).items():
        left, whole = finite(mapping(amounts).get("left")), finite(mapping(amounts).get("of"))
        if left is None or not whole:
            continue
        share = min(1.0, max(0.0, 1 - left / whole))
        bar = "█" * round(share * BAR)
        told = f"{rough_number(left)} of {rough_number(whole)} left"
        yield for_terminal(f"{name:<8} {bar:░<{BAR}} {told}")


def _painted(words: str, paint: str, *, colour: bool) -> str:
    return f"\x1b[{_COLOURS[paint]}m{words}\x1b[0m" if colour and paint else words
