"""``stagegraph schema``: the JSON Schema of a stage graph."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

from stagegraph.cli.output import say, say_json
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["FILE_NAME", "add_arguments", "run"]

FILE_NAME = "stagegraph.schema.json"


class _Generator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER|FILE",
        help=f"where to write it; in a folder it is called {FILE_NAME}; default: standard output",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the schema."""
    data = StageGraph.model_json_schema(schema_generator=_Generator)
    if arguments.output is None:
        say_json(data)
        return 0
    path = Path(arguments.output)
    if path.is_dir() or path.suffix != ".json":
        path = path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
    say(str(path))
    return 0
