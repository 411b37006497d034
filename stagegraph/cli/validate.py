"""``stagegraph validate GRAPH``: everything the checks find, as text or as JSON."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stagegraph.cli.output import paint, say, say_json
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.clean import for_terminal
from stagegraph.errors import DocumentError
from stagegraph.graph.check import check_compiled
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.findings import Finding

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help=GRAPH_HELP)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write the findings"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 on warnings as well, waived ones aside"
    )
    parser.add_argument(
        "--trainer", metavar="NAME", help="also say what this trainer cannot do: huggingface, …"
    )
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        help="also say what cannot be done to a model that is spread over ranks so: ddp, fsdp2, …",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check a graph and write what was found.

    Returns:
        1 if there are errors (with ``--strict``: or warnings), 2 if the graph cannot be read or
        there is no such trainer or strategy, else 0.
    """
    try:
        graph = read_graph(arguments.graph)
    except DocumentError as error:
        if arguments.format != "json":
            raise
        defects = [asdict(defect) for defect in error.defects]
        say_json({"file": error.file, "defects": defects})
        return 2
    compiled, problems = compile_graph(graph)
    if arguments.trainer is None and arguments.strategy is None:
        findings = check_compiled(compiled, problems)
    else:
        from stagegraph.session.check import check

        findings = check(graph, trainer=arguments.trainer, strategy=arguments.strategy)
    counts = Counter(finding.severity for finding in findings if finding.waived is None)
    summary = {
        "graph": graph.name,
        "file": graph.source.file,
        "regions": len(compiled.regions),
        "stages": len(compiled.stages),
        "errors": counts["error"],
        "warnings": counts["warning"],
        "notes": counts["note"],
        "waived": sum(finding.waived is not None for finding in findings),
    }
    if arguments.format == "json":
        say_json({"findings": [f.to_json() for f in findings], "summary": summary})
    else:
        _say_findings(findings)
        _say_summary(summary)
    failed = counts["error"] or (arguments.strict and counts["warning"])
    return 1 if failed else 0


def _say_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
        word = "waived" if finding.waived is not None else finding.severity
        say(f"{paint(word, word)}: {finding.code} at {for_terminal(f'{place} {finding.pointer}')}")
        say(f"    {for_terminal(finding.message)}")
        reason = finding.waived
        say(f"    {for_terminal(finding.remedy if reason is None else f'waived: {reason}')}")
        say()


def _say_summary(summary: dict[str, Any]) -> None:
    counted = [
        _count(summary[key], word)
        for key, word in (("errors", "error"), ("warnings", "warning"), ("notes", "note"))
        if summary[key] or key == "errors"
    ]
    if summary["waived"]:
        counted.append(f"{summary['waived']} waived")
    size = f"{_count(summary['stages'], 'stage')} in {_count(summary['regions'], 'region')}"
    say(f"{for_terminal(summary['graph'])}: {size}; {', '.join(counted)}")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
