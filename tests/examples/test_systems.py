"""Each way of training progressively that is promised: a document, the same in Python, a real run.

``SYSTEMS`` has the rows of docs/systems.md. Every graph is checked, made again from Python's own
data, run on a small model to its end, and cut where a stage has just been entered, twice;
among the slow tests after every update. What goes on from the folder as it was then is the same,
bit for bit.
"""

from __future__ import annotations

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
from stagegraph.runs.journal import read_journal
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
WINDOW = 4
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
    """Worse after the first growth, at 7,400, until it has been undone."""
    return falling(step) + (0.5 if 7900 < step <= 8400 else 0)


def slow(step: int) -> float:
    """A noise that hides every plateau."""
    return 2 + 3 * math.exp(-step / 900) + 0.02 * math.sin(step * 13)


def smaller() -> Mapping[str, Any]:
    """Weights of a model that is smaller in every way."""
    torch.manual_seed(7)
    return {"small": Model()}


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
        "grow-on-plateau", {"growth": 2, "roll_back": 1}, ("warmup", "anneal"), {"val_loss": hurt}
    ),
    4: System("grow-on-plateau", {"growth": 3}, ("warmup", "settle", "consolidate"), LOSS),
    5: System("zero-init-warmup", {"growth": 1}, ("warmup", "consolidate", "done")),
    6: System("lr-warmup", {"growth": 1}, ("warmup", "consolidate", "done")),
    7: System("alpha-ramp", {"growth": 1}, ("warmup", "consolidate", "done")),
    8: System("frozen-host", {"growth": 1}, ("alone", "together", "consolidate", "done")),
    9: System("settling", {"growth": 1}, ("warmup", "settle", "done"), LOSS),
    10: System("monitor-and-prune", {"growth": 1, "attribution": 1}, ("judge", "rest", "done")),
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
        ("warmup", "consolidate", "done"),
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
        "growing-too-slow", {"growth": 1}, ("warmup", "consolidate", "done"), {"val_loss": slow}
    ),
    20: System(
        "transition-shock",
        {"growth": 2},
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


LONG = {1, 4, 14}
"""Those that take longest: the scripts of the examples, other tests and row 3 run their like."""


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
    data = graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    of_models = sg.StageGraph(**{key: getattr(graph, key) for key in graph.model_fields_set})
    assert digest(sg.load(data)) == digest(of_models) == digest(sg.load(sg.dump(graph)))
    assert digest(of_models) == digest(graph)


def comes_through(stages: list[str], wanted: tuple[str, ...]) -> bool:
    left = iter(stages)
    return all(stage in left for stage in wanted)


class Cuts:
    """Copies of the folder, each with the digest of the run a few updates later.

    A cut is made where a stage is entered for the first time, the two that come after those that
    the run begins in; or after every update.
    """

    def __init__(self, home: Path, *, every: bool) -> None:
        self.digests: dict[int, str] = {}
        self._home = home
        self._every = every
        self._seen: set[str] = set()
        self._due: dict[int, int] = {}

    def folder(self, cut: int) -> Path:
        """The run as it was then."""
        return self._home / f"cut-{cut}"

    def after(self, run: Run) -> bool:
        """Look at a run after an update; it always goes on."""
        updates = run.updates
        for due in sorted(self._due):
            if due <= updates or run.engine.done:
                self.digests[self._due.pop(due)] = run.fingerprint()
        now = set(run.engine.stages.values())
        fresh = bool(self._seen) and not now <= self._seen and len([*self._due, *self.digests]) < 2
        self._seen |= now
        if (fresh or self._every) and not run.engine.done:
            shutil.copytree(
                run.folder, self.folder(updates), ignore=shutil.ignore_patterns(".status.json.*")
            )
            self._due[updates + WINDOW] = updates
        return False


def resumed(task: Task, folder: Path, cut: int) -> str:
    """The digest of a run that goes on from a copy: so many updates later, or at its end."""
    seen = ""

    def after(run: Run) -> bool:
        nonlocal seen
        seen = run.fingerprint()
        return run.updates >= cut + WINDOW

    task.live(folder, after)
    return seen


def lived(system: System, home: Path, *, every: bool) -> tuple[Run, Task, Cuts]:
    task, cuts = task_of(system), Cuts(home, every=every)
    run = task.live(home / "whole", cuts.after)
    return run, task, cuts


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(s, id=f"{n}-{s.graph}", marks=[pytest.mark.slow] if n in LONG else [])
        for n, s in SYSTEMS.items()
    ],
)
def test_it_runs_on_a_model_and_resumes_where_its_stages_begin(
    system: System, tmp_path: Path
) -> None:
    run, task, cuts = lived(system, tmp_path, every=False)
    assert (run.engine.ended, run.records.of("error")) == ("final", [])
    assert {kind: len(run.records.of(kind)) for kind in system.does} == system.does
    assert comes_through(shown(run), system.through), shown(run)
    assert all(math.isfinite(loss) for loss in run.losses)
    assert all(module.training for module in run.model.modules())
    assert len(cuts.digests) >= (1 if system.graph == "inherit-weights" else 2)
    for cut, whole in cuts.digests.items():
        assert resumed(task, cuts.folder(cut), cut) == whole, f"cut after update {cut}"


