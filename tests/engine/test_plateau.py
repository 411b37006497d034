"""What a plateau answers, case by case."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable

import pytest

from stagegraph.engine.plateau import (
    BINS,
    PatienceMemory,
    PatienceSpec,
    PlateauMemory,
    PlateauSpec,
    fresh,
    observe,
)

SPEC = PlateauSpec("minimize", worth=0.04, span=200.0)


def feed(
    spec: PlateauSpec,
    points: Iterable[tuple[float, float]],
    memory: PlateauMemory | None = None,
) -> list[PlateauMemory]:
    """The memory after each observation."""
    memory = fresh(spec) if memory is None else memory
    memories = []
    for at, value in points:
        memory = observe(memory, spec, at, value)
        memories.append(memory)
    return memories


def curve(
    shape: Callable[[float], float], until: float, every: float, noise: float = 0.0, seed: int = 0
) -> list[tuple[float, float]]:
    """Observations of a shape with relative noise."""
    rng = random.Random(seed)
    steps = int(until / every)
    return [
        (i * every, shape(i * every) * (1 + noise * rng.gauss(0, 1))) for i in range(1, steps + 1)
    ]


def fired(spec: PlateauSpec, points: list[tuple[float, float]]) -> float | None:
    """Progress at which the plateau was first told."""
    for (at, _), memory in zip(points, feed(spec, points), strict=True):
        if memory.truth:
            return at
    return None


def test_plateau_waits_until_the_window_is_full() -> None:
    memories = feed(SPEC, curve(lambda _: 2.0, 400, 25))
    assert [m.verdict for m in memories[:10]] == ["waiting"] * 7 + ["cannot tell"] * 2 + ["plateau"]
    assert [m.confirmed for m in memories[6:11]] == [0, 1, 2, 3, 3]
    assert memories[6].truth is None
    assert memories[9].truth is True


def test_plateau_is_false_while_the_metric_improves() -> None:
    memories = feed(SPEC, curve(lambda t: 2 * math.exp(-0.08 * t / 200), 1000, 25, 0.002))
    assert {m.verdict for m in memories[7:]} == {"improving"}
    assert memories[-1].truth is False
    assert memories[-1].evidence(SPEC)["rate"] == pytest.approx(0.08, rel=0.1)


def test_improvement_under_worth_is_a_plateau() -> None:
    assert fired(SPEC, curve(lambda t: 2 * math.exp(-0.01 * t / 200), 1000, 25, 0.002)) == 250


def test_improvement_resets_the_confirmations() -> None:
    still = curve(lambda _: 2.0, 250, 25)
    falling = [(250 + 25.0 * i, 2.0 * 0.97**i) for i in range(1, 9)]
    memories = feed(SPEC, still + falling)
    assert memories[9].verdict == "plateau"
    assert memories[-1].confirmed == 0
    assert memories[-1].truth is False


def test_noise_above_worth_cannot_be_told_and_changes_no_confirmation() -> None:
    one = feed(SPEC, curve(lambda _: 2.0, 200, 25))[-1]
    assert one.confirmed == 1
    wild = [(225 + 25.0 * i, 2.0 + (-1) ** i) for i in range(8)]
    after = feed(SPEC, wild, one)[-1]
    assert (after.verdict, after.truth, after.confirmed) == ("cannot tell", None, 1)
    assert after.evidence(SPEC)["finding"] == "noisy"
    assert after.evidence(SPEC)["error"] > SPEC.worth


def test_a_plateau_holds_until_an_improvement_contradicts_it() -> None:
    told = feed(SPEC, curve(lambda _: 2.0, 250, 25))[-1]
    noisy = feed(SPEC, [(275 + 25.0 * i, 2.0 + (-1) ** i) for i in range(8)], told)[-1]
    assert noisy.evidence(SPEC)["finding"] == "noisy"
    assert noisy.truth is True


def test_noise_above_worth_stays_silent_forever() -> None:
    spec = PlateauSpec("minimize", worth=0.005, span=200.0)
    points = curve(lambda _: 2.0, 4000, 25, noise=0.02)
    assert fired(spec, points) is None


def test_too_few_observations_cannot_be_told() -> None:
    memories = feed(SPEC, curve(lambda _: 2.0, 2000, 50))
    assert memories[-1].verdict == "cannot tell"
    assert memories[-1].evidence(SPEC)["finding"] == "few"
    assert memories[-1].evidence(SPEC)["observations"] == 4


def test_a_gap_in_the_observations_cannot_be_told() -> None:
    memories = feed(SPEC, [*curve(lambda _: 2.0, 200, 25), (900.0, 2.0), (925.0, 2.0)])
    assert memories[-1].verdict == "cannot tell"
    assert memories[-1].confirmed == 1


def test_observations_at_the_two_ends_of_the_window_are_too_few() -> None:
    points = [(0.0 + i, 2.0) for i in range(5)] + [(195.0 + i, 2.0) for i in range(5)]
    assert feed(SPEC, points)[-1].evidence(SPEC)["finding"] == "few"


def test_observations_at_the_same_progress_are_one_point() -> None:
    points = [(at, value + d) for at, value in curve(lambda _: 2.0, 250, 25) for d in (-0.01, 0.01)]
    memory = feed(SPEC, points)[-1]
    assert memory.verdict == "plateau"
    assert memory.evidence(SPEC)["observations"] == 15, "tested at the first of each pair"
    assert memory.evidence(SPEC)["level"] == pytest.approx(2.0, rel=0.01)


def test_confirmations_are_spaced_in_progress_not_in_entries() -> None:
    points = curve(lambda _: 2.0, 250, 1)
    counts = [m.confirmed for m in feed(SPEC, points)]
    assert [counts.index(k) + 1 for k in (1, 2, 3)] == [176, 201, 226]


@pytest.mark.parametrize("every", [25, 5])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda t: 2 + 0.5 * math.exp(-(((t - 60) / 50) ** 2)) - t / 1000, id="bump"),
        pytest.param(lambda t: 2 * math.exp(-0.08 * (abs(t - 100) - 100) / 200), id="rise"),
        pytest.param(lambda t: 2 * math.exp(-0.08 * max(0, t - 140) / 200), id="late start"),
        pytest.param(lambda t: 2 - 0.8 / (1 + math.exp((400 - t) / 100)), id="sigmoid"),
    ],
)
def test_a_transient_just_after_a_growth_is_no_plateau(
    shape: Callable[[float], float], every: int
) -> None:
    for seed in range(10):
        assert fired(SPEC, curve(shape, 600, every, noise=0.001, seed=seed)) is None


def test_a_restart_forgets_everything() -> None:
    before = feed(SPEC, curve(lambda _: 2.0, 400, 25))[-1]
    assert before.truth is True
    after = feed(SPEC, [(425.0, 2.3)], fresh(SPEC))[-1]
    assert (after.verdict, after.confirmed) == ("waiting", 0)


def test_maximize_mirrors_minimize() -> None:
    points = curve(lambda t: 1 + math.exp(-t / 300), 3000, 25, 0.003)
    mirror = PlateauSpec("maximize", worth=SPEC.worth, span=SPEC.span)
    here = feed(SPEC, points)
    there = feed(mirror, [(at, -value) for at, value in points])
    assert [m.verdict for m in here] == [m.verdict for m in there]
    rising = [(at, 3 - value) for at, value in points]
    assert fired(mirror, rising) is not None
    falls_fast = curve(lambda t: 2 * math.exp(-0.2 * t / 200), 300, 25)
    assert fired(mirror, falls_fast) == 250, "worsening is no improvement worth waiting for"


def test_a_level_that_cannot_be_told_from_zero_cannot_be_told() -> None:
    crossing = feed(SPEC, curve(lambda t: (200 - t) * 1.001, 200, 25, noise=0.01))[-1]
    assert crossing.evidence(SPEC)["finding"] == "noisy"
    assert feed(SPEC, curve(lambda _: 0.0, 250, 25))[-1].verdict == "plateau"


def test_values_that_are_not_finite_are_the_callers_to_drop() -> None:
    with pytest.raises(AssertionError, match="dropped before"):
        observe(fresh(SPEC), SPEC, 1.0, math.nan)
    dropped = [(at, v) for at, v in curve(lambda _: 2.0, 1000, 25) if not 250 < at < 425]
    assert feed(SPEC, dropped)[-1].verdict == "plateau"


def test_memory_is_bounded_however_dense_the_logging() -> None:
    memories = feed(SPEC, curve(lambda _: 2.0, 1000, 0.25, 0.01))
    assert max(len(m.closed) for m in memories) <= BINS + 1
    assert max(len(json.dumps(m.to_json())) for m in memories) < 2000


def test_evidence_is_json_and_says_how_far_it_is() -> None:
    memory = feed(SPEC, curve(lambda _: 2.0, 100, 25))[-1]
    assert json.loads(json.dumps(memory.evidence(SPEC))) == {
        "verdict": "waiting",
        "worth": 0.04,
        "span": 200.0,
        "confirmed": 0,
        "confirm": 3,
        "finding": "waiting",
        "start": 25.0,
        "end": 100.0,
        "observations": 4,
    }
    memory = feed(SPEC, curve(lambda _: 2.0, 225, 25))[-1]
    assert json.loads(json.dumps(memory.evidence(SPEC))) == {
        "verdict": "cannot tell",
        "worth": 0.04,
        "span": 200.0,
        "confirmed": 2,
        "confirm": 3,
        "finding": "flat",
        "start": 50.0,
        "end": 225.0,
        "observations": 8,
        "level": 2.0,
        "rate": 0.0,
        "error": 0.0,
        "upper": 0.0,
        "autocorrelation": 0.0,
    }


def test_progress_may_be_a_fraction_of_an_epoch() -> None:
    spec = PlateauSpec("minimize", worth=0.04, span=1.0)
    assert fired(spec, [(i / 10, 2.0) for i in range(1, 30)]) == 1.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": "min"}, "'minimize' or 'maximize', got 'min'"),
        ({"worth": 0.0}, "worth is positive"),
        ({"span": math.inf}, "span is positive"),
        ({"confirm": 0}, "confirm is at least 1"),
        ({"confidence": 1.0}, "confidence is at least 0.5"),
        ({"min_observations": 5}, "min_observations is at least 6"),
    ],
)
def test_a_senseless_spec_is_refused(change: dict[str, object], message: str) -> None:
    sound: dict[str, object] = {"goal": "minimize", "worth": 0.01, "span": 100.0}
    with pytest.raises(ValueError, match=message):
        PlateauSpec(**(sound | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [{}, {"verdict": "flat"}, fresh(SPEC).to_json() | {"verdict": "x"}, {"bins": [[1]]}],
)
def test_a_strange_memory_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the memory of a plateau"):
        PlateauMemory.from_json(data)
    with pytest.raises(ValueError, match="not the memory of a patience"):
        PatienceMemory.from_json(data)


class TestPatience:
    """The familiar wait, in progress."""

    SPEC = PatienceSpec("minimize", span=100.0)

    def test_no_new_best_for_that_long_is_a_plateau(self) -> None:
        memory = fresh(self.SPEC)
        assert memory.truth is None
        memory = observe(memory, self.SPEC, 0, 2.0)
        assert memory.truth is False
        memory = observe(memory, self.SPEC, 99, 2.0)
        assert memory.truth is False
        memory = observe(memory, self.SPEC, 100, 2.1)
        assert (memory.truth, memory.verdict, memory.confirmed) == (True, "plateau", 1)
        assert memory.evidence(self.SPEC) == {
            "verdict": "plateau",
            "best": 2.0,
            "best_at": 0.0,
            "waited": 100.0,
            "patience": 100.0,
        }
        assert PatienceMemory.from_json(json.loads(json.dumps(memory.to_json()))) == memory
        assert observe(memory, self.SPEC, 101, 1.9).truth is False

    def test_it_ends_at_the_same_progress_however_dense_the_logging(self) -> None:
        def end(every: int) -> int:
            memory = fresh(self.SPEC)
            at = 0
            while not memory.truth:
                at += every
                memory = observe(memory, self.SPEC, at, max(2.0, 3 - at / 100))
            return at

        assert {end(every) for every in (1, 5, 10, 20, 100)} == {200}

    def test_a_new_best_must_bring_delta(self) -> None:
        spec = PatienceSpec("maximize", span=100.0, delta=0.01)
        memory = observe(fresh(spec), spec, 0, -2.0)
        memory = observe(memory, spec, 60, -1.99)
        assert memory.best == -2.0
        memory = observe(memory, spec, 70, -1.97)
        assert (memory.best, memory.best_at) == (-1.97, 70.0)

    def test_ten_tenths_of_an_epoch_are_one(self) -> None:
        spec = PatienceSpec("minimize", span=1.0)
        memory = observe(fresh(spec), spec, 1.3, 2.0)
        assert observe(memory, spec, 2.3, 2.0).truth is True

    def test_a_senseless_spec_is_refused(self) -> None:
        with pytest.raises(ValueError, match="span is positive"):
            PatienceSpec("minimize", span=0.0)
        with pytest.raises(ValueError, match="delta is finite"):
            PatienceSpec("minimize", span=1.0, delta=-0.1)
