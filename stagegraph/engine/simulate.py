"""simulate: a graph on numbers, with the very engine that runs it on a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from stagegraph.engine.attributions import Attribution
from stagegraph.engine.core import Core
from stagegraph.engine.metric_source import Formula, MetricSource, open_source
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.ports import Boundary, Facts, Outcome, Record
from stagegraph.engine.replay import outside
from stagegraph.errors import GraphError, MissingFact, did_you_mean
from stagegraph.graph.check import check
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.needs import Needs, needs
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["Interval", "Simulation", "simulate"]

MAX_STEPS = 1_000_000
"""Where a simulation of a graph without an end gives up."""

_ARGUMENTS = {
    "epochs": "steps_per_epoch",
    "samples": "samples_per_step",
    "tokens": "tokens_per_step",
    "seconds": "seconds_per_step",
    "flops": "flops_per_step",
    "params": "params",
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A stage's time in a schedule.

    Attributes:
        region: The region.
        stage: The stage's name.
        start: The step at which it was entered.
        end: The step at which it was left, or at which the run ended.
        undone: Whether a rollback ended it, or took it back later.
    """

    region: str
    stage: str
    start: int
    end: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Simulation:
    """How a graph ran on numbers.

    Attributes:
        graph: The graph.
        schedule: The stages in the order they were entered.
        records: The journal.
        steps: Updates on the branch that counts.
        made: Updates made, abandoned branches included.
        ended: ``final``, ``stop``, ``budget`` or ``stopped``; ``None`` if it did not end.
    """

    graph: StageGraph
    schedule: tuple[Interval, ...]
    records: tuple[Record, ...]
    steps: int
    made: int
    ended: str | None

    @property
    def moves(self) -> tuple[Record, ...]:
        """The records of transitions."""
        return tuple(record for record in self.records if record["type"] == "move")


def _flops(row: Mapping[str, Any]) -> tuple[int, int] | None:
    told = row.get("flops")
    return None if told is None else (int(told[0]), int(told[1]))


class _Records(list[Record]):
    """A sink that keeps records in memory."""

    def write(self, records: tuple[Record, ...]) -> None:
        self.extend(records)


class _JournalActor(NumbersActor):
    """Tells of the model what a journal told of it."""

    def __init__(
        self,
        facts: Mapping[int, Mapping[str, Any]],
        attributions: Mapping[int, tuple[Attribution, ...]],
    ) -> None:
        self._attributions = attributions
        self._journal = {
            boundary: Facts(row.get("params"), dict(row.get("costs", {})), _flops(row))
            for boundary, row in facts.items()
        }
        first = self._journal.get(0, Facts())
        super().__init__(first.params, first.costs)
        self._facts = first

    def facts(self) -> Facts:
        return self._facts

    def transact(self, boundary: Boundary, confirm: Callable[[Outcome], None]) -> Outcome:
        known = self._journal.get(boundary.number, self._facts)
        outcome = Outcome({}, known, self._attributions.get(boundary.number, ()))
        confirm(outcome)
        self._facts = known
        return outcome


def simulate(  # noqa: PLR0913 - one keyword per fact, as the graph names them
    graph: StageGraph,
    *,
    metrics: str | Path | Mapping[str, Formula] | None = None,
    steps_per_epoch: int | None = None,
    samples_per_step: int | None = None,
    tokens_per_step: int | None = None,
    seconds_per_step: float | None = None,
    flops_per_step: int | None = None,
    params: int | None = None,
    costs: Mapping[str, int] | None = None,
    max_steps: int | None = None,
) -> Simulation:
    """Run a graph on numbers: the same decisions as a real run with these metrics.

    Args:
        graph: The graph.
        metrics: A CSV file with a ``step`` column, a file of JSON lines with a ``step`` key, a
            run's journal, or formulas by metric: callables of the step, or strings such as
            ``"2 + 300 / (step + 100)"``. A computed metric is read when its evaluation is due, or
            at each step if it declares no ``every``.
        steps_per_epoch: Updates per pass over the data.
        samples_per_step: Training samples per update.
        tokens_per_step: Training tokens per update.
        seconds_per_step: Wall time per update.
        flops_per_step: Floating-point operations per update.
        params: Parameters of the model at the start.
        costs: Per stage that grows (``"grow"`` or ``"arch:grow"``), how many parameters it adds;
            per option of it, if it has some (``"grow.deep"``).
        max_steps: Where to stop if the graph does not come to an end before.

    Returns:
        The schedule and the records.

    Raises:
        GraphError: The graph has errors.
        MissingFact: The graph reads a fact that is not given; the message names the argument.
        DocumentError: The metrics cannot be read.
    """
    compiled = runnable(graph)
    required = needs(compiled)
    source = open_source(metrics, graph.metrics, sorted(required.metrics))
    given = {
        "steps_per_epoch": steps_per_epoch,
        "samples_per_step": samples_per_step,
        "tokens_per_step": tokens_per_step,
        "seconds_per_step": seconds_per_step,
        "flops_per_step": flops_per_step,
        "params": params if not source.facts else 0,
    }
    _require(required, given)
    actor: NumbersActor
    if source.facts:
        actor = _JournalActor(source.facts, source.attributions)
    else:
        actor = NumbersActor(params, resolve_costs(compiled, required, costs or {}))
    sink = _Records()
    core = Core(compiled, actor, sink=sink)
    amounts = {
        "samples": samples_per_step or 0,
        "tokens": tokens_per_step or 0,
        "seconds": seconds_per_step or 0.0,
        "flops": flops_per_step or 0,
    }
    _run(core, source, amounts, steps_per_epoch, max_steps)
    steps, made = core.progress.step, core.state.spent.step
    return Simulation(graph, schedule(sink, steps), tuple(sink), steps, made, core.state.ended)


