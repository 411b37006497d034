"""check: what is wrong with a graph, in itself and for a real model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagegraph.graph import check as graph_check
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.findings import Finding
from stagegraph.schema.stagegraph import StageGraph

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

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
        loader: What the batches would come from: how exactly a run over it can be resumed is said.
        probe: The batch that growth would be measured on.
        parts: What the graph names and only code can give.

    Returns:
        The findings, in the order of the document. Those of severity ``error`` keep the graph
        from running; those that the author waived say so.
    """
    findings = [*graph_check.check(graph), *_exactness(graph, loader)]
    if scheduler is not None and not any(finding.severity == "error" for finding in findings):
        from stagegraph.session.host_schedule import schedule_findings

        findings += schedule_findings(graph, scheduler, loader)
    if model is None or any(finding.severity == "error" for finding in findings):
        return findings
    from stagegraph.actions.attach import inspect_model

    compiled, _ = compile_graph(graph)
    misfits = inspect_model(
        compiled, model, optimizer, ema=ema, data=data, probe=probe, parts=parts
    )
    for misfit in misfits:
        position = graph.source.position(misfit.pointer) if misfit.pointer else None
        findings.append(
            Finding(
                code="model-mismatch",
                severity="error" if misfit.refused else "warning",
                message=f"{misfit.place}: {misfit.message}",
                remedy=misfit.remedy,
                pointer=misfit.pointer,
                file=graph.source.file,
                line=None if position is None else position[0],
            )
        )
    return findings


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
