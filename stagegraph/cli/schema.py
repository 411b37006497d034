"""``stagegraph schema``: the JSON Schema that editors complete and check with."""

from __future__ import annotations

import argparse
from pathlib import Path

from stagegraph.cli.output import say, say_json
from stagegraph.schema.json_schema import SCHEMA_NAME, json_schema, schema_text

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER|FILE",
        help=f"where to write it; in a folder it is called {SCHEMA_NAME}; default: standard output",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the schema."""
    if arguments.output is None:
        say_json(json_schema())
        return 0
    path = Path(arguments.output)
    if path.is_dir() or path.suffix != ".json":
        path = path / SCHEMA_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema_text(), encoding="utf-8", newline="\n")
    say(str(path))
    return 0
