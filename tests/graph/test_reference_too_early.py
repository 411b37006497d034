"""Too few values before a snapshot: found where stages and guards tell it for certain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import stagegraph as sg

GRAPH = """
stagegraph: 1
name: early
metrics: {loss: {goal: minimize, every: 100 steps}}
budget: {params: 3M, steps: 20k}
initial: train
stages:
  train: TRAIN
  grow:
    kind: grow
    actions: [{type: snapshot, name: s}, {type: deepen, stack: b, add: 1}]
    next: warm
  warm:
    kind: warmup
    during: [{type: lr_ramp, of: grown, start: 0, over: 300 steps}]
    next: rest
  rest: {kind: consolidate, duration: 5k steps, next: done}
  undone: {kind: train, duration: 10 steps, next: done}
  done: {kind: final}
interrupts:
  - name: fast
    within: [warm, rest]
    when: GUARD
    target: undone
    actions: [{type: roll_back, to: s, rng: fork}]
    at_most: 1
"""
UNSTABLE = '"unstable(loss, since=s, over=400 steps, allow=300 steps, within=1500 steps)"'
REGRESSED = '"regressed(loss, by=5%, since=s)"'


def graph(train: str, guard: str = UNSTABLE, **more: str) -> sg.StageGraph:
    text = GRAPH.replace("TRAIN", train).replace("GUARD", guard)
    for old, new in more.items():
        text = text.replace(old, new)
    return sg.load(text)


def found(one: sg.StageGraph) -> bool:
    return "reference-too-early" in {finding.code for finding in sg.check(one)}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("duration: 799 steps, next: grow", True),
        ("duration: 800 steps, next: grow", False),
        ("min_duration: 900 steps, duration: 500 steps, next: grow", False),
        ("transitions: [{target: grow, when: elapsed(500 steps)}]", True),
        ("transitions: [{target: grow, when: elapsed(900 steps)}]", False),
        ("transitions: [{target: grow, when: step >= 500}]", True),
        ("transitions: [{target: grow, when: step > 799}]", False),
        ("transitions: [{target: grow, when: elapsed(500 steps) and loss < 1}]", False),
        ("transitions: [{target: grow, when: elapsed(500 steps) or loss < 1}]", True),
        ("transitions: [{target: grow, when: loss < 1}], duration: 600 steps, next: done", True),
        ("transitions: [{target: grow, when: loss < 1}], duration: 900 steps, next: done", False),
        ("duration: 5 epochs, next: grow", False),
    ],
)
def test_the_time_before_a_growth_is_what_durations_and_guards_say(train: str, expected: bool):
    assert found(graph(f"{{kind: train, {train}}}")) is expected


def test_an_update_overshoots_what_is_not_counted_in_steps():
    early = "{kind: train, duration: 900 samples, next: grow}"
    assert not found(graph(early, REGRESSED, **{"every: 100 steps": "every: 1000 samples"}))


def test_values_from_before_the_last_growth_do_not_count():
    before = "train2: {kind: train, duration: AFTER steps, next: grow}\n  grow:"
    early = "{kind: train, duration: 9k steps, next: first}"
    first = (
        "first: {kind: grow, actions: [{type: widen, space: m, factor: 2}], next: ease}\n"
        "  ease: {kind: warmup, during: [{type: lr_ramp, of: grown, start: 0, over: 300 steps}],"
        " next: train2}\n  "
    )
    for after, expected in (("400", True), ("500", False)):
        one = graph(early, **{"grow:\n": (first + before).replace("AFTER", after) + "\n"})
        assert found(one) is expected


def test_a_way_back_to_it_leaves_time_enough():
    later = {"duration: 5k steps, next: done": "duration: 5k steps, next: train"}
    assert not found(graph("{kind: train, duration: 100 steps, next: grow}", **later))


def test_another_region_may_hold_the_growth_back():
    text = GRAPH.replace("TRAIN", "{kind: train, duration: 100 steps, next: grow}")
    head, _, tail = text.replace("GUARD", UNSTABLE).partition("initial:")
    inner = "".join(f"    {line}\n" for line in f"initial:{tail}".splitlines())
    other = inner.replace("snapshot, name: s}", "snapshot, name: t}").replace("since=s", "since=t")
    other = other.replace("to: s,", "to: t,")
    assert found(sg.load(f"{head}regions:\n  a:\n{inner}")) is True
    assert found(sg.load(f"{head}regions:\n  a:\n{inner}  b:\n{other}")) is False


def test_one_value_is_enough_to_compare_with():
    for duration, expected in (("99", True), ("100", False)):
        train = f"{{kind: train, duration: {duration} steps, next: grow}}"
        assert found(graph(train, REGRESSED)) is expected


@pytest.mark.parametrize(
    ("guard", "steps", "expected"),
    [
        (REGRESSED, 99, True),
        (REGRESSED, 100, False),
        (f'{REGRESSED[:-1]} and step >= 400"', 99, True),
        (f'{REGRESSED[:-1]} or step >= 400"', 99, False),
        ('"not improved(loss, by=5%, since=s)"', 99, True),
        (UNSTABLE, 799, True),
        (UNSTABLE, 800, False),
    ],
)
def test_a_way_back_that_waits_for_the_answer_gives_no_time(
    guard: str, steps: int, expected: bool, tmp_path: Path
):
    train = f"{{kind: train, duration: {steps} steps, next: grow}}"
    again = {
        "  undone: {kind: train, duration: 10 steps, next: done}\n": "",
        "target: undone": "target: train",
    }
    one = graph(train, guard, **again)
    assert found(one) is expected
    returns = [r for r in simulated(one, steps, tmp_path) if r["type"] == "roll_back"]
    assert bool(returns) is not expected


@pytest.mark.parametrize("steps", [300, 700, 799, 800])
def test_a_run_on_numbers_agrees(steps: int, tmp_path: Path):
    """What is said never to tell never tells; where nothing is said, it does."""
    one = graph(f"{{kind: train, duration: {steps} steps, next: grow}}")
    came = [one["target"] for one in simulated(one, steps, tmp_path) if one["type"] == "move"]
    assert found(one) is ("main:undone" not in came)


def simulated(one: sg.StageGraph, steps: int, folder: Path) -> Sequence[Mapping[str, Any]]:
    """The records of a run in which the loss is high from after so many steps on."""
    rows = (f"{s},{(3 if s <= steps else 9) + 0.01 * math.sin(s)}" for s in range(100, 6001, 100))
    path = folder / "loss.csv"
    path.write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    return sg.simulate(one, metrics=str(path), params=1000, costs={"grow": 100}).records
