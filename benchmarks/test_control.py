"""What control costs: prints ratios and their limits, and asserts nothing about time."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

from transitions import Machine

import stagegraph as sg
from benchmarks.interleaved import compare, table
from stagegraph.engine.conditions import compile_guard
from stagegraph.engine.values import SlotTable
from stagegraph.schema.guard_text import parse_guard

HEADER = {"stagegraph": 1, "name": "bench"}
DONE = {"kind": "final"}


def engine_of(guards: list[str], every: str | None = None, **more: Any) -> sg.Engine:
    """An engine in a stage with these ways out."""
    ways = [{"target": "done", "when": guard} for guard in guards]
    stages = {
        "train": {"kind": "train", "transitions": ways, "duration": "90M steps", "next": "done"},
        "done": DONE,
    }
    metrics = {name: {"goal": "minimize", "every": every} for name in ("m", "v", "w")}
    engine = sg.Engine(
        sg.load({**HEADER, "metrics": metrics, "initial": "train", "stages": stages, **more})
    )
    engine.start()
    return engine


WAITING = [
    "step >= 1B",
    "elapsed(100M steps)",
    "plateau(v, worth=1%, over=10k steps)",
    "plateau(w, patience=10k steps) and step > 5",
    "v < 0.1",
    "v < 0.2 and w > 3",
    "left(steps) <= 2000",
    "best(v) * 1.05 < w",
    "not v > 0.5 or w < last(v)",
    "spent(steps) > 900M",
]
BUDGET = {"budget": {"steps": "1B"}}


def test_ten_guards_that_wait(show):
    def bare(n: int = 5) -> bool:
        return n >= 100

    plain = engine_of(WAITING, **BUDGET)
    times = engine_of([*WAITING[:8], "samples > 1T", "epoch > 1M"], **BUDGET)
    epoch = Fraction(1, 3)
    show(
        table(
            "(a) ten guards that wait for time, or for a metric that has not come",
            compare(
                {
                    "a call with one comparison": bare,
                    "engine.step()": plain.step,
                    "engine.step(samples=8)": partial(plain.step, samples=8),
                    "the same, two guards in samples and epochs": partial(
                        times.step, samples=8, epoch=epoch
                    ),
                }
            ),
            {"engine.step()": "10 x"},
        )
    )


class Trained:
    """What a ``transitions`` machine is asked about."""

    m = 0.5


def test_ten_guards_on_a_metric(show):
    guards = [(lambda m, k=k: m < k * 0.01) for k in range(1, 11)]

    def lambdas(m: float = 0.5) -> bool:
        for guard in guards:  # noqa: SIM110 - a generator is slower; this is the fair measure
            if guard(m):
                return True
        return False

    engine = engine_of([f"m < {k * 0.01}" for k in range(1, 11)])
    model = Trained()
    machine = Machine(model, states=["a", "b"], initial="a", auto_transitions=False)
    for k in range(1, 11):
        machine.add_transition("go", "a", "b", conditions=lambda k=k: model.m < k * 0.01)
    show(
        table(
            "(b) ten guards on a metric that comes with each update, none of them true",
            compare(
                {
                    "a list of ten lambdas": lambdas,
                    "engine.step(m=0.5)": partial(engine.step, m=0.5),
                    "transitions.Machine, ten conditions": model.go,
                }
            ),
            {"engine.step(m=0.5)": "5 x"},
        )
    )


SHAPES = {
    "x < 3": ("m < 3", lambda f: f[0] < 3.0),
    "not x < 3": ("not m < 3", lambda f: f[0] >= 3.0),
    "1 <= x < 3": ("1 <= m < 3", lambda f: 1.0 <= f[0] < 3.0),
    "x < 3 and y > 2": ("m < 3 and v > 2", lambda f: f[0] < 3.0 and f[1] > 2.0),
    "x < 3 or y > 2": ("m < 3 or v > 2", lambda f: f[0] < 3.0 or f[1] > 2.0),
    "x < y": ("m < v", lambda f: f[0] < f[1]),
    "x > 1.05 * y": ("m > v * 1.05", lambda f: f[0] > f[1] * 1.05),
    "x + y < 3": ("m + v < 3", lambda f: f[0] + f[1] < 3.0),
    "x * 2 + 1 < y": ("m * 2 + 1 < v", lambda f: f[0] * 2.0 + 1.0 < f[1]),
    "x - y * w < 3": ("m - v * w < 3", lambda f: f[0] - f[1] * f[2] < 3.0),
    "(x - y) / y < 0.1": ("(m - v) / v < 0.1", lambda f: (f[0] - f[1]) / f[1] < 0.1),
    "x < y < w": ("m < v < w", lambda f: f[0] < f[1] < f[2]),
    "all of 3": (
        "m < 3 and v > 1 and w < 3",
        lambda f: f[0] < 3.0 and f[1] > 1.0 and f[2] < 3.0,
    ),
    "all of 4": (
        "m < 3 and v > 1 and w < 3 and m > 0",
        lambda f: f[0] < 3.0 and f[1] > 1.0 and f[2] < 3.0 and f[0] > 0.0,
    ),
    "any of 4": (
        "m > 3 or v < 1 or w > 3 or m < 0",
        lambda f: f[0] > 3.0 or f[1] < 1.0 or f[2] > 3.0 or f[0] < 0.0,
    ),
    "(a or b) and (c or d)": (
        "(m < 3 or v < 1) and (w < 3 or m < 0)",
        lambda f: (f[0] < 3.0 or f[1] < 1.0) and (f[2] < 3.0 or f[0] < 0.0),
    ),
    "all of 6": (
        "m < 3 and v > 1 and w < 3 and m > 0 and v < 5 and w > 0",
        lambda f: (
            f[0] < 3.0 and f[1] > 1.0 and f[2] < 3.0 and f[0] > 0.0 and f[1] < 5.0 and f[2] > 0.0
        ),
    ),
}


def test_one_guard(show):
    lines = ["(c) one guard string, beside the same inline lambda; limit 2 x"]
    for name, (text, inline) in SHAPES.items():
        slots = SlotTable()
        test = compile_guard(parse_guard(text), "", slots).test
        frame = [{"m": 1.0, "v": 2.5, "w": 2.0}[slot.name] for slot in slots.slots]
        assert test(frame) == inline(frame)
        timings = compare({"inline": partial(inline, frame), "guard": partial(test, frame)})
        lines.append(f"  {name:<46}{timings[1].ns:>12,.0f} ns{timings[1].ratio:>9.2f} x")
    show("\n".join(lines))


def chain(num_stages: int) -> sg.Engine:
    """Stages that lead in a ring, one update each once the event says so."""
    stages: dict[str, Any] = {
        f"s{n}": {
            "kind": "train",
            "transitions": [{"target": f"s{(n + 1) % num_stages}", "when": "event(go)"}],
            "duration": "1T steps",
            "next": "done",
        }
        for n in range(num_stages)
    }
    stages["done"] = DONE
    return sg.Engine(sg.load({**HEADER, "events": ["go"], "initial": "s0", "stages": stages}))


def test_many_stages(show):
    sizes = (10, 100, 999)
    engines = {size: chain(size) for size in sizes}

    def moving(engine: sg.Engine) -> Any:
        def boundary() -> None:
            engine.send("go")
            engine.step()

        return boundary

    for engine in engines.values():
        engine.start()
    steps = compare({f"engine.step(), {n} stages": e.step for n, e in engines.items()})
    moves = compare(
        {f"a boundary that moves, {n} stages": moving(e) for n, e in engines.items()},
        calls=20,
        cycles=100,
    )
    show(table("(d) the number of stages, which is to make no difference", [*steps, *moves]))
