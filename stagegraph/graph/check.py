"""check: everything about a graph that a person should know before paying for the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stagegraph.errors import did_you_mean
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.findings import Finding
from stagegraph.graph.places import split_pointer
from stagegraph.graph.problems import Problems
from stagegraph.graph.rules import REMEDIES, RULES, Context, Rule, breaks_structure
from stagegraph.graph.rules.outside import OUTSIDE
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["check", "check_compiled", "place"]

_RANKS = {"error": 0, "warning": 1, "note": 2}


def check(graph: StageGraph) -> list[Finding]:
    """Everything that the rules find in a graph.

    Args:
        graph: The document.

    Returns:
        The findings: errors first, then warnings, then notes, each in the order of the document.
        Waived ones are among them and say so.
    """
    return check_compiled(*compile_graph(graph))


def check_compiled(compiled: CompiledGraph, problems: Problems) -> list[Finding]:
    """As :func:`check`, for a graph that has been compiled already.

    Args:
        compiled: The compiled graph.
        problems: What compiling left over.
    """
    graph = compiled.graph
    unique = dict.fromkeys(_found(compiled, problems))
    findings = _waive(list(unique), graph.waive)
    findings = [place(finding, graph) for finding in findings]
    order = {code: index for index, code in enumerate(RULES)}

    def order_of(finding: Finding) -> tuple[Any, ...]:
        position = graph.source.position(finding.pointer) or (0, 0)
        at = _walk(graph, finding.pointer)
        return _RANKS[finding.severity], position, at, order[finding.code], finding.message

    return sorted(findings, key=order_of)


def _found(compiled: CompiledGraph, problems: Problems) -> Iterator[Finding]:
    for problem in problems.found:
        rule = RULES[problem.code]
        yield _finding(rule, problem.message, REMEDIES[problem.code], problem.pointer)
    context = Context(compiled, problems)
    has_holes = breaks_structure(problems)
    for rule in RULES.values():
        if rule.look is None or (has_holes and rule.needs_names):
            continue
        for found in rule.look(context):
            yield _finding(rule, found.message, found.remedy, found.pointer)


def _finding(rule: Rule, message: str, remedy: str, pointer: str) -> Finding:
    return Finding(rule.code, rule.severity, message, remedy, pointer)


def _waive(findings: list[Finding], waivers: Mapping[str, str]) -> list[Finding]:
    occurring = {finding.code for finding in findings}
    kept = [
        replace(finding, waived=waivers[finding.code])
        if finding.code in waivers and finding.severity != "error"
        else finding
        for finding in findings
    ]
    for code in waivers:
        pointer = f"/waive/{code.replace('~', '~0').replace('/', '~1')}"
        if code in OUTSIDE:
            continue  # it is found with what the graph is run with, or not
        if code not in RULES:
            message = f"there is no finding {code!r}{did_you_mean(code, (*RULES, *OUTSIDE))}"
            remedy = "correct the name, or take the waiver out"
            kept.append(_finding(RULES["unknown-waiver"], message, remedy, pointer))
        elif RULES[code].severity == "error":
            message = f"{code!r} is an error, and errors cannot be waived"
            remedy = "mend what it finds, and take the waiver out"
            kept.append(_finding(RULES["cannot-waive"], message, remedy, pointer))
        elif code not in occurring:
            message = f"{code!r} is waived but does not occur"
            remedy = "take the waiver out"
            kept.append(_finding(RULES["unused-waiver"], message, remedy, pointer))
    return kept


def place(finding: Finding, graph: StageGraph) -> Finding:
    """The finding with the file and the line that its pointer leads to."""
    pointer, inner = split_pointer(graph, finding.pointer)
    position = graph.source.position(pointer)
    line = None if position is None else position[0]
    message = f"{finding.message} (in what the template puts in: {inner})" if inner else ""
    return replace(
        finding,
        pointer=pointer,
        message=message or finding.message,
        file=graph.source.file,
        line=line,
    )


def _walk(graph: StageGraph, pointer: str) -> tuple[int, ...]:
    """Where a pointer stands in the order of the model, for graphs that have no lines."""
    here: Any = graph
    order: list[int] = []
    for part in pointer.split("/")[1:]:
        if isinstance(here, tuple):
            order.append(int(part))
            here = here[int(part)] if part.isdigit() and int(part) < len(here) else None
        elif isinstance(here, Mapping):
            order.append(list(here).index(part) if part in here else len(here))
            here = here.get(part)
        else:
            fields = list(getattr(type(here), "model_fields", ()))
            order.append(fields.index(part) if part in fields else len(fields))
            here = getattr(here, part, None)
    return tuple(order)
