"""Attributions in the state: what harmful(...) says of them, what prune makes of worst."""

import json

import pytest

from stagegraph.engine.attributions import Attribution, Contribution
from stagegraph.engine.ports import Facts, Outcome
from stagegraph.engine.state import State
from stagegraph.engine.trace import attribution_evidence
from stagegraph.errors import ActionError, SnapshotError
from stagegraph.graph.check import check
from stagegraph.schema.load import load
from tests.engine.driving import HEADER, FakeActor, Run


def attribution(base, *values, metric="m"):
    parts = (Contribution(f"blocks.g1-{i}", "tall", v, alone=False) for i, v in enumerate(values))
    return Attribution(metric, base, 0, tuple(parts))


@pytest.mark.parametrize(
    ("base", "values", "by", "answer"),
    [
        (2.0, (0.1, -0.02), 0.01, True),
        (2.0, (0.1, -0.019), 0.01, False),
        (2.0, (0.1, 0.3), 0.01, False),
        (2.0, (-0.1, -0.2), 0.1, True),
        (-2.0, (0.1, -0.02), 0.01, True),  # a share of the absolute value
        (-2.0, (0.1, 0.02), 0.01, False),
        (0.0, (-1e-9,), 0.5, True),
        (0.0, (0.0,), 0.5, False),
        (2.0, (), 0.01, False),
        (2.0, (None, -0.02), 0.01, True),
        (2.0, (None, -0.019), 0.01, None),  # the unknown one may harm as much
        (None, (-5.0,), 0.01, None),
    ],
)
def test_harmful_is_a_share_of_the_absolute_value_and_three_valued(base, values, by, answer):
    assert attribution(base, *values).harmful(by) is answer


@pytest.mark.parametrize(
    ("values", "worst"),
    [
        ((0.5, -0.1, -0.2), "blocks.g1-2"),
        ((0.5, 0.1), None),
        ((0.0,), None),
        ((None, None), None),
        ((None, -1.0, 3.0), "blocks.g1-1"),
        ((-1.0, -1.0), "blocks.g1-0"),
    ],
)
def test_the_worst_is_a_module_that_harms(values, worst):
    found = attribution(1.0, *values).worst
    assert (None if found is None else found.module) == worst


def test_they_are_ranked_with_the_unknown_last():
    ranked = attribution(1.0, None, -1.0, 3.0).ranked
    assert [one.value for one in ranked] == [3.0, -1.0, None]


# In a run on numbers, whose actor is told what to have measured

GRAPH = """
metrics: {m: {goal: minimize}, n: {goal: maximize}}
initial: grow
stages:
  grow:
    kind: grow
    actions: [{type: snapshot, name: s}, {type: deepen, stack: b, add: 2, name: tall}]
    next: look
  look:
    kind: train
    actions: [{type: attribute, metric: m}, {type: attribute, metric: n}]
    transitions: [{target: cut, when: "harmful(m, by=1%)"}]
    duration: 4 steps
    next: rest
  cut: {kind: grow, actions: [{type: prune, of: worst, metric: m}], next: rest}
  rest:
    kind: train
    transitions:
      - {target: look, when: step > 9, actions: [{type: roll_back, to: s, data: skip}], at_most: 1}
    duration: 9 steps
    next: done
  done: {kind: final}
"""


class Measuring(FakeActor):
    """Says that it has measured what it was given."""

    def __init__(self, *found):
        super().__init__(100, {"main:grow": 10})
        self.found = found

    def transact(self, boundary, confirm):
        def with_found(outcome):
            measured = any(deed.action.type == "attribute" for deed in boundary.deeds)
            confirm(Outcome(outcome.evidence, outcome.facts, self.found if measured else ()))

        return super().transact(boundary, with_found)


def running(*found, document=GRAPH):
    run = Run(document, params=100, costs={"main:grow": 10})
    run.actor = run.core._actor = Measuring(*found)
    return run


TWO = (attribution(1.0, 0.5, -0.2), attribution(1.0, -0.9, 0.1, metric="n"))


def test_the_worst_of_the_metric_that_is_meant_is_pruned():
    run = running(*TWO)
    run.step(2)
    (deed,) = [d for b in run.actor.boundaries for d in b.deeds if d.action.type == "prune"]
    assert (deed.of.modules, deed.of.cohorts) == (("blocks.g1-1",), ())
    assert run.stage == "rest"


def test_without_a_metric_the_newest_attribution_counts():
    run = running(*TWO, document=GRAPH.replace("of: worst, metric: m", "of: worst"))
    run.step(2)
    (deed,) = [d for b in run.actor.boundaries for d in b.deeds if d.action.type == "prune"]
    assert deed.of.modules == ("blocks.g1-0",)


def test_a_prune_disturbs_and_ends_what_was_measured():
    run = running(*TWO)
    run.core.start()
    assert len(run.core.state.attributions) == 2
    before = run.core.state.disturbed
    run.step(m=4.0)
    assert run.stage == "rest"
    assert run.core.state.attributions == ()
    assert run.core.state.disturbed == run.core.state.observations > before


