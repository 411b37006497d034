"""dump, canonical, digest: a StageGraph as text, and what it means as one number.

Text keeps the meaning, not the spelling: guards are written as strings, what equals its default
is left out, comments are gone. The canonical form is the same for all spellings of one graph.
"""

from __future__ import annotations

import hashlib
import json
import pprint
from typing import Any, Literal

from stagegraph.errors import UnsupportedError, did_you_mean
from stagegraph.progress import Duration
from stagegraph.schema.base import FrozenMap, Model
from stagegraph.schema.expressions import EXPRESSION_CALLS, Arithmetic, NameExpr, Negative
from stagegraph.schema.guard_text import MAX_LENGTH, format_guard, parse_expression, parse_guard
from stagegraph.schema.guards import GUARD_CALLS, All, Any_, Compare, Not
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.yaml_writer import write_yaml

__all__ = ["canonical", "digest", "dump"]

_GUARDS: tuple[type[Model], ...] = (Compare, All, Any_, Not, *GUARD_CALLS.values())
_EXPRESSIONS: tuple[type[Model], ...] = (
    Arithmetic,
    NameExpr,
    Negative,
    *EXPRESSION_CALLS.values(),
)
_ORDER = {
    **dict.fromkeys(("type", "kind", "use"), 0),
    "name": 1,
    **dict.fromkeys(("initial", "metric", "target", "of", "within"), 2),
    "when": 3,
    "min_duration": 6,
    "duration": 7,
    "next": 8,
    "note": 9,
}
"""Where the keys of a mapping stand, but for those of the whole graph."""

_LARGEST_EXACT = 2**53

_PYTHON = """\
import stagegraph as sg

graph = sg.load(
{data}
)
"""


def dump(graph: StageGraph, form: Literal["yaml", "json", "python"] = "yaml") -> str:
    """Write a graph as a text that :func:`stagegraph.load` reads back as an equal graph.

    >>> from stagegraph.schema.load import load
    >>> graph = load({"stagegraph": 1, "name": "on", "initial": "a", "stages": {
    ...     "a": {"kind": "train", "transitions": [{"target": "b", "when": "(loss) < 5%"}]},
    ...     "b": {"kind": "final"}}})
    >>> print(dump(graph), end="")
    stagegraph: 1
    name: 'on'
    initial: a
    stages:
      a:
        kind: train
        transitions:
          - {target: b, when: loss < 0.05}
      b: {kind: final}

    Args:
        graph: The graph.
        form: ``yaml``, ``json``, or ``python``: a program that makes the graph.

    Raises:
        UnsupportedError: There is no such form.
    """
    data = _plain(graph, readable=True)
    if form == "yaml":
        return write_yaml(data)
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "python":
        text = pprint.pformat(data, width=95, sort_dicts=False)
        return _PYTHON.format(data="    " + text.replace("\n", "\n    "))
    known = did_you_mean(form, ["yaml", "json", "python"])
    raise UnsupportedError(f"a graph cannot be written as {form!r}{known}")


def canonical(graph: StageGraph) -> str:
    """The canonical JSON of a graph: the same for all spellings of the same meaning.

    Keys are sorted, guards are trees, defaults and ``$schema`` are left out.
    """
    data = _plain(graph, readable=False)
    data.pop("$schema", None)
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(graph: StageGraph) -> str:
    """The SHA-256 of the canonical form, in hexadecimal.

    >>> from stagegraph.schema.load import load
    >>> text = "{stagegraph: 1, name: %s, initial: a, stages: {a: {kind: final}}}"
    >>> digest(load(text % "x")) == digest(load(text % '"x"'))
    True
    """
    return hashlib.sha256(canonical(graph).encode()).hexdigest()


def _plain(value: Any, *, readable: bool) -> Any:
    match value:
        case Duration():
            return str(value)
        case Model():
            return (_spelt(value) if readable else None) or _fields(value, readable=readable)
        case FrozenMap():
            return {key: _plain(item, readable=readable) for key, item in value.items()}
        case tuple():
            return [_plain(item, readable=readable) for item in value]
        case float() if value.is_integer() and abs(value) <= _LARGEST_EXACT:
            return int(value)
        case _:
            return value


def _fields(model: Model, *, readable: bool) -> dict[str, Any]:
    """The fields that differ from their defaults; what the model is comes first."""
    infos = sorted(type(model).model_fields.items(), key=lambda item: _ORDER.get(item[0], 5))
    if isinstance(model, StageGraph):
        infos = list(type(model).model_fields.items())
    data: dict[str, Any] = {}
    for name, info in infos:
        value = getattr(model, name)
        if isinstance(model, StageGraph) and name == "max_overlap":
            if value != model.default_overlap:
                data[name] = value
            continue
        if info.is_required() or value != info.get_default():
            if readable and name == "of" and isinstance(value, tuple) and len(value) == 1:
                value = value[0]
            data[info.alias or name] = _plain(value, readable=readable)
    return data


def _spelt(model: Model) -> str | None:
    """A guard or expression as a string, if that reads back as the same tree."""
    if not isinstance(model, _GUARDS + _EXPRESSIONS):
        return None
    text = format_guard(model)
    if len(text) > MAX_LENGTH:
        return None
    try:
        read = parse_guard(text) if isinstance(model, _GUARDS) else parse_expression(text)
    except ValueError:
        return None
    return text if read == model else None
