"""Whether a run could go on under an edited graph, for ``stagegraph diff RUN GRAPH``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stagegraph.cli.output import paint, say
from stagegraph.drawing.clean import for_terminal
from stagegraph.engine.editing import graph_of, judge
from stagegraph.engine.refusal import Refusal
from stagegraph.engine.state import State
from stagegraph.errors import SnapshotError
from stagegraph.graph.compile import compile_graph
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.saving import ENGINE_FILE

__all__ = ["Standing", "judged", "say_refusals", "standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a run could be resumed from: the graph of its newest checkpoint, and its state."""

    graph: StageGraph
    state: State


def standing(folder: RunFolder) -> Standing:
    """What the newest whole checkpoint of a run holds.

    Raises:
        RunFolderError: The folder cannot be read.
        SnapshotError: The checkpoint cannot be read.
    """
    generation, _ = folder.checkpoints().newest()
    if generation is None:
        return Standing(folder.graph(), State())
    try:
        saved = json.loads(generation.read(ENGINE_FILE))
        stamp = graph_of(saved)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{generation.path} cannot be read: {error!r}") from error
    if stamp is None:
        raise SnapshotError(f"{generation.path} does not say of which graph it is")
    return Standing(folder.graph(stamp), State.from_json(saved["engine"], stamp))


def judged(now: Standing, graph: StageGraph) -> list[Refusal]:
    """What keeps a run from going on under a graph."""
    before, after = (compile_graph(one)[0] for one in (now.graph, graph))
    return list(judge(before, after, now.state))


def say_refusals(path: Path, refused: list[Refusal], step: int) -> None:
    """Write whether a run could go on, and if not, why."""
    where = f"the run in {for_terminal(str(path))}"
    if not refused:
        say(f"{where} can go on under it, from its checkpoint at step {step}")
        return
    say(f"{where} cannot go on under it from its checkpoint at step {step}:")
    for refusal in refused:
        say(paint(for_terminal(f"  {refusal}"), "removed"))
