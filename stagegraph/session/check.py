"""check: what is wrong with a graph, in itself and for a real model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagegraph.graph import check as graph_check
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.findings import Finding
from stagegraph.graph.places import split_pointer
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.capabilities import Capabilities, Lack, capabilities_of, lacks
from stagegraph.session.strategies import Strategy, StrategyLack, strategy_lacks, strategy_of

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from stagegraph.actions.attach import Misfit

__all__ = ["check"]


def check(  # noqa: PLR0913 - all that a run must know of, named once
    graph: StageGraph,
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | Sequence[Optimizer] = (),
    scheduler: object = None,
    ema: object = None,
    data: object = None,
    loader: Any = None,
    probe: Any = None,
    parts: Mapping[str, Any] | None = None,
    trainer: str | None = None,
    strategy: str | None = None,
) -> list[Finding]:
    """Everything to know about a graph before the run.

    Args:
        graph: The graph.
        model: Also look its paths and patterns up in this model.
        optimizer: The model's optimizer, or several.
        scheduler: The host's scheduler, or several, stepped once per update: what it does to
            plateaus and to late growth is found out on a copy.
        ema: The averaged weights that would be grown along.
        data: What would know the data's position.
        loader: What the batches would come from: how exactly a run over it can be resumed is said,
            and what the graph's data activities ask of it in vain.
        probe: The batch that growth would be measured on.
        parts: What the graph names and only code can give.
        trainer: The trainer that would run it (``loop``, ``huggingface``): what the graph asks for
            and this trainer cannot do is said.
        strategy: How the model would be spread over ranks (``ddp``, ``fsdp2``, ``fsdp``,
            ``deepspeed``, ``tensor_parallel``, ``pipeline_parallel``): likewise.

    Returns:
        The findings, in the order of the document. Those of severity ``error`` keep the graph
        from running; those that the author waived say so.

    Raises:
        StageGraphError: There is no such trainer or strategy.
    """
    host = None if trainer is None else capabilities_of(trainer)
    spread = None if strategy is None else strategy_of(strategy)
    findings = [*graph_check.check(graph), *_exactness(graph, loader)]
    if scheduler is not None and not any(finding.severity == "error" for finding in findings):
        from stagegraph.session.host_schedule import schedule_findings

        findings += schedule_findings(graph, scheduler, loader)
    if any(finding.severity == "error" for finding in findings):
        return findings
    if host is not None:
        findings += _lacks(graph, host)
    if spread is not None:
        findings += _strategy_lacks(graph, spread, host)
    if model is None:
        source = loader if data is None else data
        return findings if source is None else [*findings, *_data(graph, source)]
    from stagegraph.actions.attach import inspect_model
    from stagegraph.actions.companions import Stateful

    compiled, _ = compile_graph(graph)
    if data is None and isinstance(loader, Stateful):
        data = loader
    misfits = inspect_model(
        compiled, model, optimizer, ema=ema, data=data, probe=probe, parts=parts
    )
    return findings + [_finding(graph, misfit) for misfit in misfits]


def _data(graph: StageGraph, source: object) -> list[Finding]:
    """What the data activities of a graph ask for and this data cannot do."""
    from stagegraph.actions.attach import inspect_data

    compiled, _ = compile_graph(graph)
    return [_finding(graph, misfit) for misfit in inspect_data(compiled, source)]


def _lacks(graph: StageGraph, host: Capabilities) -> list[Finding]:
    """What of a graph its trainer cannot do."""
    compiled, _ = compile_graph(graph)
    return [_refused(graph, "trainer-cannot", lack) for lack in lacks(compiled, host)]


def _strategy_lacks(
    graph: StageGraph, strategy: Strategy, host: Capabilities | None
) -> list[Finding]:
    """What of a graph cannot be done to a model that is spread so."""
    compiled, _ = compile_graph(graph)
    found = strategy_lacks(compiled, strategy, host)
    return [_refused(graph, "strategy-cannot", lack) for lack in found]


def _refused(graph: StageGraph, code: str, lack: Lack | StrategyLack) -> Finding:
    pointer, _ = split_pointer(graph, lack.pointer)
    position = graph.source.position(pointer)
    return Finding(
        code=code,
        severity="error",
        message=f"{lack.place}: {lack.message}",
        remedy=lack.remedy,
        pointer=pointer,
        file=graph.source.file,
        line=None if position is None else position[0],
    )


def _finding(graph: StageGraph, misfit: Misfit) -> Finding:
    pointer, _ = split_pointer(graph, misfit.pointer)
    position = graph.source.position(pointer) if pointer else None
    return Finding(
        code="model-mismatch",
        severity="error" if misfit.refused else "warning",
        message=f"{misfit.place}: {misfit.message}",
        remedy=misfit.remedy,
        pointer=pointer,
        file=graph.source.file,
        line=None if position is None else position[0],
    )


def _exactness(graph: StageGraph, loader: Any) -> list[Finding]:
    """How exactly a run over this loader can be resumed, unless it is exact."""
    if loader is None:
        return []
    from stagegraph.actions.data.exactness import exactness

    found = exactness(loader)
    if found.label == "exact":
        return []
    return [
        Finding(
            code="resume-exactness",
            severity="warning" if found.label == "not exact" else "note",
            message=f"a resumed run over this loader is {found.label}: {found.why}",
            remedy=found.remedy or "nothing to do if the items themselves draw no random numbers",
            file=graph.source.file,
        )
    ]
