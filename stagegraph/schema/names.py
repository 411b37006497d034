"""Names and references: what things in a graph may be called, and how they are pointed at."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

from stagegraph.schema.base import Seq

__all__ = [
    "GRAMMAR_WORDS",
    "MAIN",
    "PROGRESS_NAMES",
    "RESERVED",
    "Glob",
    "MetricName",
    "Name",
    "ReadName",
    "Reference",
    "Target",
    "split_reference",
]

MAIN: Final = "main"
"""The region of a graph that declares none."""

RESERVED: Final = frozenset({"back", "stop", "all", "grown"})
"""Words that name no stage, activity, snapshot, cohort or event of the user's."""

PROGRESS_NAMES: Final = ("step", "epoch", "samples", "tokens", "seconds", "params", "flops")
"""Facts that a guard reads by name; no metric may take their names."""

GRAMMAR_WORDS: Final = frozenset({"and", "or", "not"})
"""Words of guard strings; no metric may take them."""

_NAME = r"[A-Za-z][A-Za-z0-9_]{0,63}"


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a reserved word ({', '.join(sorted(RESERVED))})")
    return name


def _not_grammar(name: str) -> str:
    if name in GRAMMAR_WORDS:
        raise ValueError(f"{name!r} is a word of guard strings; call the metric something else")
    return name


def _not_progress(name: str) -> str:
    if name in PROGRESS_NAMES:
        raise ValueError(f"{name!r} is progress, not a metric; call the metric something else")
    return name


Name = Annotated[str, StringConstraints(pattern=rf"^{_NAME}\z"), AfterValidator(_not_reserved)]
"""A letter, then letters, digits and underscores; 64 at most."""

ReadName = Annotated[Name, AfterValidator(_not_grammar)]
"""What a guard reads by name: a metric or progress."""

MetricName = Annotated[ReadName, AfterValidator(_not_progress)]

Reference = Annotated[
    str,
    StringConstraints(pattern=rf"^({_NAME}:)?({_NAME}\.)*{_NAME}\z", max_length=256),
    AfterValidator(_not_reserved),
]
"""``[region:][subgraph.]stage``."""

Target = Annotated[
    str, StringConstraints(pattern=rf"^({_NAME}:)?({_NAME}\.)*{_NAME}\z", max_length=256)
]
"""A :data:`Reference`, or ``back`` (where the interrupt came from), or ``stop`` (end the run)."""

Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A shell pattern over module and parameter names; a module takes its subtree."""


def split_reference(reference: str) -> tuple[str | None, str]:
    """``"arch:c1.grow"`` as ``("arch", "c1.grow")``; without a region the first is ``None``."""
    region, colon, stage = reference.rpartition(":")
    return (region if colon else None), stage


Names = Seq[Name]
