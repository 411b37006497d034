"""Laws of every plateau, whatever is observed."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.engine.plateau import (
    BINS,
    PatienceMemory,
    PatienceSpec,
    PlateauMemory,
    PlateauSpec,
    fresh,
    observe,
)

goals = st.sampled_from(["minimize", "maximize"])
worth_specs = st.builds(
    PlateauSpec,
    goal=goals,
    worth=st.floats(1e-4, 0.5),
    span=st.floats(1.0, 50.0),
    confirm=st.integers(1, 4),
    min_observations=st.integers(6, 12),
)
patience_specs = st.builds(
    PatienceSpec, goal=goals, span=st.floats(1.0, 20.0), delta=st.floats(0, 0.1)
)
gaps = st.one_of(st.floats(0, 8), st.sampled_from([0.0, 1.0, 2.5, 100.0]))
calm = st.floats(1.9, 2.1)
wild = st.floats(allow_nan=False, allow_infinity=False)


def streams(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, float]]]:
    """Observations at irregular, sometimes equal, progress."""

    def lay(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
        at, points = 0.0, []
        for gap, value in steps:
            at += gap
            points.append((at, value))
        return points

    return st.lists(st.tuples(gaps, values), max_size=80).map(lay)


Memory = PlateauMemory | PatienceMemory
Spec = PlateauSpec | PatienceSpec


def step(memory: Memory, spec: Spec, at: float, value: float) -> Memory:
    if isinstance(memory, PlateauMemory):
        assert isinstance(spec, PlateauSpec)
        return observe(memory, spec, at, value)
    assert isinstance(spec, PatienceSpec)
    return observe(memory, spec, at, value)


def told(spec: Spec, points: list[tuple[float, float]]) -> list[tuple[str, int]]:
    memory: Memory = fresh(spec)
    answers: list[tuple[str, int]] = []
    for at, value in points:
        memory = step(memory, spec, at, value)
        answers.append((memory.verdict, memory.confirmed))
    return answers


@given(st.one_of(worth_specs, patience_specs), st.one_of(streams(calm), streams(wild)))
def test_memory_survives_json_at_every_cut(spec: Spec, points: list[tuple[float, float]]) -> None:
    whole: Memory = fresh(spec)
    cut: Memory = fresh(spec)
    for at, value in points:
        text = json.dumps(cut.to_json())
        cut = type(cut).from_json(json.loads(text))
        assert json.dumps(cut.to_json()) == text
        whole, cut = step(whole, spec, at, value), step(cut, spec, at, value)
        assert cut == whole
        assert (cut.verdict, cut.truth) == (whole.verdict, whole.truth)


@given(worth_specs, streams(wild))
def test_memory_is_bounded_and_evidence_is_json(
    spec: PlateauSpec, points: list[tuple[float, float]]
) -> None:
    memory = fresh(spec)
    for at, value in points:
        memory = observe(memory, spec, at, value)
        assert len(memory.closed) <= BINS + 1
        assert 0 <= memory.confirmed <= spec.confirm
        assert memory.truth is {"plateau": True, "improving": False}.get(memory.verdict)
        json.dumps(memory.evidence(spec), allow_nan=False)


@given(st.one_of(worth_specs, patience_specs), streams(calm), st.integers(-30, 30))
def test_scale_changes_no_answer(
    spec: Spec, points: list[tuple[float, float]], exponent: int
) -> None:
    scaled = [(at, math.ldexp(value, exponent)) for at, value in points]
    assert told(spec, scaled) == told(spec, points)


@given(worth_specs, streams(calm))
def test_maximize_of_the_negative_gives_the_same_answers(
    spec: PlateauSpec, points: list[tuple[float, float]]
) -> None:
    other = PlateauSpec(
        "maximize" if spec.goal == "minimize" else "minimize",
        spec.worth,
        spec.span,
        spec.confirm,
        spec.confidence,
        spec.min_observations,
    )
    assert told(other, [(at, -value) for at, value in points]) == told(spec, points)


@settings(max_examples=30)
@given(
    every=st.floats(1.0, 25.0),
    density=st.integers(1, 20),
    decay=st.floats(50.0, 1000.0),
    floor=st.floats(0.1, 2.0),
)
def test_density_moves_the_decision_on_a_smooth_curve_by_at_most_a_window(
    every: float, density: int, decay: float, floor: float
) -> None:
    spec = PlateauSpec("minimize", worth=0.02, span=200.0)

    def fired(distance: float) -> float:
        memory, at = fresh(spec), 0.0
        while not memory.truth:
            at += distance
            memory = observe(memory, spec, at, floor + math.exp(-at / decay))
        return at

    assert abs(fired(every) - fired(every / density)) <= spec.span
