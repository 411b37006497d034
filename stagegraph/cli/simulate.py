"""``stagegraph simulate GRAPH``: a graph on numbers, and what it would do."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stagegraph.cli.output import say, say_json
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.clean import for_terminal
from stagegraph.drawing.trying import trial_words
from stagegraph.engine.simulate import Simulation, simulate
from stagegraph.errors import MissingFact
from stagegraph.progress import parse_number

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help=GRAPH_HELP)
    parser.add_argument(
        "--metrics",
        metavar="FILE",
        type=Path,
        help="CSV or JSON lines with a step in each row, or a run's journal",
    )
    parser.add_argument(
        "--formula",
        metavar="NAME=FORMULA",
        action="append",
        default=[],
        type=_pair,
        help="a metric as a formula of the step: 'val_loss=2 + 300 / (step + 100)'",
    )
    for name, what in (
        ("steps-per-epoch", "updates per pass over the data"),
        ("samples-per-step", "training samples per update"),
        ("tokens-per-step", "training tokens per update"),
        ("flops-per-step", "floating-point operations per update"),
        ("params", "parameters of the model at the start"),
        ("max-steps", "where to stop if the graph does not end before"),
    ):
        parser.add_argument(f"--{name}", metavar="N", type=_count, help=what)
    parser.add_argument("--seconds-per-step", metavar="S", type=float, help="wall time per update")
    parser.add_argument(
        "--cost",
        metavar="STAGE=N",
        action="append",
        default=[],
        type=_cost,
        help="parameters that a stage's growth adds: grow=400k",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write what happened"
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _cost(text: str) -> tuple[str, int]:
    stage, number = _pair(text)
    return stage, _count(number)


def _count(text: str) -> int:
    try:
        number = parse_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(number, int) or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Simulate the graph and say what happened."""
    graph = read_graph(arguments.graph)
    try:
        result = simulate(
            graph,
            metrics=dict(arguments.formula) or arguments.metrics,
            steps_per_epoch=arguments.steps_per_epoch,
            samples_per_step=arguments.samples_per_step,
            tokens_per_step=arguments.tokens_per_step,
            seconds_per_step=arguments.seconds_per_step,
            flops_per_step=arguments.flops_per_step,
            params=arguments.params,
            costs=dict(arguments.cost),
            max_steps=arguments.max_steps,
        )
    except MissingFact as error:
        raise MissingFact(_in_flags(str(error))) from error
    if arguments.format == "json":
        say_json(_as_json(result))
    else:
        for line in _lines(result):
            say(for_terminal(line))
    return 0


def _in_flags(message: str) -> str:
    """A message about arguments, with the words of the command line for them."""
    message = re.sub(r"costs=\{(.*?)\}", _cost_flags, message)
    message = message.replace("metrics=", "--metrics or --formula").replace("costs=", "--cost")
    return re.sub(r"\b(\w+_per_\w+|params)=", _flag, message)


def _cost_flags(costs: re.Match[str]) -> str:
    return ", ".join(f"--cost {stage}=400k" for stage in re.findall(r"'(.+?)'", costs[1]))


def _flag(argument: re.Match[str]) -> str:
    return "--" + argument[1].replace("_", "-")


def _as_json(result: Simulation) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "made": result.made,
        "ended": result.ended,
        "schedule": [
            {
                "region": i.region,
                "stage": i.stage,
                "start": i.start,
                "end": i.end,
                "undone": i.undone,
            }
            for i in result.schedule
        ],
        "records": list(result.records),
    }


def _lines(result: Simulation) -> Iterable[str]:
    several = len({interval.region for interval in result.schedule}) > 1
    for interval in result.schedule:
        name = f"{interval.region}:{interval.stage}" if several else interval.stage
        undone = "  (undone)" if interval.undone else ""
        yield f"{interval.start:>9,} – {interval.end:>9,}  {name}{undone}"
    yield ""
    for record in result.records:
        happened = _happened(record)
        if happened is not None:
            yield f"{record['step']:>9,}  {happened}"
    yield ""
    ended = result.ended or "it did not come to an end"
    made = "" if result.made == result.steps else f" ({result.made:,} made)"
    yield f"{result.steps:,} steps{made}; {ended}"


def _happened(record: Mapping[str, Any]) -> str | None:
    """A record in a line; ``None`` for those that tell of values alone."""
    match record["type"]:
        case "move" if record["edge"] is not None:
            why = f"  {record['guard']}" if record["guard"] else ""
            return f"{record['source']} -> {record['target']}{why}"
        case "roll_back":
            return f"back to step {record['to']:,} ({record['snapshot']})"
        case "trial":
            return f"{record['stage']} {trial_words(record)}"
        case "blocked":
            return f"{record['edge']} is held back: {record['reason']}"
        case "reference":
            return f"a new reference for {', '.join(record['restarted'])}"
        case "unblocked":
            return f"{record['edge']} is not held back any more"
        case "error":
            return f"{record['action']} failed: {record['reason']}"
    return None
