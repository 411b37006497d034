"""Reading records: roll-backs in either spelling, and anything at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.drawing.history import read_history
from tests.drawing.graphs import journal


def move(step, source, target, *, via=(), kind="transition", edge="e"):
    return {
        "type": "move", "step": step, "region": "main", "edge": edge, "kind": kind,
        "source": source, "via": list(via), "target": target, "visit": 1,
    }  # fmt: skip


def metric(step, value):
    return {"type": "metric", "step": step, "name": "loss", "value": value}


RUN = [
    move(0, None, "main:a", kind="initial", edge=None),
    metric(50, 2.0),
    move(100, "main:a", "main:b", via=["main:g"]),
    {"type": "growth", "step": 100, "certificate": {"params_before": 1, "params_after": 2}},
    metric(150, 3.0),
]
BACK = move(200, "main:b", "main:a", kind="interrupt", edge="main:interrupts.undo")
AFTER = [metric(150, 1.0), {"type": "end", "step": 180, "reason": "final"}]
SPELLINGS = {
    "name and boundary": {"to": "before", "boundary": 100, "snapshot": "before-1"},
    "step and name": {"to": 100, "boundary": 200, "snapshot": "before"},
}


def stays(history):
    return [(s.stage, s.start, s.end, s.abandoned) for s in history.stays if s.start != s.end]


def test_a_roll_back_undoes_what_came_after_the_snapshot():
    for spelling in SPELLINGS.values():
        back = {"type": "roll_back", "step": 200, **spelling}
        history = read_history([*RUN, BACK, back, *AFTER])
        assert stays(history) == [
            ("main:a", 0, 100, False),
            ("main:a", 100, 180, False),
            ("main:b", 100, 200, True),
        ]
        assert [p.value for p in history.kept(history.metrics["loss"])] == [2.0, 1.0]
        assert [m.abandoned for m in history.moves] == [False, True, False]
        assert history.abandoned(history.growths[0][1])
        assert (history.returns[0].start, history.returns[0].to) == (200, 100)
        assert history.returns[0].name == "before"
        assert history.current == {"main": "main:a"}


def test_what_vitals_tell_of_the_boundary_of_the_snapshot_is_undone_but_for_the_loss():
    """They are written when the boundary has been acted on: with what was grown, at its rate."""

    def vitals(step, params, rate):
        return {
            "type": "vitals", "step": step, "params": params, "lr": [rate], "loss": 1.0,
            "alphas": {"tall": rate},
        }  # fmt: skip

    back = {"type": "roll_back", "step": 200, **SPELLINGS["step and name"]}
    records = [vitals(50, 1, 0.5), *RUN, vitals(100, 2, 0.0), BACK, back, vitals(120, 1, 0.5)]
    history = read_history(records)
    for points in (history.params, history.rates["0"], history.alphas["tall"]):
        kept = {(p.step, p.value) for p in history.kept(points)}
        assert {step for step, _ in kept} == {50, 120} and len(kept) == 2
    assert [p.step for p in history.kept(history.losses)] == [50, 100, 120]


def test_the_move_may_come_after_the_roll_back():
    back = {"type": "roll_back", "step": 200, "to": 100, "snapshot": "before"}
    late = {**BACK, "step": 100}
    history = read_history([*RUN, back, late, *AFTER])
    assert stays(history) == [
        ("main:a", 0, 100, False),
        ("main:a", 100, 180, False),
        ("main:b", 100, 200, True),
    ]


def test_other_regions_return_to_where_they_were():
    other = {**move(0, None, "data:x", kind="initial", edge=None), "region": "data"}
    later = {**move(120, "data:x", "data:y"), "region": "data"}
    back = {"type": "roll_back", "step": 200, "to": 100, "snapshot": "before"}
    history = read_history([RUN[0], other, *RUN[1:], later, BACK, back, *AFTER])
    assert history.current["data"] == "data:x"
    data = [(s.stage, s.start, s.end, s.abandoned) for s in history.stays if s.region == "data"]
    assert ("data:y", 120, 200, True) in data
    assert ("data:x", 100, 180, False) in data


def test_counts_of_visits_steps_and_ways():
    history = read_history(RUN)
    assert history.visits() == {"main:a": 1, "main:b": 1, "main:g": 1}
    assert history.steps_in()["main:a"] == 100
    assert history.taken()["main:g.next", "next"] == 1
    assert history.taken()["main:initial", "initial"] == 1


def test_ways_are_called_what_the_graph_calls_them_now():
    first, second = "main:a.transitions[0]", "main:a.transitions[1]"
    ran = [
        move(0, None, "main:a", kind="initial", edge=None),
        move(5, "main:a", "main:b", edge=first),
        move(7, "main:b", "main:a", edge=second),
    ]
    resume = {"type": "resume", "step": 8, "edited": {"moved": {first: second, second: first}}}
    history = read_history([*ran, resume, move(9, "main:a", "main:b", edge=second)])
    assert [m.edge for m in history.moves] == [None, second, first, second]


def test_the_running_fixture_is_open():
    history = read_history(journal("grow-on-plateau-running"))
    assert [stay.stage for stay in history.stays if stay.open] == ["main:settle"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
TYPES = st.sampled_from(
    ["run", "move", "growth", "metric", "vitals", "verdict", "blocked", "event", "error",
     "roll_back", "facts", "end", "new", None]
)  # fmt: skip
KEYS = st.sampled_from(
    ["step", "region", "edge", "kind", "source", "via", "target", "visit", "guard", "evidence",
     "actions", "certificate", "name", "value", "lr", "params", "alphas", "to", "boundary",
     "snapshot", "stages", "reason", "loss", "cohort"]
)  # fmt: skip


@st.composite
def wild_records(draw):
    records = draw(st.lists(st.dictionaries(KEYS, ANYTHING), max_size=8))
    return [{**record, "type": draw(TYPES)} for record in records]


def that_any_records_can_be_read(records):
    history = read_history(records)
    assert all(stay.start <= stay.end for stay in history.stays)


@settings(max_examples=50)
@given(wild_records())
def test_any_records_can_be_read(records):
    that_any_records_can_be_read(records)


@pytest.mark.slow
@settings(max_examples=2000)
@given(wild_records())
def test_any_records_can_be_read_many(records):
    that_any_records_can_be_read(records)
