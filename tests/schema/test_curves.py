"""The shape of a ramp: a name, or points from (0, 0) to (1, 1)."""

import pytest

import stagegraph as sg

RAMP = """
stagegraph: 1
name: a ramp
initial: up
stages:
  up:
    kind: warmup
    during: [{{type: lr_ramp, start: 0, end: 1, over: 10 steps, curve: {curve}}}]
    next: done
  done: {{kind: final}}
"""


def test_points_are_read_and_written_again():
    graph = sg.load(RAMP.format(curve="[[0, 0], [30%, 0.1], [1, 1]]"))
    (ramp,) = graph.stages["up"].during
    assert ramp.curve == ((0.0, 0.0), (0.3, 0.1), (1.0, 1.0))
    assert hash(graph) == hash(sg.load(sg.dump(graph, "yaml")))
    assert sg.load(sg.dump(graph, "json")) == graph
    assert "over 10 steps, 3 points" in sg.render(graph, "text")


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ("cosin", r"'cosin' is no 'curve'; did you mean 'cosine'\? known: linear, cosine"),
        ("sigmoid", r"'sigmoid' is no 'curve'.* known: cosine, exponential, linear"),
        ("[[0, 0], [0.3], [1, 1]]", r"curve/1: a point of a curve is \[share of 'over', share of"),
        ("[[0, 0], [0.3, 0.1, 2], [1, 1]]", r"curve/1: a point of a curve is"),
        ("[[0, 0], [0.3, 0.1], [0.3, 1], [1, 1]]", "rise from point to point, but 0.3 follows 0.3"),
        ("[[0, 0], [0.5, 1], [0.4, 1], [1, 1]]", "rise from point to point, but 0.4 follows 0.5"),
        ("[[0, 0], [0.5, 1], [1, 0.9]]", r"goes from \[0, 0\] to \[1, 0.9\]"),
        ("[[0, 0.5], [1, 1]]", r"goes from \[0, 0.5\] to \[1, 1\]"),
        ("[[0, 0], [0.9, 1]]", r"goes from \[0, 0\] to \[0.9, 1\]"),
        ("[[0, 0], [0.5, 1.5], [1, 1]]", "both numbers of a point lie between 0 and 1, got 1.5"),
        ("[[0, 0], [-0.5, 0], [1, 1]]", "both numbers of a point lie between 0 and 1, got -0.5"),
        ("[[0, 0]]", "'curve' has at least 2 items, got 1"),
        ("[]", "'curve' has at least 2 items, got 0"),
        ("{linear: 1}", "is no 'curve'"),
    ],
)
def test_a_curve_that_is_none_is_refused_where_it_stands(curve, message):
    with pytest.raises(sg.DocumentError, match=message) as refused:
        sg.load(RAMP.format(curve=curve))
    assert len(refused.value.defects) == 1


def distilling(teachers):
    return f"""
stagegraph: 1
name: two teachers
initial: learn
stages:
  learn:
    kind: train
    during: [{{type: distill, teachers: [{teachers}]}}]
    duration: 10 steps
    next: done
  done: {{kind: final}}
"""


FADING = "{name: a, weight: {start: 1, end: 0, over: 5 steps}}"


def test_points_may_hold_a_teacher_at_nothing_beside_one_that_counts_throughout():
    late = "{name: b, weight: {start: 0, end: 1, over: 9 steps, curve: [[0,0],[0.7,0],[1,1]]}}"
    sg.load(distilling(f"a, {late}"))
    with pytest.raises(sg.DocumentError, match="no other teacher's is over 0 throughout"):
        sg.load(distilling(f"{FADING}, {late}"))
    with pytest.raises(sg.DocumentError, match="no other teacher's is over 0 throughout"):
        sg.load(distilling(f"{late}, {{name: c, weight: 0}}, {FADING}"))


def test_points_that_keep_over_nothing_are_as_any_other_curve():
    soon = "{name: b, weight: {start: 0, end: 1, over: 9 steps, curve: [[0,0],[0.1,0.7],[1,1]]}}"
    sg.load(distilling(f"{FADING}, {soon}"))
