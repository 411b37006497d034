"""Chart: what is to be seen of a graph, and of a run on it, whatever the kind of picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stagegraph.drawing.history import History, Record, read_history
from stagegraph.drawing.wording import (
    action_words,
    activity_words,
    duration_words,
    exact_number,
    guard_words,
    whole_guard,
)
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.compiled import (
    BACK,
    STOP,
    CompiledGraph,
    CompiledRegion,
    CompiledStage,
    Edge,
    PlacedAction,
)
from stagegraph.progress import Duration, Unit
from stagegraph.schema.expansion import put_in
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.stages import Grow, Stage, Trial, Use
from stagegraph.schema.templates.template import UseTemplate

__all__ = ["Chart", "ChartRegion", "Line", "Link", "Node", "draw_up", "made_chart"]

Shape = Literal["stage", "final", "initial", "interrupt", "stop", "back", "jump"]
Style = Literal["transition", "next", "interrupt", "initial", "fallback"]
Role = Literal["time", "during", "action", "interrupt", "plain"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line inside a stage's box."""

    text: str
    role: Role = "plain"


@dataclass(frozen=True, slots=True)
class Node:
    """Something that edges begin and end at.

    Attributes:
        key: A stage's key, an interrupt's edge id, or ``region:(start)`` and the like.
        shape: What it is drawn as.
        title: Its name.
        kind: The stage's kind, or empty.
        group: The names of the ``use`` stages around it, outermost first.
        lines: What is inside, in short.
        tooltip: All of it.
        visits: How often the run entered it.
        steps: How many updates the run spent in it.
        now: Whether the run is in it.
    """

    key: str
    shape: Shape
    title: str = ""
    kind: str = ""
    group: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    tooltip: str = ""
    visits: int = 0
    steps: int = 0
    now: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One way from a node to another.

    Attributes:
        id: The edge's id; ``region:initial`` for the first.
        source: A node's key.
        target: A node's key.
        style: What it was written as.
        guard: The condition in short; for ``next``: when.
        extra: Actions, ``at_most`` and the like, in short.
        tooltip: All of it.
        count: How often the run took it.
    """

    id: str
    source: str
    target: str
    style: Style
    guard: str = ""
    extra: tuple[str, ...] = ()
    tooltip: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class ChartRegion:
    """One region's nodes and links, in the order of the document."""

    name: str
    priority: int
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    uses: dict[tuple[str, ...], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chart:
    """A whole picture's content.

    Attributes:
        title: The graph's name.
        facts: Budget, metrics and the like, in short.
        regions: In the order of acting.
        problems: Names that could not be resolved, in sentences.
        has_run: Whether records are shown, so that what was not visited stands back.
    """

    title: str
    facts: tuple[str, ...]
    regions: tuple[ChartRegion, ...]
    problems: tuple[str, ...] = ()
    has_run: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of stage in it, in order of appearance."""
        return tuple(
            dict.fromkeys(
                node.kind for region in self.regions for node in region.nodes if node.kind
            )
        )


def draw_up(graph: StageGraph, records: Iterable[Record] = ()) -> Chart:
    """The chart of a graph, and of a run on it if there are records."""
    return made_chart(graph, read_history(records))


def made_chart(graph: StageGraph, history: History) -> Chart:
    """The chart of a graph and a run whose records have been read."""
    compiled, problems = compile_graph(graph)
    drafts = [_Draft(compiled, region, history).region_chart() for region in compiled.regions]
    return Chart(
        title=graph.name,
        facts=_facts(graph),
        regions=tuple(drafts),
        problems=tuple(f"{p.pointer}: {p.message}" for p in problems.found),
        has_run=bool(history.records),
    )


def _facts(graph: StageGraph) -> tuple[str, ...]:
    facts = []
    budget = [
        f"{exact_number(value)} {name}" if name != "seconds" else _wall_time(value)
        for name in type(graph.budget).model_fields
        if (value := getattr(graph.budget, name)) is not None
    ]
    if budget:
        facts.append("budget " + ", ".join(budget))
    for name, metric in graph.metrics.items():
        every = f", every {duration_words(metric.every)}" if metric.every else ""
        facts.append(f"{name} ({metric.goal}{every})")
    if graph.events:
        facts.append("events " + ", ".join(graph.events))
    if graph.max_overlap > 1:
        facts.append(f"at most {graph.max_overlap} regions growing at once")
    return tuple(facts)


def _wall_time(seconds: float) -> str:
    return duration_words(Duration(seconds, Unit.SECONDS))


class _Draft:
    """One region on its way to be a chart; holds what every part of it looks up."""

    def __init__(self, compiled: CompiledGraph, region: CompiledRegion, history: History) -> None:
        self.compiled = compiled
        self.region = region
        self.visits = history.visits()
        self.steps = history.steps_in()
        self.taken = history.taken()
        self.moves = history.moves
        self.now = history.current.get(region.name) if history.end is None else None

    def region_chart(self) -> ChartRegion:
        edges = self._own_edges()
        interrupts = self._interrupts()
        links = [self._initial(), *(self._link(edge, edge.scope, edge.target) for edge in edges)]
        links += [self._link(edge, edge.id, edge.target) for edge in interrupts]
        links += self._fallbacks([*edges, *interrupts])
        nodes = [Node(f"{self.region.name}:(start)", "initial")]
        nodes += [self._interrupt(edge) for edge in interrupts]
        nodes += [self._stage(stage) for stage in self.region.stages.values()]
        ends = {link.target for link in links}
        for word, shape in ((STOP, "stop"), (BACK, "back")):
            key = f"{self.region.name}:({word})"
            if key in ends:
                nodes.append(Node(key, "stop" if shape == "stop" else "back", title=word))
        known = {node.key for node in nodes}
        return ChartRegion(
            self.region.name,
            self.region.priority,
            tuple(nodes),
            tuple(link for link in links if link.source in known and link.target in known),
            self._uses(),
        )

    # Ways

    def _own_edges(self) -> list[Edge]:
        return [
            edge
            for stage in self.region.stages.values()
            for edge in stage.ways
            if edge.kind != "interrupt"
        ]

    def _interrupts(self) -> list[Edge]:
        """Every interrupt once, in the order of asking."""
        found = {
            edge.id: edge
            for stage in self.region.stages.values()
            for edge in stage.ways
            if edge.kind == "interrupt"
        }
        return list(found.values())

    def _initial(self) -> Link:
        name = self.region.name
        count = sum(n for (edge, kind), n in self.taken.items() if edge == f"{name}:initial")
        return Link(
            f"{name}:initial",
            f"{name}:(start)",
            self.region.initial,
            "initial",
            tooltip=f"{name} starts in {self._local(self.region.initial)}",
            count=count,
        )

    def _link(self, edge: Edge, source: str, target: str) -> Link:
        region = self.region.name
        if edge.kind == "next":
            guard = whole = self._when_next(self.region.stages[source], edge)
        else:
            guard, whole = guard_words(edge.guard, region), whole_guard(edge.guard, region)
            guard = f"when {guard}" if edge.guard is not None else guard
            whole = f"when {whole}" if edge.guard is not None else whole
        extra = [action_words(placed.action) for placed in edge.actions]
        if edge.at_most is not None:
            extra.append(f"at most {edge.at_most}×")
        if edge.fallback is not None:
            retry = f"retry {edge.fallback.retry}×, then " if edge.fallback.retry else ""
            extra.append(f"on error {retry}{self._local(edge.fallback.then)}")
        if target in (STOP, BACK):
            target = f"{region}:({target})"
        title = f"{self._local(source)} → {self._local(edge.target)}"
        if edge.kind == "interrupt":
            title = f"interrupt {_last(edge.id)}: {self._within(edge)} → {self._local(edge.target)}"
        return Link(
            edge.id,
            source,
            target,
            edge.kind,
            guard,
            tuple(extra),
            "\n".join([title, whole, *extra]),
            self.taken[edge.id, edge.kind],
        )

    def _when_next(self, stage: CompiledStage, edge: Edge) -> str:
        if stage.instant:
            return "at once"
        if isinstance(stage.spec, Trial):
            return "with the best option" if edge == stage.next else "without growth"
        if stage.kind == "warmup":
            return "when its ramps end"
        return f"after {duration_words(stage.duration)}" if stage.duration else "when completed"

    def _fallbacks(self, edges: Sequence[Edge]) -> list[Link]:
        """Ways that the run took because an action failed; the others are only written down."""
        links = []
        for edge in edges:
            count = self.taken[edge.id, "fallback"]
            if count and edge.fallback is not None:
                source = edge.id if edge.kind == "interrupt" else edge.scope
                links.append(
                    Link(
                        f"{edge.id}.on_error",
                        source,
                        edge.fallback.then,
                        "fallback",
                        "after an error",
                        (),
                        f"an action of {edge.id} failed",
                        count,
                    )
                )
        return links

    # Nodes

    def _stage(self, stage: CompiledStage) -> Node:
        lines = list(self._stage_lines(stage))
        tooltip = [f"{stage.key} ({stage.kind})", *(line.text for line in lines)]
        note = getattr(stage.spec, "note", None)
        if note:
            tooltip.append(note)
        *group, _ = stage.name.split(".")
        return Node(
            stage.key,
            "final" if stage.final else "stage",
            stage.name.rpartition(".")[2],
            stage.kind,
            tuple(group),
            tuple(lines),
            "\n".join(tooltip),
            self.visits[stage.key],
            self.steps[stage.key],
            self.now == stage.key,
        )

    def _stage_lines(self, stage: CompiledStage) -> Iterable[Line]:
        if isinstance(stage.spec, Trial):
            yield Line(f"{duration_words(stage.spec.over)} each, by {stage.spec.metric}", "time")
            if stage.spec.worth is not None:
                yield Line(f"at least {stage.spec.worth:.3g} better than no growth", "time")
            yield from self._options(stage)
        elif stage.instant:
            yield Line("takes no time", "time")
        elif stage.duration:
            yield Line(duration_words(stage.duration), "time")
        if stage.min_duration:
            yield Line(f"at least {duration_words(stage.min_duration)}", "time")
        for held in stage.during:
            name = f"{held.place.rpartition(':')[2]}: " if held.named else ""
            yield Line(name + activity_words(held.activity), "during")
        yield from self._actions(stage.actions)
        if isinstance(stage.spec, Grow) and stage.options:
            each = "the next of" if stage.spec.policy == "next" else "the largest of"
            yield Line(f"{each} {len(stage.options)}:", "time")
            yield from self._options(stage)
        names = [
            _last(edge.id)
            for edge in stage.ways
            if edge.kind == "interrupt" and not self._everywhere(edge)
        ]
        if names:
            yield Line("interrupted by " + ", ".join(names), "interrupt")

    def _options(self, stage: CompiledStage) -> Iterable[Line]:
        for option in stage.options:
            words = ", ".join(action_words(placed.action) for placed in option.actions)
            yield Line(f"{option.name}: {words}", "action")

    def _actions(self, actions: Iterable[PlacedAction]) -> Iterable[Line]:
        for placed in actions:
            yield Line(action_words(placed.action), "action")

    def _interrupt(self, edge: Edge) -> Node:
        within = self._within(edge)
        taken = self.taken[edge.id, "interrupt"] + self.taken[edge.id, "fallback"]
        return Node(
            edge.id,
            "interrupt",
            _last(edge.id),
            "interrupt",
            (),
            (Line(within, "interrupt"),),
            f"interrupt {_last(edge.id)}: {within}\nwhen {whole_guard(edge.guard, edge.region)}",
            taken,
        )

    def _everywhere(self, edge: Edge) -> bool:
        """Whether an interrupt may leave every stage that can be left."""
        kept_in = ("grow", "trial", "final")
        inside = {s.key for s in self.region.stages.values() if s.kind not in kept_in}
        return len(inside) > 1 and inside <= set(edge.within)

    def _within(self, edge: Edge) -> str:
        if self._everywhere(edge):
            return "from any stage"
        return "from " + ", ".join(self._local(key) for key in edge.within)

    def _local(self, key: str) -> str:
        return key.removeprefix(f"{self.region.name}:")

    def _uses(self) -> dict[tuple[str, ...], str]:
        """What each ``use`` puts in, by the names of the stages around it and its own."""
        found: dict[tuple[str, ...], str] = {}
        groups = {tuple(node.name.split(".")[:-1]) for node in self.region.stages.values()}

        def look(stages: Mapping[str, Stage], around: tuple[str, ...]) -> None:
            for name, spec in stages.items():
                here = (*around, name)
                if not any(group[: len(here)] == here for group in groups):
                    continue
                if isinstance(spec, UseTemplate):
                    found[here] = spec.with_.template
                    look(put_in(spec.with_).stages, here)
                elif isinstance(spec, Use) and spec.use in self.compiled.graph.graphs:
                    found[here] = spec.use
                    look(self.compiled.graph.graphs[spec.use].stages, here)

        look(self.compiled.graph.all_regions[self.region.name].stages, ())
        return found


def _last(edge_id: str) -> str:
    """The name of an interrupt: ``main:interrupts.undo`` is ``undo``."""
    return edge_id.partition(":interrupts.")[2] or edge_id
