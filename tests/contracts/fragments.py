"""Fragments: the parts of a stage graph that a card shows, put into the smallest whole graph.

A fragment is whatever one would write somewhere in a document: a stage (``kind:``), an activity or
an action (``type:``), a list of these, a guard, or some keys of a stage or of the document.
"""

from __future__ import annotations

from typing import Any, get_args

from stagegraph.schema.activities import Activity
from stagegraph.schema.guards import GUARD_CALLS
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.yaml_reader import read_yaml

__all__ = ["as_graph", "tags"]

Data = Any


def tags(union: Any) -> dict[str, type]:
    """The models of a discriminated union by their ``type`` or ``kind``."""
    found: dict[str, type] = {}
    for member in _members(union):
        fields = getattr(member, "model_fields", {})
        for key in ("type", "kind"):
            if key in fields:
                found[get_args(fields[key].annotation)[0]] = member
    return found


def _members(union: Any) -> list[Any]:
    inner = get_args(union)
    if not inner:
        return [union]
    # Annotated[X, ...] and unions alike: look into what is a type, pass by what is a remark
    return [member for part in inner for member in _members(part) if isinstance(member, type)]


ACTIVITIES = frozenset(tags(Activity))

_CHANGES = (
    "deepen",
    "widen",
    "extend_vocab",
    "extend_context",
    "add_heads",
    "widen_head_dim",
    "attach",
    "upcycle",
    "add_experts",
    "add_head",
    "inherit",
    "regrow",
    "prune",
)
_METRICS = {
    "val_loss": {"goal": "minimize", "every": "50 steps"},
    "val_acc": {"goal": "maximize", "every": "50 steps"},
}
_DOCUMENT = frozenset(StageGraph.model_fields) | {"$schema"}


def as_graph(text: str) -> dict[str, Data]:
    """A document, or a fragment of one, as a whole document.

    Raises:
        AssertionError: The text is no YAML mapping or list.
    """
    reading = read_yaml(text)
    assert not reading.defects, reading.defects
    data = reading.data
    if isinstance(data, dict) and "stagegraph" in data:
        return data
    if isinstance(data, dict) and set(data) <= _DOCUMENT:
        around = _graph({}) | data
        drop = ("initial", "stages") if "regions" in data else ()
        return {key: value for key, value in around.items() if key not in drop}
    return _graph(_stage(data))


def _stage(data: Data) -> dict[str, Data]:
    """The stages around a fragment."""
    if isinstance(data, str):
        return _timed(transitions=[{"target": "done", "when": data}])
    if isinstance(data, list):
        kinds = {item.get("type") for item in data if isinstance(item, dict)}
        if any("target" in item for item in data if isinstance(item, dict)):
            return _timed(transitions=data)
        return _timed(during=data) if kinds & ACTIVITIES else _acting(data)
    assert isinstance(data, dict), f"nobody knows where to put {data!r}"
    if "kind" in data:
        return {"here": data}
    if data.get("type") in ACTIVITIES:
        return _timed(during=[data])
    if data.get("type") in GUARD_CALLS or data.get("type") in ("all", "any", "not", "compare"):
        return _timed(transitions=[{"target": "done", "when": data}])
    if "type" in data:
        return _acting([data])
    if "target" in data:
        return _timed(transitions=[data])
    if all(
        isinstance(value, dict) and ("kind" in value or "use" in value) for value in data.values()
    ):
        return data
    return _timed(**data)


def _timed(**keys: Data) -> dict[str, Data]:
    return {"here": {"kind": "train", "duration": "100 steps", "next": "done"} | keys}


def _acting(actions: list[Data]) -> dict[str, Data]:
    if any(action.get("type") in _CHANGES for action in actions):
        return {"here": {"kind": "grow", "actions": actions, "next": "done"}}
    return _timed(transitions=[{"target": "done", "actions": actions}])


def _graph(stages: dict[str, Data]) -> dict[str, Data]:
    stages = {**stages}
    initial = next(iter(stages), "done")
    stages.setdefault("done", {"kind": "final"})
    return {
        "stagegraph": 1,
        "name": "a fragment",
        "metrics": _METRICS,
        "initial": initial,
        "stages": stages,
    }
