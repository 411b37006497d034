"""The layout by itself: its laws on random graphs, and its passes by hand."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.drawing.layers import layers_of, turned_round
from stagegraph.drawing.nesting import Leaf, Tie, planned
from stagegraph.drawing.ordering import crossings, uncrossed

GROUPS = [(), (), (), ("a",), ("a", "b"), ("c",)]


@st.composite
def drawings(draw):
    size = draw(st.integers(1, 14))
    leaves = [
        Leaf(
            f"n{index}",
            draw(st.sampled_from([16.0, 120.0, 260.0])),
            draw(st.sampled_from([16.0, 60.0, 130.0])),
            draw(st.sampled_from(GROUPS)),
        )
        for index in range(size)
    ]
    nodes = st.sampled_from([leaf.id for leaf in leaves])
    label = st.none() | st.tuples(st.just(180.0), st.sampled_from([22.0, 64.0]))
    ends = draw(st.lists(st.tuples(nodes, nodes, label, st.booleans()), max_size=24))
    return leaves, [Tie(f"e{i}", *end) for i, end in enumerate(ends)]


def apart(one, other):
    return (
        one.x + one.width <= other.x + 0.01
        or other.x + other.width <= one.x + 0.01
        or one.y + one.height <= other.y + 0.01
        or other.y + other.height <= one.y + 0.01
    )


@settings(max_examples=150)
@given(drawings())
def test_nothing_overlaps_whatever_the_graph(drawing):
    leaves, ties = drawing
    plan = planned(leaves, ties)
    assert set(plan.leaves) == {leaf.id for leaf in leaves}
    frames = [*plan.leaves.items(), *plan.labels.items()]
    for (_, one), (_, other) in itertools.combinations(frames, 2):
        assert apart(one, other)
    for frame in [*plan.leaves.values(), *plan.labels.values(), *plan.boxes.values()]:
        assert frame.x >= -0.01 and frame.x + frame.width <= plan.width + 0.01
        assert frame.y >= -0.01 and frame.y + frame.height <= plan.height + 0.01


@settings(max_examples=150)
@given(drawings())
def test_ways_join_their_nodes_and_keep_clear_of_all_others(drawing):
    leaves, ties = drawing
    plan = planned(leaves, ties)
    for tie in ties:
        if tie.source == tie.target:
            assert tie.id not in plan.routes
            continue
        route = plan.routes[tie.id]
        source, target = plan.leaves[tie.source], plan.leaves[tie.target]
        assert source.x <= route[0].x <= source.x + source.width
        assert target.x <= route[-1].x <= target.x + target.width
        assert abs(route[0].top - source.y) < 0.01 or (
            abs(route[0].top - source.y - source.height) < 0.01
        )
        for stop in route:
            for key, frame in plan.leaves.items():
                across = frame.x < stop.x < frame.x + frame.width
                low, high = sorted((stop.top, stop.bottom))
                along = low < frame.y + frame.height - 0.01 and high > frame.y + 0.01
                assert not (across and along), (tie, key)
        assert (tie.label is None) == (tie.id not in plan.labels)


@settings(max_examples=60)
@given(drawings())
def test_boxes_hold_their_own_and_no_others(drawing):
    leaves, ties = drawing
    plan = planned(leaves, ties)
    for path, box in plan.boxes.items():
        for leaf in leaves:
            frame = plan.leaves[leaf.id]
            if leaf.group[: len(path)] == path:
                assert box.x < frame.x and frame.x + frame.width < box.x + box.width
                assert box.y < frame.y and frame.y + frame.height < box.y + box.height
            else:
                assert apart(frame, box)


def test_a_way_back_is_turned_round():
    arcs = [("1", "a", "b"), ("2", "b", "c"), ("3", "c", "a"), ("4", "b", "b")]
    assert turned_round(["a", "b", "c"], arcs) == {"3"}


def test_sources_stand_close_above_what_they_lead_to():
    arcs = [("1", "a", "b"), ("2", "b", "c"), ("3", "x", "c")]
    assert layers_of(["a", "b", "c", "x"], arcs) == {"a": 0, "b": 2, "c": 4, "x": 2}


def test_a_crossing_is_undone():
    up, down = [[], [], [1], [0]], [[3], [2], [], []]
    layers = [[0, 1], [2, 3]]
    assert crossings(layers, down) == 1
    assert crossings(uncrossed(layers, up, down), down) == 0
