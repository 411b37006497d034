"""One decision on all ranks, whatever each of them is told."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.engine.ranks import reduced
from stagegraph.errors import RankError
from tests.ranks.threads import ThreadGroup, on_threads

GRAPH = """
stagegraph: 1
name: metrics
budget: {steps: 60}
initial: a
events: [go]
metrics:
  loss: {goal: minimize}
  val: {goal: minimize, every: 3 steps}
  worst: {goal: minimize, reduce: max}
  flag: {goal: maximize, reduce: any}
  first: {goal: minimize, reduce: rank0}
stages:
  a:
    kind: train
    transitions:
      - {target: b, when: "val < 0.5"}
      - {target: c, when: "worst > 0.9"}
  b:
    kind: train
    transitions:
      - {target: c, when: "flag >= 1 or event(go)"}
      - {target: a, when: "first < 0.1"}
  c: {kind: train, duration: 5 steps, next: a}
"""


class Journal(list[Any]):
    def write(self, records: tuple[Any, ...]) -> None:
        self.extend(records)


def engine_of(group: ThreadGroup | None, text: str = GRAPH) -> tuple[sg.Engine, Journal]:
    engine, journal = sg.Engine(sg.load(text), group=group), Journal()
    engine.listen(journal)
    return engine, journal


def seen(journal: Journal) -> list[Any]:
    """The journal without the wall clock, the metrics of an update by name."""
    clocks = ("progress", "spent")
    kept = [{k: str(v) for k, v in one.items() if k not in clocks} for one in journal]
    kept = [one for one in kept if one["type"] not in ("reading", "vitals")]
    return sorted(kept, key=lambda one: (int(one["boundary"]), one["type"], one.get("name", "")))


@pytest.mark.parametrize(
    ("values", "how", "wanted"),
    [
        ([1.0, 2.0, None], "mean", 1.5),
        ([1.0, 2.0, None], "sum", 3.0),
        ([1.0, 2.0, None], "min", 1.0),
        ([1.0, 2.0, None], "max", 2.0),
        ([0.0, 2.0, None], "any", 1.0),
        ([0.0, 2.0, None], "all", 0.0),
        ([1.0, 2.0, None], "rank0", 1.0),
        ([None, 2.0, 3.0], "rank0", None),
        ([None, None, None], "mean", None),
        ([1.0, math.nan, 2.0], "min", math.nan),
        ([1.0, math.inf, 2.0], "any", math.nan),
        ([math.nan, 1.0, 2.0], "rank0", math.nan),
        ([1.0, math.nan, 2.0], "rank0", 1.0),
    ],
)
def test_a_metric_of_all_ranks_is_one_number(
    values: list[float | None], how: Any, wanted: float | None
) -> None:
    found = reduced([(int(v is not None), v or 0.0) for v in values], how)
    assert found == wanted or (wanted is not None and math.isnan(wanted) and math.isnan(found or 0))


def told(rank: int, number: int, seed: int) -> dict[str, float]:
    """What a rank is told with an update: each rank something else, some nothing, some NaN."""
    draw = random.Random(f"{seed}|{number}|{rank}")
    found: dict[str, float] = {}
    for name in ("loss", "worst", "flag", "first"):
        kind = draw.random()
        if kind < 0.8:
            found[name] = math.nan if kind < 0.1 else draw.random()
    return found


def run(seed: int, size: int) -> Callable[[ThreadGroup], Any]:
    def on_rank(group: ThreadGroup) -> Any:
        engine, journal = engine_of(group)
        draw = random.Random(f"{seed}|{group.rank}")
        number = 0
        while not engine.done:
            number += 1
            if draw.random() < 0.05:
                engine.send("go")
            engine.step(samples=group.rank + 1, **told(group.rank, number, seed))
            if engine.wants_evaluation and draw.random() < 0.7:
                engine.observe(**({"val": draw.random()} if draw.random() < 0.8 else {}))
            if draw.random() < 0.1:
                engine.observe(val=draw.random())  # late on some ranks, on time on others
        progress = engine.progress
        assert progress.samples == progress.step * size * (size + 1) // 2
        return seen(journal), engine.stages, progress.step

    return on_rank


@given(seed=st.integers(0, 10**9), size=st.sampled_from([2, 4]))
@settings(max_examples=25, deadline=None)
def test_ranks_with_different_metrics_decide_alike_and_none_waits_for_ever(
    seed: int, size: int
) -> None:
    found = on_threads(size, run(seed, size))
    assert not [one for one in found if isinstance(one, Exception)]
    assert all(one == found[0] for one in found)
    assert found[0][0], "nothing happened"


@pytest.mark.slow
@given(seed=st.integers(0, 10**9), size=st.sampled_from([2, 3, 4, 7]))
@settings(max_examples=600, deadline=None)
def test_ranks_decide_alike_in_many_runs(seed: int, size: int) -> None:
    found = on_threads(size, run(seed, size))
    assert all(not isinstance(one, Exception) and one == found[0] for one in found)


def test_ranks_that_are_told_the_same_decide_as_one_process_does() -> None:
    def drive(engine: sg.Engine) -> None:
        number = 0
        while not engine.done:
            number += 1
            engine.step(**told(0, number, 3))
            if engine.wants_evaluation:
                engine.observe(val=0.3 + 0.1 * (number % 5))

    text = GRAPH.replace(", reduce: any", "")
    alone, journal = engine_of(None, text)
    drive(alone)

    def on_rank(group: ThreadGroup) -> Any:
        engine, own = engine_of(group, text)
        drive(engine)
        return seen(own)

    assert on_threads(2, on_rank) == [seen(journal)] * 2


def test_an_evaluation_of_one_rank_alone_counts_for_all() -> None:
    def on_rank(group: ThreadGroup) -> Any:
        engine, _ = engine_of(group)
        for number in range(1, 5):
            engine.step()
            if engine.wants_evaluation and group.rank == 1:
                engine.observe(val=0.1)
            if number == 3 and group.rank != 1:
                assert engine.wants_evaluation
        return engine.stages

    assert on_threads(3, on_rank) == [{"main": "b"}] * 3


def test_a_fault_on_one_rank_is_raised_on_all_and_names_it() -> None:
    def on_rank(group: ThreadGroup) -> Any:
        engine, _ = engine_of(group)
        engine.step()
        bad = {"los": 1.0} if group.rank == 1 else {"loss": 1.0}
        try:
            engine.step(**bad)
        except sg.StageGraphError as error:
            engine.step(loss=2.0)  # nothing of the refused update counts
            return type(error).__name__, str(error), engine.progress.step

    first, second = on_threads(2, on_rank)
    assert first == (
        "RankError",
        "rank 1: metric 'los' is not declared in the graph's 'metrics'; did you mean 'loss'?",
        2,
    )
    assert second[0] == "MetricError"
    assert second[2] == 2


def test_ranks_at_different_places_are_told_so() -> None:
    def skewed(group: ThreadGroup) -> Any:
        engine, _ = engine_of(group)
        core = engine._core
        if group.rank:
            core.step()  # an update that the others do not hear of
        engine.step()

    first, second = on_threads(2, skewed)
    assert isinstance(first, RankError)
    assert isinstance(second, RankError)
    assert str(first) == (
        "the ranks are not at the same place: rank 0 is in step() at update 0, rank 1 is in step() "
        "at update 1; every rank must call step() once per update, and observe() where "
        "engine.wants_evaluation says so or not at all"
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"seed": 1}, "seed is 0 on rank 0 and 1 on rank 1"),
        ({"text": GRAPH.replace("0.5", "0.6")}, "graph is '"),
    ],
)
def test_ranks_that_begin_different_things_are_refused(
    arguments: dict[str, Any], what: str
) -> None:
    def on_rank(group: ThreadGroup) -> Any:
        own = arguments if group.rank else {}
        sg.Engine(sg.load(own.get("text", GRAPH)), group=group, seed=own.get("seed", 0))

    for error in on_threads(2, on_rank):
        assert isinstance(error, RankError)
        assert str(error).startswith(f"the ranks have begun different things: {what}")


def test_the_wall_clock_is_rank_0s(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    stagegraph: 1
    name: clock
    budget: {steps: 100}
    initial: a
    stages:
      a: {kind: train, duration: 10 s, next: b}
      b: {kind: train, duration: 50 steps, next: c}
      c: {kind: final}
    """
    import threading
    import time

    now = {0: 0.0, 1: 1000.0}
    monkeypatch.setattr(
        time, "monotonic", lambda: now.get(getattr(threading.current_thread(), "rank", -1), 0.0)
    )

    def on_rank(group: ThreadGroup) -> Any:
        threading.current_thread().rank = group.rank  # type: ignore[attr-defined]
        engine = sg.Engine(sg.load(text), group=group)
        moved = []
        for number in range(1, 9):
            now[group.rank] += 2.0 if group.rank == 0 else 100.0
            engine.step()
            if engine.stages == {"main": "b"}:
                moved.append(number)
        return moved[:1], engine.progress.seconds

    first, second = on_threads(2, on_rank)
    assert first == second == ([5], 16.0)


def test_an_update_makes_one_exchange() -> None:
    def on_rank(group: ThreadGroup) -> Any:
        engine, _ = engine_of(group)
        engine.start()
        before = group.calls
        for _ in range(2):
            engine.step(loss=1.0, samples=4)
        return group.calls - before

    assert on_threads(2, on_rank) == [2, 2]