def runnable(graph: StageGraph) -> CompiledGraph:
    """A graph compiled, if it may run.

    Raises:
        GraphError: With every finding of severity ``error``.
    """
    errors = [finding for finding in check(graph) if finding.severity == "error"]
    if errors:
        raise GraphError(errors)
    compiled, _ = compile_graph(graph)
    return compiled


def _require(required: Needs, given: Mapping[str, object]) -> None:
    missing = [
        f"{_ARGUMENTS[fact]}= ({fact})"
        for fact in sorted(required.facts)
        if given[_ARGUMENTS[fact]] is None
    ]
    if missing:
        raise MissingFact(f"the graph reads what was not given; give {', '.join(missing)}")


def resolve_costs(
    graph: CompiledGraph, required: Needs, costs: Mapping[str, int]
) -> dict[str, int]:
    """Costs by stage key.

    Raises:
        MissingFact: A growth has no cost, or a cost belongs to no growth.
    """
    growing = [place for stage in graph.stages.values() for place in stage.priced]
    short = {place.partition(":")[2]: place for place in growing}
    found: dict[str, int] = {}
    for name, cost in costs.items():
        key = name if name in growing else short.get(name)
        if key is None:
            known = did_you_mean(name, [*short, *growing])
            raise MissingFact(f"costs= names {name!r}, which is no growth of the graph{known}")
        found[key] = cost
    missing = [place.partition(":")[2] for place in required.costs if place not in found]
    if missing:
        example = ", ".join(f"{name!r}: 400_000" for name in missing)
        raise MissingFact(
            "the graph has a budget of parameters or asks what is affordable; "
            f"give costs={{{example}}}, the parameters that each growth adds"
        )
    return found


def _run(
    core: Core,
    source: MetricSource,
    amounts: Mapping[str, Any],
    steps_per_epoch: int | None,
    max_steps: int | None,
) -> None:
    core.start()
    if source.commands:
        core.replay(outside(source.commands))
    metrics = core.graph.graph.metrics
    each_step = [name for name, metric in metrics.items() if metric.every is None]
    evaluated = [name for name in metrics if name not in each_step]
    spent = 0
    limit = max_steps if max_steps is not None else MAX_STEPS
    ends_with_file = (
        max_steps is None and core.graph.graph.budget == type(core.graph.graph.budget)()
    )
    last = source.last if ends_with_file else None
    while not core.done and spent < limit and (last is None or spent < last):
        late = source.late.get(spent)
        if late:
            core.observe(**late)
        for event in source.events.get(spent, ()):
            core.send(event)
        spent += 1
        step = core.progress.step + 1
        epoch = None if steps_per_epoch is None else Fraction(spent, steps_per_epoch)
        given: dict[str, Any] = {
            **amounts,
            **source.computed(step, each_step),
            **source.at(step, spent),
        }
        core.step(epoch=epoch, **given)
        if core.wants_evaluation:
            core.observe(**source.computed(step, evaluated))
    core.finish()


def schedule(records: Sequence[Record], steps: int) -> tuple[Interval, ...]:
    """The stages of a journal, in the order they were entered.

    Args:
        records: The journal.
        steps: The step at which it ends.
    """
    found: list[Interval] = []
    running: dict[str, int] = {}
    for record in records:
        match record["type"]:
            case "move":
                region, step = record["region"], record["step"]
                stage = str(record["target"]).partition(":")[2]
                if region in running:
                    index = running.pop(region)
                    found[index] = replace(found[index], end=step)
                if stage:
                    running[region] = len(found)
                    found.append(Interval(region, stage, step, step))
            case "roll_back":
                found, running = _rolled_back(found, running, record)
    for index in running.values():
        found[index] = replace(found[index], end=max(steps, found[index].start))
    return tuple(found)


def _rolled_back(
    found: list[Interval], running: dict[str, int], record: Record
) -> tuple[list[Interval], dict[str, int]]:
    """What began after the snapshot is undone; the stage of then goes on in every region.

    The move that rolled back has just been read: it entered its target at the restored clock.
    """
    to, at = record["to"], record["step"]
    mover = max(running.values(), default=None)
    kept: dict[str, int] = {}
    for index, interval in enumerate(found):
        if index == mover:
            found[index] = replace(interval, start=to, end=to)
            kept[interval.region] = index
        elif running.get(interval.region) == index:
            found[index] = replace(interval, end=at, undone=True)
        elif interval.end > to:
            found[index] = replace(interval, undone=True)
    for region in running.keys() - kept.keys():
        before = [i for i in found if i.region == region and i.start <= to]
        stage = before[-1].stage if before else ""
        if stage:
            kept[region] = len(found)
            found.append(Interval(region, stage, to, to))
    return found, kept