def test_the_last_module_of_a_growth_takes_the_growth_with_it():
    alone = Attribution("m", 1.0, 0, (Contribution("blocks.g1-0", "tall", -0.5, alone=True),))
    run = running(alone)
    assert run.core.started is False
    run.step(2)
    state = run.core.state
    assert (state.cohorts, state.pruned) == ((), {"tall": 1})
    assert state.regions["main"].grown == ()


def test_unknown_is_neither_harmful_nor_not_harmful():
    document = GRAPH.replace("harmful(m, by=1%)", "not harmful(m, by=1%)")
    assert running(attribution(1.0, None), document=document).step(2).stage == "look"
    assert running(document=document).step(2).stage == "look"
    with pytest.raises(ActionError, match="found no module that harms"):
        running(attribution(1.0, 0.5), document=document).step(2)


def test_a_rollback_returns_to_what_was_known_at_its_snapshot():
    document = GRAPH.replace("target: look, when: step > 9", "target: rest, when: step > 9")
    run = running(attribution(1.0, 0.5), document=document)
    run.step(9)
    assert len(run.core.state.attributions) == 1
    run.step()
    assert run.of_type("roll_back", "to") == [0]
    assert run.core.state.attributions == ()


def test_the_state_keeps_it_and_an_earlier_one_has_none():
    run = running(*TWO)
    run.core.start()
    saved = json.loads(json.dumps(run.core.state_dict(), allow_nan=False))
    again = Run(GRAPH, params=100, costs={"main:grow": 10})
    again.core.load_state_dict(saved)
    assert again.core.state.attributions == TWO
    for key in ("attributions", "pruned"):
        del saved["engine"][key]
    older = Run(GRAPH, params=100, costs={"main:grow": 10})
    older.core.load_state_dict(saved)
    assert (older.core.state.attributions, older.core.state.pruned) == ((), {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attributions", [{"metric": "m", "base": "low", "boundary": 0, "contributions": []}]),
        ("attributions", [{"metric": "x", "base": 1.0, "boundary": 0, "contributions": []}]),
        (
            "attributions",
            [
                {
                    "metric": "m",
                    "base": 1.0,
                    "boundary": 0,
                    "contributions": [["a", "b", 1.0, False]],
                }
            ],
        ),
        ("pruned", {"tall": "yes"}),
    ],
)
def test_a_state_that_is_damaged_is_refused(key, value):
    run = running(*TWO)
    run.step()
    saved = json.loads(json.dumps(run.core.state_dict()))
    saved["engine"][key] = value
    with pytest.raises(SnapshotError):
        Run(GRAPH, params=100, costs={"main:grow": 10}).core.load_state_dict(saved)


def test_an_edited_graph_drops_the_attribution_of_a_metric_that_it_has_not():
    import stagegraph as sg

    run = running(*TWO)
    run.step()
    edited = load(
        HEADER
        + GRAPH.replace(", n: {goal: maximize}", "").replace(", {type: attribute, metric: n}", "")
    )
    assert [f for f in check(edited) if f.severity == "error"] == []
    engine = sg.Engine(edited, params=100, costs={"grow": 10})
    with pytest.raises(SnapshotError, match="attribute"):  # the stage it is in was entered so
        engine.load_state_dict(run.core.state_dict(), edited_from=run.graph)
    metrics = {one.metric for one in State(attributions=TWO).attributions}
    assert metrics == {"m", "n"}


def test_of_each_metric_the_newest_is_kept_and_the_newest_of_all_comes_last():
    first, other = TWO
    state = State().learnt(State().facts, (first, other))
    again = attribution(2.0, 0.1)
    assert state.learnt(state.facts, (again,)).attributions == (other, again)
    assert State().learnt(state.facts, (first, again)).attributions == (again,)


def test_what_is_waited_for_is_told_in_a_few_words():
    assert running().core.waits() == []
    run = running(attribution(1.0, 0.5, -0.001))
    run.step()
    assert run.core.waits()[0] == "cut: harmful(m) (worst blocks.g1-1)"
    bare = running()
    bare.step()
    assert bare.core.waits()[0] == "cut: harmful(m) (not attributed yet)"


def test_numbers_prune_what_a_growth_had_added():
    document = GRAPH.replace("of: worst, metric: m", "of: {grown: tall}").replace(
        '"harmful(m, by=1%)"', "elapsed(2 steps)"
    )
    run = Run(document, params=100, costs={"main:grow": 10})
    run.step()
    assert run.core.state.facts.params == 110
    run.step(2)
    assert run.core.state.facts.params == 100
    assert run.resumed().core.state.facts.params == 100
    (told,) = run.of_type("prune")
    assert told["params"] == {"before": 110, "after": 100}


def test_a_region_goes_by_what_it_has_attributed_itself():
    state = State().learnt(
        Facts(),
        (
            Attribution("m", 1.0, 3, (Contribution("blocks.a", "ours", 0.5, alone=True),), "a"),
            Attribution("m", 1.0, 4, (Contribution("blocks.b", "theirs", -0.5, alone=True),), "b"),
        ),
    )
    assert [one.region for one in state.attributions] == ["a", "b"]
    back = State.from_json(json.loads(json.dumps(state.to_json("x"))), "x")
    assert back.attributions == state.attributions
    a, b = (attribution_evidence(state, "m", region) for region in "ab")
    assert a is not None and a["worst"] is None
    assert b is not None and b["worst"] == "blocks.b"
