"""Parts: everything that must be the same in a resumed run, by name, each as a fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.randomness import RandomState
from stagegraph.testing.fingerprints import fingerprint

__all__ = [
    "Kind",
    "Part",
    "Reading",
    "read_engine",
    "read_model",
    "read_optimizers",
    "read_random",
    "read_state",
]


class Kind(StrEnum):
    """What a part belongs to; those that explain the others come first."""

    WATCHED = "watched"
    FOUND = "found"
    POSITION = "position"
    BATCHES = "batches"
    RANDOM = "random"
    COMPANION = "companion"
    GROUP = "group"
    DECISION = "decision"
    ENGINE = "engine"
    MODE = "mode"
    BUFFER = "buffer"
    WEIGHT = "weight"
    STATE = "state"
    EMA = "ema"
    HINT = "hint"
    """A number kept in Python: it may differ; where something else does, it may be why."""


class Part(NamedTuple):
    """One part and its name for people."""

    kind: Kind
    name: str


Reading = dict[Part, str]
"""What a run was at one instant."""

_MEASURED = frozenset({"seconds", "peak_bytes"})
"""What is read from the clock or the system, and never the same twice."""


def read_model(model: nn.Module) -> Iterator[tuple[Part, str]]:
    """Weights, buffers (those that are not saved too), what is trained, and which mode it is in."""
    for name, parameter in model.named_parameters():
        yield Part(Kind.WEIGHT, f"weight {name}"), fingerprint(parameter)
        yield Part(Kind.MODE, f"requires_grad of {name}"), str(parameter.requires_grad)
    for name, buffer in model.named_buffers():
        yield Part(Kind.BUFFER, f"buffer {name}"), fingerprint(buffer)
    for name, module in model.named_modules():
        yield Part(Kind.MODE, f"training mode of {name or 'the model'}"), str(module.training)
        for key, value in vars(module).items():
            if type(value) in (int, float) and not key.startswith("_"):
                path = f"{name}.{key}" if name else key
                yield Part(Kind.HINT, f"the attribute {path} of the model"), repr(value)


def read_optimizers(
    optimizers: Sequence[Optimizer], model: nn.Module
) -> Iterator[tuple[Part, str]]:
    """State by weight and entry, settings by group."""
    names = {id(p): name for name, p in model.named_parameters()}
    for place, given in enumerate(optimizers):
        optimizer = innermost(given)
        label = "optimizer" if len(optimizers) == 1 else f"optimizer {place}"
        foreign = 0
        for number, group in enumerate(optimizer.param_groups):
            members = [
                names.get(id(p), "a weight that is not the model's") for p in group["params"]
            ]
            yield Part(Kind.GROUP, f"weights of {label} group {number}"), fingerprint(members)
            for key, value in group.items():
                if key not in ("params", "param_names"):
                    part = Part(Kind.GROUP, f"{key} of {label} group {number}")
                    yield part, fingerprint(value)
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is None:
                    name, foreign = f"foreign weight {foreign}", foreign + 1
                    yield Part(Kind.WEIGHT, f"{name} of {label}"), fingerprint(parameter)
                for key, value in optimizer.state.get(parameter, {}).items():
                    part = Part(Kind.STATE, f"{label} state {key} of {name}")
                    yield part, fingerprint(value)


def read_state(kind: Kind, name: str, state: Any) -> Iterator[tuple[Part, str]]:
    """The state of whatever has one, by its own keys."""
    if not isinstance(state, Mapping) or not state:
        yield Part(kind, name), fingerprint(state)
        return
    for key, value in state.items():
        yield Part(kind, f"{name}: {key}"), fingerprint(value)


def read_random() -> Iterator[tuple[Part, str]]:
    """What every global generator would draw next."""
    state = RandomState.capture()
    yield Part(Kind.RANDOM, "Python's random numbers"), fingerprint(state.python)
    if state.numpy is not None:
        yield Part(Kind.RANDOM, "numpy's random numbers"), fingerprint(state.numpy)
    yield Part(Kind.RANDOM, "torch's random numbers"), fingerprint(state.cpu)
    for device, one in enumerate(state.cuda):
        yield Part(Kind.RANDOM, f"torch's random numbers on cuda:{device}"), fingerprint(one)


def read_engine(
    state: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Part, str]]:
    """The engine's own state, and what it has recorded since the last update."""
    for home in ("engine", "actor"):
        for key, value in state[home].items():
            part = Part(Kind.ENGINE, f"the engine's {key.replace('_', ' ')}")
            yield part, fingerprint(without_measures(value))
    yield Part(Kind.ENGINE, "the engine's reading of epochs"), state["reading"]
    counts: dict[str, int] = {}
    for record in decisions:
        title = _title(record)
        counts[title] = counts.get(title, 0) + 1
        name = title if counts[title] == 1 else f"{title} ({counts[title]})"
        told = without_measures(record)
        value = told.get("value") if record["type"] == "metric" else told
        yield Part(Kind.DECISION, name), fingerprint(value)


def _title(record: Mapping[str, Any]) -> str:
    match record["type"]:
        case "metric":
            return f"metric {record['name']!r}"
        case "move":
            return f"the move to {record['target']}"
        case kind:
            return f"the record of a {kind.replace('_', ' ')}"


def without_measures(data: Any) -> Any:
    """JSON data without times and memory."""
    if isinstance(data, Mapping):
        left_out = _MEASURED | {"how"} if "peak_bytes" in data else _MEASURED
        return {k: without_measures(v) for k, v in data.items() if k not in left_out}
    return [without_measures(one) for one in data] if isinstance(data, list | tuple) else data
