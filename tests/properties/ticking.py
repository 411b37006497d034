"""One tick of an engine, as a stream tells it, and all that can be seen of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from stagegraph.engine.commands import Message
from stagegraph.errors import ActionError
from tests.engine.driving import Run
from tests.properties.runnable import costs_of


def begin(document: dict[str, Any], **options: Any) -> Run:
    """An engine on numbers."""
    run = Run(document, params=100, costs=costs_of(document), **options)
    run.core.start()
    return run


def tick(run: Run, happening: dict[str, Any]) -> str | None:
    """One update with what happens at it; the error that the boundary ended in, if any."""
    core = run.core
    error = None
    run.actor.fails_last = "fail" in happening
    if "send" in happening:
        core.send(happening["send"])
    for index, mail in enumerate(happening.get("mail", ())):
        name = f"{core.progress.step}.{index}"
        core.mail.append(Message(name, *mail, author="ann@box"))
    if "explain" in happening:
        core.explain()
    calls = [
        lambda: core.step(
            samples=2 + happening.get("samples", 0),
            epoch=core.meter.reading + Fraction(1, 8),
            **happening.get("with_step", {}),
        )
    ]
    if "answer" in happening:
        calls.append(lambda: core.observe(**happening["answer"]) if core.wants_evaluation else None)
    if "late" in happening:
        calls.append(lambda: None if core.wants_evaluation else core.observe(**happening["late"]))
    for call in calls:
        try:
            call()
        except ActionError as raised:
            error = str(raised)
    return error


def finish(run: Run) -> str | None:
    """Training is over, and nothing fails any more but what is not there; then the error."""
    run.actor.fails_last = False
    try:
        run.core.finish()
    except ActionError as raised:
        return str(raised)
    return None


def seen(run: Run) -> tuple[Any, ...]:
    """The journal without what tells how lazily it was written."""
    shown = []
    for record in run:
        kept = {key: value for key, value in record.items() if key != "progress"}
        shown.append(kept)
    return tuple(shown)
