"""Differences: which parts of two readings are not the same, and what usually causes that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stagegraph.actions.data.exactness import Exactness
from stagegraph.testing.fingerprints import LEGIBLE
from stagegraph.testing.parts import Kind, Part, Reading

__all__ = ["NOT_DETERMINISTIC", "NOT_RESUMED", "Difference", "causes", "differences", "tell"]

SHOWN = 3
"""So many parts of a kind are named."""

HINTS = 5

_ORDER = {kind: place for place, kind in enumerate(Kind)}

_TRAINED = frozenset({Kind.WEIGHT, Kind.STATE, Kind.BUFFER})

_RESULTS = _TRAINED | {Kind.DECISION, Kind.ENGINE, Kind.EMA}
"""What differs as a consequence of almost anything."""

NOT_RESUMED: Mapping[Kind, str] = {
    Kind.WATCHED: "job.watch(...) names it, and nobody saves it: give it to the engine, or let the "
    "task save and load it",
    Kind.FOUND: "a variable of the task that no checkpoint holds: give it to job.engine(...) as "
    "optimizer=, scheduler=, scaler= or ema=; if it is of another kind, make it a part of the "
    "model, or derive it from engine.progress",
    Kind.POSITION: "batches were taken in another way than by engine.epochs(loader)",
    Kind.RANDOM: "random numbers were drawn or seeded between job.engine(...) and the first batch, "
    "or after engine.step(...); seed before job.engine(...)",
    Kind.COMPANION: "it is stepped after engine.step(...): what comes after that is not in this "
    "boundary's checkpoint; step it before",
    Kind.EMA: "it is updated after engine.step(...): what comes after that is not in this "
    "boundary's checkpoint; update it before",
    Kind.GROUP: "a scheduler that was not given to job.engine(..., scheduler=...), or that is "
    "stepped after engine.step(...), or a setting that the loop makes from a counter of its own",
    Kind.MODE: "the task calls train(), eval() or requires_grad_() after job.engine(...)",
    Kind.DECISION: "a metric or a decision depends on something else than the training: on the "
    "wall clock, a file, a counter kept in Python, or an evaluation that draws random numbers",
    Kind.WEIGHT: "training depends on something that is in no checkpoint: a counter or flag kept "
    "in Python, a cache, a file; keep it in a buffer of the model, or derive it from "
    "engine.progress",
}
"""Per kind of what differs, what usually causes it after a resume."""

NOT_DETERMINISTIC: Mapping[Kind, str] = {
    Kind.WATCHED: "what job.watch(...) names depends on something else than the training",
    Kind.FOUND: "a variable of the task that is made from numbers nobody has seeded",
    Kind.BATCHES: "the order of the batches is not seeded: seed before the loader is made, or use "
    "sampler=stagegraph.SeededSampler(dataset, seed=...)",
    Kind.RANDOM: "random numbers that are not seeded: call random.seed, numpy.random.seed and "
    "torch.manual_seed at the beginning of the task, before the model is made; a new process "
    "begins with others each time, and so did each of these runs",
    Kind.GROUP: "a setting of the optimizer depends on the wall clock or on something unseeded",
    Kind.DECISION: "a metric or a decision depends on the wall clock: a speed given as a metric, "
    "durations in seconds; let the graph wait for steps, samples or tokens",
    Kind.WEIGHT: "operations that are not deterministic (torch.use_deterministic_algorithms(True), "
    "torch.set_num_threads(1)), or something that the first run has left in the process: a "
    "module's global, a file",
}
"""The same for two runs of which neither was interrupted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A part that is not the same.

    Attributes:
        part: Which.
        wanted: Its fingerprint in the whole run; ``None`` if it has no such part.
        found: Its fingerprint here.
    """

    part: Part
    wanted: str | None
    found: str | None

    @property
    def kind(self) -> Kind:
        """What it belongs to."""
        return self.part.kind

    def __str__(self) -> str:
        name = self.part.name
        if self.wanted is None:
            return f"{name}: only in this run"
        if self.found is None:
            return f"{name}: missing"
        if _is_digest(self.wanted) or _is_digest(self.found):
            return name
        return f"{name}: {self.found}, and should be {self.wanted}"


def _is_digest(text: str) -> bool:
    hexadecimal = len(text) == 24 and not set(text) - set("0123456789abcdef")
    return hexadecimal or len(text) > LEGIBLE + 20


def differences(
    wanted: Reading, found: Reading, *, without: Sequence[Kind] = (), common: Sequence[Kind] = ()
) -> list[Difference]:
    """The parts that are not the same, those that explain others first.

    Args:
        wanted: The whole run.
        found: The other one.
        without: Kinds not to look at.
        common: Kinds of which only those parts count that both have.
    """
    parts = [part for part in {**wanted, **found} if part.kind not in without]
    both = wanted.keys() & found.keys()
    differing = [
        Difference(part, wanted.get(part), found.get(part))
        for part in parts
        if wanted.get(part) != found.get(part) and (part in both or part.kind not in common)
    ]
    return sorted(differing, key=lambda one: _ORDER[one.kind])


def tell(differing: Sequence[Difference]) -> list[str]:
    """A line for each; of many of one kind, the first few."""
    lines = []
    for kind in Kind:
        of_kind = [one for one in differing if one.kind is kind]
        lines += [f"  {one}" for one in of_kind[:SHOWN]]
        if len(of_kind) > SHOWN:
            lines.append(f"  and {len(of_kind) - SHOWN} more like it")
    return lines


def causes(
    differing: Sequence[Difference],
    hints: Sequence[Difference],
    loader: Exactness | None,
    table: Mapping[Kind, str],
) -> list[str]:
    """What usually causes such differences, a line for each."""
    kinds = {one.kind for one in differing}
    told = [table[kind] for kind in Kind if kind in kinds - _RESULTS and kind in table]
    if Kind.BATCHES in kinds and loader is not None and Kind.BATCHES not in table:
        remedy = f"; {loader.remedy}" if loader.remedy else ""
        told.append(f"the batches ({loader.label}): {loader.why}{remedy}")
    if not told and kinds & _TRAINED:
        told.append(table[Kind.WEIGHT])
    if not kinds & _TRAINED:
        told += [table[kind] for kind in (Kind.DECISION, Kind.EMA) if kind in kinds & table.keys()]
    told = told or [table[Kind.DECISION]]
    lines = [f"  - {text}" for text in dict.fromkeys(told)]
    if hints:
        named = "; ".join(str(one) for one in hints[:HINTS])
        lines.append(f"  - kept in Python and not the same either, perhaps the reason: {named}")
    return lines
