"""The engine does what the rules say: it and the reference model agree at every boundary."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from stagegraph.engine.holding import all_alphas, effects
from stagegraph.schema.load import load
from tests.engine.driving import Run
from tests.properties.ticking import tick
from tests.reference import holding
from tests.reference.graphs import costs_of, regional_graphs, streams
from tests.reference.model import Model
from tests.reference.state import Failed

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def follow(model: Model, happening: dict[str, Any]) -> str | None:
    """What :func:`tests.properties.ticking.tick` does with an engine; the way that failed."""
    failed = None
    model.fails = "fail" in happening
    if "send" in happening:
        model.send(happening["send"])
    told = happening.get("with_step", {})
    calls = [lambda: model.update(2 + happening.get("samples", 0), Fraction(1, 8), told)]
    if "answer" in happening:
        calls.append(lambda: model.observe(happening["answer"]) if model.undecided else None)
    if "late" in happening:
        calls.append(lambda: None if model.undecided else model.observe(happening["late"]))
    for call in calls:
        try:
            call()
        except Failed as failure:
            failed = "a trial" if failure.way is None else failure.way.id
    return failed


def engine_sees(run: Run, already: int) -> dict[str, Any]:
    """All that can be seen of the engine after a tick, in the words of the rules."""
    core = run.core
    core.explain()  # absorbs what was only summed up
    state, graph = core.state, core.graph
    records = run[already:]
    moves = [r for r in records if r["type"] == "move"]
    events = [r for r in records if r["type"] == "event"]
    return {
        "clock": (core.progress.step, core.progress.samples, core.progress.epoch),
        "spent": (state.spent.step, state.spent.samples, state.spent.epoch),
        "stages": state.stages,
        "moves": [(m["region"], m["edge"], m["via"]) for m in moves],
        "blocked": set(state.blocked),
        "heard": [e["name"] for e in events if e["status"] == "heard"],
        "ignored": [e["name"] for e in events if e["status"] == "ignored"],
        "events": [(event.name, event.kept) for event in state.events],
        "visits": dict(state.visits),
        "fired": dict(state.fired),
        "errors": dict(state.errors),
        "open": {name for name, region in state.regions.items() if region.open},
        "slots": {n: r.back.stage for n, r in state.regions.items() if r.back is not None},
        "cohorts": state.cohorts,
        "grown": {name: region.grown for name, region in state.regions.items()},
        "alphas": rounded(all_alphas(graph, state)),
        "held": {e.place: (rounded(e.value), e.of.cohorts) for e in effects(graph, state)},
        "snapshots": [(s.name, s.state.clock.step) for s in state.snapshots],
        "baselines": {name: kept.taken.step for name, kept in state.baselines.items()},
        "options": {
            key: (known.taken, known.excluded, tuple(known.failed))
            for key, known in state.options.items()
        },
        "trial": None if state.trial is None else (state.trial.stage, state.trial.option),
        "tried": () if state.trial is None else [(t.option, t.value) for t in state.trial.tried],
        "params": state.facts.params,
        "waits": core.wants_evaluation,
        "disturbed": (state.disturbed, state.data_changed),
        "memories": sorted(m.truth for m in state.memories.values() if m.truth is not None),
        "end": state.ended,
    }


def model_sees(model: Model) -> dict[str, Any]:
    branch, spent = model.branch, model.spent
    return {
        "clock": (branch.clock.step, branch.clock.samples, branch.clock.epoch),
        "spent": (spent.step, spent.samples, spent.epoch),
        "stages": {name: place.stage for name, place in branch.places.items()},
        "moves": [
            (m.region, None if m.way is None else m.way.id, [s.key for s in m.via])
            for m in model.moves
        ],
        "blocked": model.blocked,
        "heard": model.heard,
        "ignored": model.ignored,
        "events": model.events,
        "visits": dict(model.visits),
        "fired": dict(model.fired),
        "errors": dict(model.errors),
        "open": {name for name, place in branch.places.items() if place.open},
        "slots": {n: p.slot.stage for n, p in branch.places.items() if p.slot is not None},
        "cohorts": branch.cohorts,
        "grown": {name: place.grown for name, place in branch.places.items()},
        "alphas": rounded(holding.alphas(model)),
        "held": {
            k: (rounded(value), growths) for k, (value, growths) in holding.values(model).items()
        },
        "snapshots": [(name, branch.clock.step) for name, branch in model.snapshots],
        "baselines": {name: kept.clock.step for name, kept in branch.baselines.items()},
        "options": {
            key: tuple(known.get(key, ()) for known in (model.taken, model.excluded, model.failed))
            for key in {*model.taken, *model.excluded, *model.failed}
        },
        "trial": None if model.trial is None else (model.trial.stage, model.trial.option),
        "tried": () if model.trial is None else list(model.trial.tried),
        "params": branch.params,
        "waits": model.undecided,
        "disturbed": (branch.disturbed, branch.data_changed),
        "memories": sorted(m.truth for m in branch.memories.values() if m.truth is not None),
        "end": model.ended,
    }


def rounded(value: Any) -> Any:
    """Numbers to 12 digits: curves may be computed in another order."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return None if value is None or math.isnan(value) else round(value, 12)


def agree(document: dict[str, Any], stream: list[dict[str, Any]]) -> Model:
    costs = costs_of(document)
    run = Run(document, params=100, costs=costs)
    run.core.start()
    model = Model(load(document), 100, costs)
    compare(run, 0, model)
    for happening in stream:
        already = len(run)
        model.forget()
        error, failed = tick(run, happening), follow(model, happening)
        assert (error is None) == (failed is None), (error, failed)
        compare(run, already, model)
    numbers = [boundary.number for boundary in run.actor.boundaries]
    assert len(numbers) == len(set(numbers)), "one transaction for all regions"
    return model


def compare(run: Run, already: int, model: Model) -> None:
    engine, rules = engine_sees(run, already), model_sees(model)
    differing = {key: (engine[key], rules[key]) for key in rules if engine[key] != rules[key]}
    assert len(rules["open"]) <= model.document.graph.max_overlap, rules["open"]
    assert not differing, f"at boundary {model.spent.step} (engine, rules): {differing}"


@settings(max_examples=25, suppress_health_check=SLOW)
@given(regional_graphs(), streams)
def test_engine_and_reference_agree_at_every_boundary(document, stream):
    agree(document, stream)


@pytest.mark.slow
@settings(max_examples=3000, suppress_health_check=SLOW)
@given(regional_graphs(), streams)
def test_engine_and_reference_agree_in_thousands_of_graphs(document, stream):
    agree(document, stream)