@pytest.mark.slow
def test_it_resumes_after_every_update(system: System, tmp_path: Path) -> None:
    _, task, cuts = lived(system, tmp_path, every=True)
    for cut, whole in cuts.digests.items():
        assert resumed(task, cuts.folder(cut), cut) == whole, f"cut after update {cut}"


def test_the_page_has_a_row_for_each_with_its_graph() -> None:
    rows = re.findall(
        r"^\| (\d+) \|.*?graphs/([\w-]+)\.yaml", PAGE.read_text("utf-8"), re.MULTILINE
    )
    told = {int(number): graph for number, graph in rows}
    assert sorted(told) == list(range(1, 22))
    assert {number: told[number] for number in SYSTEMS} == {n: s.graph for n, s in SYSTEMS.items()}


# The checklist: what is left out is told by name


def without(*places: str, **instead: Any) -> Callable[[dict[str, Any]], None]:
    """Take out what is at these places, and put others in."""

    def edit(document: dict[str, Any]) -> None:
        for place in places:
            *way, last = place.split("/")
            here: Any = document
            for key in way:
                here = here[int(key)] if isinstance(here, list) else here[key]
            if isinstance(here, list):
                here.pop(int(last))
            else:
                del here[last]
        for stage, after in instead.items():
            document["stages"][stage]["next"] = after

    return edit


def endless(document: dict[str, Any]) -> None:
    """Neither a budget nor a number of growths nor a final stage."""
    del document["budget"]
    train = document["stages"]["train"]
    train["transitions"] = [{"target": "grow", "when": "plateau(val_loss, worth=0.5%)"}]
    del document["stages"]["anneal"], document["stages"]["done"]


def at_any_number(document: dict[str, Any]) -> None:
    """A budget of neither parameters nor updates, and no number of growths."""
    del document["budget"]
    document["stages"]["train"]["transitions"] = [
        {"target": "grow", "when": "plateau(val_loss, worth=0.5%, over=2k steps)"},
        {"target": "anneal", "when": "val_loss < 0.1"},
    ]


FORGOTTEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "trigger": (without("stages/train/transitions/0"), "unreachable-stage"),
    "warm-up": (without("stages/warmup", grow="settle"), "growth-without-warmup"),
    "transfer": (without("stages/warmup/during/2"), "growth-without-transfer"),
    "teacher": (without("stages/grow/actions/1"), "unknown-teacher"),
    "consolidation": (
        without("stages/consolidate", "interrupts/0", settle="train"),
        "growth-without-consolidation",
    ),
    "monitor": (without("interrupts"), "no-monitor"),
    "transition": (
        without("stages/settle", "interrupts/0/within/0", warmup="consolidate"),
        "growth-without-settling",
    ),
    "stopping rule": (endless, "no-end"),
    "number of growths": (at_any_number, "unbounded-growth"),
    "metric of the log": (without("metrics"), "undeclared-metric"),
    "rate of the log": (without("metrics/val_loss/every"), "metric-without-every"),
}


@pytest.mark.parametrize("item", FORGOTTEN)
def test_what_a_growing_graph_forgets_is_told_by_name(item: str) -> None:
    edit, code = FORGOTTEN[item]
    document = sg.load(GRAPHS / "checklist.yaml").model_dump(
        mode="json", by_alias=True, exclude_defaults=True
    )
    assert sg.check(sg.load(document)) == []
    edit(document)
    assert code in {finding.code for finding in sg.check(sg.load(document))}


def test_each_transition_and_each_metric_is_in_the_log(tmp_path: Path) -> None:
    run = task_of(SYSTEMS[21]).live(tmp_path / "run", lambda run: False)
    kept = read_journal(tmp_path / "run" / "journal.jsonl")
    moves = [record["target"] for record in kept if record["type"] == "move"]
    assert moves == [record["target"] for record in run.records.of("move")]
    values = [r for r in kept if r["type"] == "metric" and r["name"] == "val_loss"]
    assert len(values) == len(run.losses)
