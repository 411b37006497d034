"""expand: a graph with every template replaced by the stages that it means.

A template becomes an entry of ``graphs:``, so that every stage, way, snapshot and cohort keeps its
name: what the two graphs do is the same, and so is what they write.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, overload

from stagegraph.schema.base import FrozenMap
from stagegraph.schema.stagegraph import StageGraph, SubGraph
from stagegraph.schema.stages import Stage, Use
from stagegraph.schema.templates.template import Template, UseRegions, UseTemplate

__all__ = ["expand", "put_in"]


@lru_cache(maxsize=1024)
def put_in(template: Template) -> SubGraph:
    """The stages that a template means; there may be templates in them.

    >>> from stagegraph.schema.templates.spike_rule import SpikeRule
    >>> list(put_in(SpikeRule(metric="loss", every="1k steps", at_most=3)).stages)
    ['keep', 'again']
    """
    return SubGraph.model_validate(template.parts())


@overload
def expand(graph: StageGraph) -> StageGraph: ...
@overload
def expand(graph: Template) -> SubGraph: ...


def expand(graph: StageGraph | Template) -> StageGraph | SubGraph:
    """Write out what every template of a graph means; of a template, its own stages.

    The result has no template left; it decides and writes as the graph does. A graph without
    templates comes back as it is. A template of regions becomes these, with ``max_overlap`` said.

    >>> from stagegraph.schema.dump import dump
    >>> from stagegraph.schema.load import load
    >>> graph = load('''
    ... {stagegraph: 1, name: x, initial: lr, stages: {
    ...   lr: {use: warmup_stable_decay, with: {stable: 800 steps, decay: 200 steps}, next: done},
    ...   done: {kind: final}}}''')
    >>> print(dump(expand(graph)), end="")
    stagegraph: 1
    name: x
    graphs:
      warmup_stable_decay:
        initial: stable1
        stages:
          stable1: {kind: train, duration: 800 steps, next: anneal1}
          anneal1:
            kind: train
            during:
              - {type: lr_ramp, over: 200 steps, end: 0}
            duration: 200 steps
            next: done
          done: {kind: final}
    initial: lr
    stages:
      lr: {use: warmup_stable_decay, next: done}
      done: {kind: final}

    Args:
        graph: The graph, or one template.

    Returns:
        The plain graph; it knows no file, as none of it need stand in one. Of a template: the entry
        of ``graphs:`` that it is; a template in it stays one.
    """
    if isinstance(graph, Template):
        return put_in(graph)
    if isinstance(graph.regions, UseRegions):
        graph = graph.model_copy(update={"regions": graph.all_regions})
    entries = _Entries(graph.graphs)
    written = {name: entries.rewritten(sub) for name, sub in graph.graphs.items()}
    changed: dict[str, Any] = {}
    if graph.stages is not None:
        changed["stages"] = entries.stages(graph.stages)
    if graph.regions is not None:
        regions = {
            name: region.model_copy(update={"stages": entries.stages(region.stages)})
            for name, region in graph.all_regions.items()
        }
        changed["regions"] = FrozenMap(regions)
    if not entries.made:
        return graph
    changed["graphs"] = FrozenMap({**written, **entries.made})
    fields = {name: getattr(graph, name) for name in type(graph).model_fields}
    return StageGraph.model_validate(fields | changed)


class _Entries:
    """The entries of ``graphs:`` that templates have become so far."""

    def __init__(self, taken: Mapping[str, SubGraph]) -> None:
        self.made: dict[str, SubGraph] = {}
        self._taken = set(taken)
        self._names: dict[Template, str] = {}

    def stages(self, stages: Mapping[str, Stage]) -> FrozenMap[str, Stage]:
        """The same stages with every template an entry."""
        return FrozenMap({name: self._stage(name, stage) for name, stage in stages.items()})

    def rewritten(self, sub: SubGraph) -> SubGraph:
        """An entry with every template in it an entry too."""
        stages = self.stages(sub.stages)
        return sub if stages == sub.stages else sub.model_copy(update={"stages": stages})

    def _stage(self, name: str, stage: Stage) -> Stage:
        if not isinstance(stage, UseTemplate):
            return stage
        # what has no end leads nowhere: its own name stands where a name must
        following = stage.next if stage.next is not None else name
        return Use(use=self._name(stage.with_), next=following, note=stage.note)

    def _name(self, template: Template) -> str:
        """The name of a template's entry; equal ones share it."""
        if template not in self._names:
            name, number = template.template, 1
            while name in self._taken:
                number += 1
                name = f"{template.template}_{number}"
            self._taken.add(name)
            self._names[template] = name
            self.made[name] = self.rewritten(put_in(template))
        return self._names[template]
