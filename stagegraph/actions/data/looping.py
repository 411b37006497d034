"""Looping: whether the loader of ``engine.epochs`` is one that the graph can have its way with."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.actions.data.curriculum import CurriculumLoader
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.schema.actions import RollBack
from stagegraph.schema.stages import Trial

__all__ = ["check_loader"]


def check_loader(loader: object, data: object, graph: CompiledGraph) -> None:
    """Refuse to loop over what does not follow the graph.

    Args:
        loader: What ``engine.epochs`` is given.
        data: What the engine was given as ``data=``.
        graph: The graph.

    Raises:
        UnsupportedError: It is not what is steered, or a rollback or a trial could not rewind it.
    """
    if isinstance(data, CurriculumLoader) and loader is not data:
        raise UnsupportedError(
            f"engine.epochs was given a {type(loader).__name__}, and data= is the CurriculumLoader "
            "that the graph steers; loop over that one itself, and let collate_fn or the loop do "
            "what a wrapper would"
        )
    if data is None or isinstance(loader, CurriculumLoader):
        return
    for place, what in _rewinding(graph):
        raise UnsupportedError(
            f"{place}: {what}, and the pass that engine.epochs has begun over a "
            f"{type(loader).__name__} cannot go back; use a stagegraph.CurriculumLoader as data= "
            "and loader, or a loop of your own that begins anew"
        )


def _rewinding(graph: CompiledGraph) -> Iterator[tuple[str, str]]:
    """What returns the data to an earlier position: where, and in words."""
    for edge in graph.edges.values():
        for placed in edge.actions:
            if isinstance(placed.action, RollBack) and placed.action.data == "rewind":
                yield (
                    placed.place,
                    ("roll_back returns the data to its position (data: rewind; skip would not)"),
                )
    for stage in graph.stages.values():
        if isinstance(stage.spec, Trial):
            yield stage.key, "a trial trains each option on the same batches"
