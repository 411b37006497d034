"""A run goes on under an edited graph as it would have, as long as nothing asks what was edited."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagegraph.engine.editing import edit, edit_saved
from stagegraph.errors import SnapshotError
from tests.engine.driving import Run
from tests.properties.runnable import costs_of, runnable_graphs, streams
from tests.properties.ticking import begin, finish, seen, tick

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
few = settings(max_examples=20, suppress_health_check=SLOW)
NEVER = "step > 1000000"


def edited(document: dict[str, Any], *, first: bool) -> dict[str, Any]:
    """Notes, other orders of keys, stages nobody comes to, and ways that are never taken."""
    other = copy.deepcopy(document)
    other["note"] = "edited"
    other["metrics"] = dict(reversed(other["metrics"].items())) | {"more": {"goal": "minimize"}}
    for region in other["regions"].values():
        region["note"] = "edited too"
        for stage in region["stages"].values():
            if "transitions" in stage:
                way = {"target": "unvisited", "when": NEVER, "at_most": 1}
                stage["transitions"].insert(0 if first else len(stage["transitions"]), way)
        never = {"name": "never", "within": ["t0"], "when": NEVER, "target": "unvisited"}
        region["interrupts"].insert(0, never)
        late = {"kind": "train", "during": ["slow"], "duration": "3 steps", "next": "t0"}
        stages = {"unvisited": late, **region["stages"]}
        region["stages"] = dict(reversed(stages.items()))
    return other


def moved(value: Any, *, by: int) -> Any:
    """The same with every transition one place further on, and without the list of stages known."""
    text = json.dumps(value, sort_keys=True).replace(", unvisited", "")
    return json.loads(
        re.sub(r"transitions\[(\d+)\]", lambda m: f"transitions[{int(m[1]) + by}]", text)
    )


def state_of(run: Run) -> dict[str, Any]:
    return run.core.state.to_json("the same")


def editing_changes_nothing(document: dict[str, Any], stream: Any, cut: int, first: bool) -> None:
    run = begin(document)
    for happening in stream[:cut]:
        tick(run, happening)
    by = int(first)
    other = Run(edited(document, first=first), params=100, costs=costs_of(document))
    saved = json.loads(json.dumps(run.core.state_dict()))
    if run.core.done:
        with pytest.raises(SnapshotError, match=r"the run .*was ended"):
            edit_saved(saved, run.core.graph, other.core.graph)
        return
    saved, found = edit_saved(saved, run.core.graph, other.core.graph)
    assert found.anew == () and found.forgotten == () and not found.reopened
    other.core.load_state_dict(saved)
    other.core.mail.extend(run.core.mail)
    assert other.core.wants_evaluation == run.core.wants_evaluation
    assert other.actor.deeds == []
    back = edit(other.core.graph, run.core.graph, found.state)
    assert back.state == run.core.state, "edited back it is what it was"
    already = len(run)
    for happening in stream[cut:]:
        assert moved(tick(run, happening), by=by) == tick(other, happening)
        assert other.core.stages == run.core.stages
    for one in (run, other):
        finish(one)
    assert moved(seen(run)[already:], by=by) == moved(seen(other), by=0)
    assert moved(state_of(run), by=by) == moved(state_of(other), by=0)


@few
@given(runnable_graphs(), streams, st.data(), st.booleans())
def test_edits_that_nothing_asks_for_change_nothing(document, stream, data, first):
    cut = data.draw(st.integers(0, len(stream)))
    editing_changes_nothing(document, stream, cut, first)


@pytest.mark.slow
@settings(few, max_examples=600)
@given(runnable_graphs(), streams, st.booleans())
def test_edits_at_every_tick_change_nothing_in_many_graphs(document, stream, first):
    for cut in range(0, len(stream) + 1, 3):
        editing_changes_nothing(document, stream, cut, first)


def is_carried_over_as_it_is(document: dict[str, Any], stream: Any) -> None:
    run = begin(document)
    for happening in stream:
        tick(run, happening)
    found = edit(run.core.graph, run.core.graph, run.core.state)
    assert found.state == run.core.state and found.differences == ()


@few
@given(runnable_graphs(), streams)
def test_a_state_under_its_own_graph_is_carried_over_as_it_is(document, stream):
    is_carried_over_as_it_is(document, stream)


@pytest.mark.slow
@settings(few, max_examples=600)
@given(runnable_graphs(), streams)
def test_many_states_under_their_own_graphs_are_carried_over(document, stream):
    is_carried_over_as_it_is(document, stream)
