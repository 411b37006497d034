"""Each way of training progressively that is promised: a document, the same in Python, a real run.

``SYSTEMS`` has the rows of docs/systems.md. Every graph is checked, made again from Python's own
data, run on a small model to its end, and cut where it has just entered each of its stages; the run
that goes on from the folder as it was then is the same, bit for bit.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import stagegraph as sg
from stagegraph.schema.dump import digest
from tests.examples.staging import (
    GRAPHS,
    Curve,
    Model,
    Run,
    Task,
    falling,
    noisy,
    shortened,
    shown,
)

PAGE = Path(__file__).parents[2] / "docs" / "systems.md"
WINDOW = 6
"""How many updates a run that was cut is followed for."""


def rising(step: int) -> float:
    return 0.9 - 30 / (step + 100)


def shocked(step: int) -> float:
    """Worse from the growth on, for so long that it is given a teacher, and heals."""
    return rising(step) - (0.2 if 4000 < step < 8000 else 0)


def spoiled(step: int) -> float:
    """Far worse after the growth at 6,800."""
    return noisy(step) + (0.8 if 7000 <= step <= 7800 else 0)


def norm(step: int) -> float:
    return 1 + 0.1 * math.sin(step)


def hurt(step: int) -> float:
    """Worse after the first growth, which is at 6,800, until after its undoing."""
    return falling(step) + (0.5 if 7300 < step <= 7900 else 0)


def slow(step: int) -> float:
    """A noise that hides every plateau."""
    return 2 + 3 * math.exp(-step / 900) + 0.02 * math.sin(step * 13)


def smaller() -> Mapping[str, Any]:
    """Weights of a model that is smaller in every way."""
    torch.manual_seed(7)
    return {"small": Model(blocks=1)}


LOSS = {"val_loss": falling}


@dataclass(frozen=True)
class System:
    """A row.

    Args:
        graph: The document.
        does: Which records its run has, and how many of each.
        through: Stages that it comes through, in this order.
        curves: The metrics.
        room: Another budget of parameters, for a small model.
        model: What makes the model.
        parts: What the graph names and only code can give.
    """

    graph: str
    does: Mapping[str, int]
    through: tuple[str, ...] = ()
    curves: Mapping[str, Curve] | None = None
    room: str = "2000"
    model: Callable[[], Model] = Model
    parts: Callable[[], Mapping[str, Any]] = dict


SYSTEMS = {
    1: System(
        "combined-curriculum",
        {"growth": 3},
        ("data:hard", "arch:warmup", "data:easy", "arch:consolidate", "data:hard", "arch:done"),
        LOSS,
    ),
    2: System("next-growth", {"growth": 3}, ("warmup", "consolidate", "anneal", "done"), LOSS),
    3: System(
        "grow-on-plateau", {"growth": 4, "roll_back": 1}, ("warmup", "anneal"), {"val_loss": hurt}
    ),
    4: System("grow-on-plateau", {"growth": 3}, ("warmup", "settle", "consolidate"), LOSS),
    5: System("zero-init-warmup", {"growth": 1}, ("warmup", "consolidate", "done")),
    6: System("lr-warmup", {"growth": 1}, ("warmup", "consolidate", "done")),
    7: System("alpha-ramp", {"growth": 1}, ("warmup", "consolidate", "done")),
    8: System("frozen-host", {"growth": 1}, ("alone", "together", "consolidate", "done")),
    9: System("settling", {"growth": 1}, ("warmup", "settle", "done"), LOSS),
    11: System("consolidation", {"growth": 2}, ("consolidate", "train", "consolidate", "done")),
    12: System(
        "sequential-stages",
        {"growth": 2},
        ("blend", "consolidate_depth", "deep", "ease", "consolidate_width", "wide", "done"),
        LOSS,
    ),
    13: System(
        "depth-overlapped-by-width",
        {"growth": 2},
        ("depth:consolidate", "width:warmup", "depth:done", "width:done"),
        LOSS,
    ),
    14: System("largest-that-fits", {"growth": 3}, ("warmup", "consolidate", "anneal"), LOSS),
    15: System(
        "inherit-weights",
        {"growth": 1},
        ("wait", "warmup", "consolidate", "done"),
        LOSS,
        model=lambda: Model(blocks=2),
        parts=smaller,
    ),
    16: System("stage-distillation", {"growth": 2}, ("middle", "settled", "large", "end", "done")),
    17: System("shared-backbone", {"growth": 1}, ("coarse", "alone", "fine", "done")),
    18: System(
        "growing-too-fast",
        {"growth": 2, "roll_back": 1},
        ("warmup", "consolidate", "retry", "long_warmup", "done"),
        {"val_loss": spoiled, "grad_norm": norm},
    ),
    19: System(
        "growing-too-slow", {"growth": 2}, ("warmup", "consolidate", "done"), {"val_loss": slow}
    ),
    20: System(
        "transition-shock",
        {"growth": 1},
        ("settle", "consolidate", "heal", "look_again"),
        {"val_acc": shocked},
    ),
    21: System(
        "checklist",
        {"growth": 2},
        ("warmup", "settle", "consolidate", "train", "warmup", "anneal", "done"),
        LOSS,
    ),
}


@pytest.fixture(params=SYSTEMS.values(), ids=[f"{n}-{s.graph}" for n, s in SYSTEMS.items()])
def system(request: pytest.FixtureRequest) -> System:
    """Each row."""
    found: System = request.param
    return found


def text_of(system: System) -> str:
    return (GRAPHS / f"{system.graph}.yaml").read_text("utf-8")


def task_of(system: System) -> Task:
    graph = shortened(text_of(system), params=system.room)
    return Task(graph, system.curves or {}, model=system.model, parts=system.parts)


def test_it_is_checked_without_error_or_unwaived_warning(system: System) -> None:
    found = sg.check(sg.load(text_of(system)))
    assert [str(f) for f in found if f.severity != "note" and f.waived is None] == []


def test_the_same_graph_is_made_of_pythons_own_data(system: System) -> None:
    graph = sg.load(text_of(system))
    by_hand = graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    of_text = sg.load(json.loads(json.dumps(sg.load(sg.dump(graph)).model_dump(mode="json", by_alias=True))))
    assert digest(sg.load(by_hand)) == digest(of_text) == digest(graph)


def comes_through(stages: list[str], wanted: tuple[str, ...]) -> bool:
    left = iter(stages)
    return all(stage in left for stage in wanted)


class Cuts:
    """Copies of the folder, each with the digest of the run some updates later."""

    def __init__(self, home: Path, at_most: int) -> None:
        self.digests: dict[int, str] = {}
        self._home = home
        self._at_most = at_most
        self._entered: set[str] = set()
        self._due: dict[int, int] = {}

    def folder(self, cut: int) -> Path:
        return self._home / f"cut-{cut}"

    def after(self, run: Run) -> bool:
        updates = run.updates
        for cut in self._due.pop(updates, ()) and [self._due_of(updates)]:
            self.digests[cut] = run.fingerprint()
        return False
