"""Small graphs from data files, and what the checks say of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from stagegraph.graph.check import check
from stagegraph.graph.findings import Finding
from stagegraph.schema.load import load

FINDINGS = Path(__file__).parents[1] / "data" / "findings"
VALID = Path(__file__).parents[1] / "data" / "valid"


def read_case(path: Path) -> dict[str, Any]:
    """A failing graph, what is found in it, and the change that mends it."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def mended(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A document with the values at some JSON pointers replaced."""
    data = copy.deepcopy(data)
    for pointer, value in changes.items():
        *parents, last = pointer.split("/")[1:]
        here: Any = data
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, list):
            here[last] = value
        elif int(last) == len(here):
            here.append(value)
        else:
            here[int(last)] = value
    return data


def findings(data: dict[str, Any]) -> list[Finding]:
    """What the checks find in a document without its first two keys."""
    return check(load({"stagegraph": 1, "name": "test", **data}))
