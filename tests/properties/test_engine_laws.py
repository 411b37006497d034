"""Laws of the engine, for random graphs and whatever may happen to them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagegraph.engine.absorb import Arrival, Observation, absorb
from stagegraph.engine.decide import decide
from stagegraph.engine.replay import outside
from stagegraph.progress import Progress
from tests.engine.driving import Run
from tests.engine.on_device import OnDevice, Transfers
from tests.properties.runnable import runnable_graphs, streams
from tests.properties.ticking import begin, finish, seen, tick

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
few = settings(max_examples=20, suppress_health_check=SLOW)
many = settings(max_examples=3000, suppress_health_check=SLOW)


def lazy_equals_eager(document, stream):
    lazy, eager = begin(document), begin(document, eager=True)
    for happening in stream:
        assert tick(lazy, happening) == tick(eager, happening)
        assert lazy.core.wants_evaluation == eager.core.wants_evaluation
        assert lazy.core.stages == eager.core.stages
        assert lazy.core.progress == eager.core.progress
        agree(lazy)
        agree(eager)
    for run in (lazy, eager):
        finish(run)
    assert lazy.core.state_dict() == eager.core.state_dict()
    assert seen(lazy) == seen(eager)
    assert lazy.actor.boundaries == eager.actor.boundaries
    assert lazy.actor.tuned == eager.actor.tuned


def tensors_equal_numbers(document, stream):
    numbers, tensors = begin(document), begin(document, reader=Transfers())
    for happening in stream:
        assert tick(numbers, happening) == tick(tensors, on_device(happening))
        assert numbers.core.wants_evaluation == tensors.core.wants_evaluation
        assert numbers.core.stages == tensors.core.stages
    for run in (numbers, tensors):
        finish(run)
    assert numbers.core.state_dict() == tensors.core.state_dict()
    assert seen(numbers) == seen(tensors)
    assert numbers.actor.boundaries == tensors.actor.boundaries


def on_device(happening):
    """The same with every value still on a device."""
    return {
        key: {name: OnDevice(value) for name, value in told.items()}
        if isinstance(told, dict)
        else told
        for key, told in happening.items()
    }


def resuming_changes_nothing(document, stream, cut):
    run = begin(document)
    for happening in stream[:cut]:
        tick(run, happening)
    other = run.resumed()
    other.core.mail.extend(run.core.mail)
    already = len(run)
    held = run.actor.boundaries[-1].held
    assert other.core.wants_evaluation == run.core.wants_evaluation
    if run.core.state.ended is None and held:
        assert {e.place for e in other.actor.boundaries[0].held} == {e.place for e in held}
    assert other.actor.deeds == [], "no entry action runs again"
    done = len(run.actor.boundaries), len(run.actor.tuned)
    for happening in stream[cut:]:
        assert tick(run, happening) == tick(other, happening)
    for one in (run, other):
        finish(one)
        agree(one)
    assert run.core.state_dict() == other.core.state_dict()
    assert run[already:] == list(other)
    assert run.actor.boundaries[done[0] :] == other.actor.boundaries[1:]
    assert run.actor.tuned[done[1] :] == other.actor.tuned


def replaying_changes_nothing(document, stream, cut, again):
    """A run that was cut and has its journal's tail decides as it did, without its mail.

    What fails is left out: nobody promises that it fails again.
    """
    stream = [{k: v for k, v in happening.items() if k != "fail"} for happening in stream]
    run = begin(document)
    for happening in stream[:cut]:
        tick(run, happening)
    other, already = run.resumed(), len(run)
    for happening in stream[cut:]:
        tick(run, happening)
    waiting = run.core.mail and not run.core.done
    other.core.replay(outside(run[already:]))
    if not again:
        stream = [{k: v for k, v in happening.items() if k != "send"} for happening in stream]
    for happening in stream[cut:]:
        tick(other, {key: value for key, value in happening.items() if key != "mail"})
    if not waiting:
        for one in (run, other):
            finish(one)
    agree(other)
    assert moved(run[already:]) == moved(other)
    assert run.core.stages == other.core.stages
    assert run.core.state.commands == other.core.state.commands
    if again:
        assert same(run) == same(other)


def moved(records):
    keys = ("type", "boundary", "region", "edge", "kind", "source", "via", "target", "reason", "to")
    kinds = ("move", "end", "roll_back", "blocked", "unblocked", "growth")
    return [tuple(r.get(key) for key in keys) for r in records if r["type"] in kinds]


def same(run):
    """The state but for the order of events: those that were replayed come last."""
    data = run.core.state_dict()["engine"]
    return {**data, "events": sorted(data["events"]), "snapshots": len(data["snapshots"])}


def no_growth_while_another_is_open(document, stream):
    run = begin(document)
    for happening in stream:
        before, already = run.core.state.regions, len(run)
        tick(run, happening)
        moves = [r for r in run[already:] if r["type"] == "move"]
        if len({move["boundary"] for move in moves}) != 1:
            continue
        for move in moves:
            others = [n for n, r in before.items() if r.open and n != move["region"]]
            assert not move["via"] or len(others) < document["max_overlap"]
        if any(move["kind"] == "force" for move in moves):
            assert all(not before[m["region"]].stage.endswith(":end") for m in moves)


def agree(run: Run) -> None:
    """The machines are where the state says."""
    if run.core.started and run.core.state.ended != "stop":
        assert run.core._machines.stages == run.core.state.stages


@few
@given(runnable_graphs(), streams)
def test_looking_only_when_due_changes_nothing(document, stream):
    lazy_equals_eager(document, stream)


@few
@given(runnable_graphs(), streams)
def test_tensors_lead_to_the_same_decisions_as_numbers(document, stream):
    tensors_equal_numbers(document, stream)


@few
@given(runnable_graphs(), streams, st.data())
def test_resuming_at_any_tick_changes_nothing(document, stream, data):
    resuming_changes_nothing(document, stream, data.draw(st.integers(0, len(stream))))


@few
@given(runnable_graphs(), streams, st.data(), st.booleans())
def test_replaying_the_journals_tail_decides_as_it_did(document, stream, data, again):
    replaying_changes_nothing(document, stream, data.draw(st.integers(0, len(stream))), again)


@pytest.mark.slow
@settings(many, max_examples=600)
@given(runnable_graphs(), streams, st.data(), st.booleans())
def test_replaying_the_journals_tail_decides_as_it_did_in_many(document, stream, data, again):
    replaying_changes_nothing(document, stream, data.draw(st.integers(0, len(stream))), again)


@few
@given(runnable_graphs(), streams)
def test_no_region_grows_while_too_many_others_are_open(document, stream):
    no_growth_while_another_is_open(document, stream)


@pytest.mark.slow
@many
@given(runnable_graphs(), streams)
def test_looking_only_when_due_changes_nothing_in_many_graphs(document, stream):
    lazy_equals_eager(document, stream)


@pytest.mark.slow
@settings(many, max_examples=1000)
@given(runnable_graphs(), streams)
def test_tensors_lead_to_the_same_decisions_as_numbers_in_many_graphs(document, stream):
    tensors_equal_numbers(document, stream)


@pytest.mark.slow
@settings(many, max_examples=300)
@given(runnable_graphs(), streams)
def test_resuming_at_every_tick_changes_nothing(document, stream):
    for cut in range(len(stream) + 1):
        resuming_changes_nothing(document, stream, cut)


@few
@given(runnable_graphs(), streams)
def test_every_boundary_keeps_its_promises(document, stream):
    run = begin(document)
    for happening in stream:
        tick(run, happening)
    state = run.core.state
    for edge_id, fired in state.fired.items():
        limit = run.core.graph.edges[edge_id].at_most
        assert limit is None or fired <= limit
    moves = run.of_type("move")
    structural = [m["boundary"] for m in moves if m["via"]]
    assert len(structural) == len(set(structural)), "one change of the model per boundary"
    per_region = [(m["boundary"], m["region"]) for m in moves]
    assert len(per_region) == len(set(per_region)), "one move per region and boundary"
    assert state.facts.params is not None and state.facts.params <= 140
    beyond = range(document["budget"]["steps"], state.spent.step)
    assert set(beyond) <= {record["boundary"] for record in run.of_type("error")}
    assert state.clock.step <= state.spent.step
    asked = [m for m in moves if m["edge"] and not m["source"].endswith(":try")]
    assert all(m["evidence"]["value"] is True for m in asked), "a trial alone is left unasked"
    ends = [n for n, record in enumerate(run) if record["type"] == "end"]
    assert ends in ([], [len(run) - 1]), "nothing is told after the end"


@few
@given(runnable_graphs(), streams)
def test_absorb_and_decide_are_pure(document, stream):
    run = begin(document)
    plans = run.core._plans
    for happening in stream:
        tick(run, happening)
        state = run.core.state
        if state.ended is not None:
            return
        before = state.to_json("")
        observation = Observation(
            Progress(step=1, samples=3), (Arrival("m", 1.0), Arrival("n", float("nan")))
        )
        assert absorb(plans, state, observation) == absorb(plans, state, observation)
        assert decide(plans, state) == decide(plans, state)
        assert state.to_json("") == before


@few
@given(
    runnable_graphs(),
    streams,
    st.lists(st.builds(Progress, st.integers(0, 3), samples=st.integers(0, 9)), max_size=5),
)
def test_ticks_may_be_summed_before_they_are_absorbed(document, stream, ticks):
    run = begin(document)
    for happening in stream:
        tick(run, happening)
    plans, state = run.core._plans, run.core.state
    one_by_one = state
    for progress in ticks:
        one_by_one = absorb(plans, one_by_one, Observation(progress))
    assert one_by_one == absorb(plans, state, Observation(sum(ticks, Progress())))
