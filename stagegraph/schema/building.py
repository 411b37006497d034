"""sequential, overlapping: whole graphs from a list of growths and other templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stagegraph.errors import Defect, DocumentError
from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.templates.grow_cycle import GrowCycle
from stagegraph.schema.templates.overlapping import (
    NO_TRIGGER,
    WATCH,
    at_once,
    growing_region,
    refuse_names,
    watching_region,
)
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.template import Template

__all__ = ["overlapping", "sequential"]

_END: Mapping[str, Any] = {"kind": "final"}

Part = Template | Mapping[str, Any]
"""A template, or the fields of a ``grow_cycle``."""


def sequential(
    parts: Sequence[Part] | Mapping[str, Part],
    *,
    name: str,
    watch: SpikeRule | None = None,
    **document: Any,
) -> StageGraph:
    """A graph that does one part after another, each when the one before is over.

    A growth's trigger is asked for only when the consolidation before it is over.

    >>> from stagegraph.schema.dump import dump
    >>> from stagegraph.schema.templates.warmup_stable_decay import WarmupStableDecay
    >>> growth = {"growth": [{"type": "widen", "space": "mlp", "factor": 2}],
    ...           "trigger": "step >= 5k", "warmup": "500 steps", "consolidate": "2k steps"}
    >>> anneal = WarmupStableDecay(stable="5k steps", decay="1k steps")
    >>> print(dump(sequential({"wider": growth, "anneal": anneal}, name="two parts")), end="")
    stagegraph: 1
    name: two parts
    initial: wider
    stages:
      wider:
        use: grow_cycle
        with:
          growth:
            - type: widen
              factor: 2
              space: [mlp]
          trigger: step >= 5000
          warmup: 500 steps
          consolidate: 2000 steps
        next: anneal
      anneal:
        use: warmup_stable_decay
        with:
          stable: [5000 steps]
          decay: [1000 steps]
        next: done
      done: {kind: final}

    Args:
        parts: The parts in order: templates, or mappings with the fields of a ``grow_cycle``. With
            names, these are the stages' names; without, ``grow_cycle1`` and so on.
        name: The graph's title.
        watch: A rule for spikes, which becomes a region beside ``main``.
        document: Further keys of the document: ``metrics``, ``budget``, ``waive`` and so on.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    named = _named(parts)
    stages: dict[str, Any] = {}
    for stage, part, after in zip(named, named.values(), [*list(named)[1:], "done"], strict=True):
        if isinstance(part, Template) and not part.ends:
            raise _refusal(
                f"/stages/{stage}", f"a {part.template!r} has no end; give it as 'watch'"
            )
        stages[stage] = _used(part, after)
    stages["done"] = _END
    form = {"initial": next(iter(stages)), "stages": stages}
    if watch is not None:
        form = {"regions": {"main": form, WATCH: watching_region(watch)}}
    return load({"stagegraph": 1, "name": name, **document, **form})


def overlapping(
    growths: Sequence[Part] | Mapping[str, Part],
    *,
    name: str,
    max_overlap: int | None = None,
    priorities: Mapping[str, int] | None = None,
    watch: SpikeRule | None = None,
    **document: Any,
) -> StageGraph:
    """A graph whose growths wait side by side, each in a region of its own.

    A growth may begin while others still warm up, settle or consolidate, as long as fewer than
    ``max_overlap`` do. Two that would begin at one boundary go one after the other, the higher
    priority first. Each ends when its own consolidation is over.

    >>> def growth(space):
    ...     return {"growth": [{"type": "widen", "space": space, "factor": 2}], "wait": "9k steps",
    ...             "trigger": "step >= 5k", "warmup": "500 steps", "consolidate": "2k steps"}
    >>> graph = overlapping({"mlp": growth("mlp"), "hidden": growth("hidden")}, name="two at once")
    >>> {name: region.priority for name, region in graph.regions.items()}, graph.max_overlap
    ({'mlp': 1, 'hidden': 0}, 2)

    Args:
        growths: Each a ``GrowCycle``, or a mapping with its fields, and with a trigger. With names,
            these are the regions' names; without, ``grow_cycle1`` and so on.
        name: The graph's title.
        max_overlap: How many may be between their growth and the end of their consolidation at
            once; default: two.
        priorities: Who goes first, by name, higher before lower; default: in the order given.
        watch: A rule for spikes, which becomes a region ``watch``.
        document: Further keys of the document: ``metrics``, ``budget``, ``waive`` and so on.

    Raises:
        DocumentError: Something cannot be so; with all defects.
    """
    named = _named(growths)
    first = len(named) - 1
    ranks = {region: first - place for place, region in enumerate(named)} | dict(priorities or {})
    try:
        refuse_names(named, priorities or {}, watched=watch is not None)
    except ValueError as refused:
        raise _refusal("/regions", str(refused)) from None
    regions: dict[str, Any] = {}
    for region, part in named.items():
        if not _waits(part):
            raise _refusal(f"/regions/{region}", NO_TRIGGER)
        regions[region] = growing_region(_used(part, "done"), ranks[region])
    if watch is not None:
        regions[WATCH] = watching_region(watch)
    overlap = at_once(named) if max_overlap is None else max_overlap
    form = {"max_overlap": overlap, "regions": regions}
    return load({"stagegraph": 1, "name": name, **document, **form})


def _named(parts: Sequence[Part] | Mapping[str, Part]) -> dict[str, Part]:
    """The parts by name; those without names are called by their template and a number."""
    if not parts:
        raise _refusal("", "there is nothing to build a graph from; give at least one part")
    if isinstance(parts, Mapping):
        named = dict(parts)
    else:
        counts: Counter[str] = Counter()
        named = {}
        for part in parts:
            kind = part.template if isinstance(part, Template) else GrowCycle.template
            counts[kind] += 1
            named[f"{kind}{counts[kind]}"] = part
    for name, part in named.items():
        if not isinstance(part, Template | Mapping):
            raise TypeError(
                f"part {name!r} is a template, or a mapping with the fields of a grow_cycle; got "
                f"{part!r:.80}"
            )
    return named


def _waits(part: Part) -> bool:
    """Whether a part is a growth that waits for its trigger."""
    if isinstance(part, Template):
        return isinstance(part, GrowCycle) and part.trigger is not None
    return part.get("trigger") is not None


def _used(part: Part, following: str) -> dict[str, Any]:
    """The stage that puts a part in."""
    if isinstance(part, Template):
        return {"use": part.template, "with": part, "next": following}
    return {"use": GrowCycle.template, "with": part, "next": following}


def _refusal(pointer: str, message: str) -> DocumentError:
    return DocumentError("<python>", [Defect(message, pointer)])
