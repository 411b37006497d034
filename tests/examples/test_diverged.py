"""A growth after which a metric is NaN or infinite is answered as any other bad growth is.

Such a value is unknown to every comparison with one before, and unknown survives ``not``: neither
``regressed`` nor ``not recovered`` opens. The graphs and templates ask for it by its own name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import stagegraph as sg
from stagegraph.graph.compile import compile_graph
from tests.examples.staging import (
    GRAPHS,
    SHORTER,
    Curve,
    Model,
    Run,
    Task,
    falling,
    noisy,
    shortened,
    shown,
)
from tests.examples.test_systems import Cuts, norm, resumed, rising

ROOM = "2000"


@dataclass
class Diverging:
    """A run whose metric is broken as long as the model is larger than it was.

    Args:
        graph: The document.
        metric: What breaks, and what it is before.
        does: How many growths and how many rollbacks the run has.
        through: Stages that it comes through, in this order.
        beside: Metrics that stay whole.
        broken: NaN, or infinite.
        ends: How many blocks there are at the end.
    """

    graph: str
    metric: tuple[str, Curve]
    does: tuple[int, int]
    through: tuple[str, ...]
    beside: dict[str, Curve] = field(default_factory=dict)
    broken: float = math.nan
    ends: int = 1

    def task(self) -> Task:
        name, curve = self.metric
        models: list[Model] = []

        def fresh() -> Model:
            models.append(Model())
            return models[-1]

        def value(step: int) -> float:
            return curve(step) if len(models[-1].blocks) == 1 else self.broken

        text = (GRAPHS / f"{self.graph}.yaml").read_text("utf-8")
        return Task(shortened(text, params=ROOM), {name: value, **self.beside}, model=fresh)


SHOCK = Diverging(
    "transition-shock",
    ("val_acc", rising),
    (2, 2),
    ("settle", "consolidate", "heal", "look_again", "train", "settle", "look_again", "train"),
)
TOO_FAST = Diverging(
    "growing-too-fast",
    ("val_loss", noisy),
    (2, 2),
    ("warmup", "retry", "long_warmup", "train", "anneal"),
    beside={"grad_norm": norm},
)
CYCLE = Diverging(
    "grow-cycle",
    ("val_loss", falling),
    (1, 1),
    ("deeper.warmup", "deeper.settle", "deeper.undone", "rest"),
    broken=math.inf,
)
TOO_SLOW = Diverging(  # its answer to a growth that does not help is to grow no more
    "growing-too-slow",
    ("val_loss", falling),
    (1, 0),
    ("warmup", "consolidate", "train", "anneal"),
    ends=3,
)
RUNS = [
    pytest.param(SHOCK, id=SHOCK.graph, marks=pytest.mark.slow),
    *(pytest.param(one, id=one.graph) for one in (TOO_FAST, CYCLE, TOO_SLOW)),
]


def comes_through(run: Run, wanted: tuple[str, ...]) -> bool:
    left = iter(shown(run))
    return all(stage in left for stage in wanted)


@pytest.mark.parametrize("system", RUNS)
def test_a_growth_that_diverged_is_answered_on_a_model(system: Diverging, tmp_path: Path) -> None:
    run = system.task().live(tmp_path, lambda run: run.updates > 900)
    assert (run.engine.ended, run.records.of("error")) == ("final", [])
    growths, rollbacks = (len(run.records.of(kind)) for kind in ("growth", "roll_back"))
    assert (growths, rollbacks) == system.does
    assert comes_through(run, system.through), shown(run)
    assert len(run.model.blocks) == system.ends
    if system is TOO_SLOW:
        (anneal,) = [r for r in run.records.of("move") if r["target"] == "main:anneal"]
        assert "nonfinite" in anneal["guard"], "and not because the updates are used up"


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(False, id="where-stages-begin"),
        pytest.param(True, id="every", marks=pytest.mark.slow),
    ],
)
def test_it_resumes_after_an_update(every: bool, tmp_path: Path) -> None:
    task, cuts = CYCLE.task(), Cuts(tmp_path, every=every)
    task.live(tmp_path / "whole", cuts.after)
    assert len(cuts.digests) > 90 if every else len(cuts.digests) == 2
    for cut, whole in cuts.digests.items():
        assert resumed(task, cuts.folder(cut), cut) == whole, f"cut after update {cut}"


def simulated(graph: sg.StageGraph, curve: Curve) -> list[tuple[str, int]]:
    """The growths and rollbacks of a run without a model, each with its update."""
    compiled, _ = compile_graph(graph)
    plan = sg.simulate(
        graph,
        metrics={name: lambda step: curve(step * SHORTER) for name in graph.metrics},
        params=1000,
        costs={place: 40_000 for stage in compiled.stages.values() for place in stage.priced},
        steps_per_epoch=1,
        flops_per_step=1,
    )
    kinds = {"facts": "growth", "roll_back": "roll_back"}
    return [(kinds[r["type"]], r["step"]) for r in plan.records if r["type"] in kinds]


@pytest.mark.parametrize(
    "name",
    [
        *("checklist", "grow-on-plateau", "largest-that-fits", "monitor-and-prune"),
        *("next-growth", "overlapping-growths", "sequential-growths"),
    ],
)
def test_every_graph_that_undoes_a_growth_undoes_one_that_diverged(name: str) -> None:
    graph = shortened((GRAPHS / f"{name}.yaml").read_text("utf-8"))
    well = simulated(graph, falling)
    assert {kind for kind, _ in well} == {"growth"}
    grown = well[1][1] * SHORTER  # the first tells how many parameters there are
    broken = simulated(graph, lambda step: falling(step) if step <= grown else math.nan)
    assert "roll_back" in dict(broken), broken
