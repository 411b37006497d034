"""The timeline: axes, gaps, many points, none."""

import random
import re
import time
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.drawing.axis import Axis, axis_for
from stagegraph.drawing.curves import runs_of, thinned
from stagegraph.drawing.history import Point
from stagegraph.drawing.timeline import timeline_svg
from tests.drawing.geometry import read_sheet
from tests.drawing.graphs import document, journal
from tests.drawing.test_history import wild_records

GRAPH = document("grow-on-plateau")


def texts(svg):
    return [text for text, _, _ in read_sheet(svg).texts]


def test_a_run_shows_metric_stages_rate_parameters_and_alpha():
    svg = timeline_svg(GRAPH, journal("grow-on-plateau"))
    found = texts(svg)
    for title in ("val_loss (log)", "stages", "learning rate", "parameters", "α of what grew"):
        assert title in found
    for label in ("undo", "anneal", "undone", "pale and dashed: undone by a roll-back"):
        assert any(label in text for text in found)
    assert "rolled back to before: from step 7900 to 6600" in svg
    assert "val_loss is not a finite number at step 5000" in svg


def test_everything_lies_within_the_page():
    sheet = read_sheet(timeline_svg(GRAPH, journal("grow-on-plateau")))
    assert all(0 <= x <= sheet.width and 0 <= y <= sheet.height for _, x, y in sheet.texts)


def test_labels_of_transitions_do_not_overlap():
    svg = timeline_svg(GRAPH, journal("grow-on-plateau"))
    rows: dict[float, list[tuple[float, float]]] = {}
    for text, x, y in read_sheet(svg).texts:
        if text in ("grow", "settle", "consolidate", "train", "undo", "anneal") and y < 62:
            rows.setdefault(y, []).append((x, x + 5.0 * len(text)))
    assert sum(map(len, rows.values())) == 13
    for row in rows.values():
        ordered = sorted(row)
        ends = pairwise(ordered)
        assert all(one[1] <= other[0] for one, other in ends)


def test_the_plan_is_drawn_beside_what_happened():
    records = journal("grow-on-plateau")
    assert "planned" in texts(timeline_svg(GRAPH, records[:80], planned=records))


@pytest.mark.parametrize("records", [[], [{"type": "run", "step": 0, "params": 5}]])
def test_no_data_is_no_trouble(records):
    assert "Nothing has been recorded yet." in texts(timeline_svg(GRAPH, records))


def test_one_point_is_seen():
    records = [{"type": "metric", "step": 7, "name": "val_loss", "value": 2.0}]
    assert re.search(r'class="curve c0" d="M[\d.]+,[\d.]+h0.01"', timeline_svg(GRAPH, records))


def test_a_metric_that_was_never_finite_is_told():
    records = [{"type": "metric", "step": 7, "name": "val_loss", "value": None, "raw": "nan"}]
    assert "no finite value yet" in texts(timeline_svg(GRAPH, records))


def test_a_hundred_thousand_points_are_thinned():
    noise = random.Random(1)
    records = [
        {"type": "metric", "step": step, "name": "val_loss", "value": noise.random()}
        for step in range(100_000)
    ]
    start = time.perf_counter()
    svg = timeline_svg(GRAPH, records)
    assert time.perf_counter() - start < 10
    assert len(svg) < 150_000


def test_thinning_keeps_ends_and_extremes():
    axis = Axis(0, 100_000, 0, 100)
    run = [(step, 0.0) for step in range(100_000)]
    run[50_123], run[777] = (50_123, 9.0), (777, -9.0)
    kept = thinned(run, axis)
    assert {run[0], run[-1], (50_123, 9.0), (777, -9.0)} <= set(kept)
    assert len(kept) < 500 and kept == sorted(kept)


def test_a_gap_breaks_the_curve():
    points = [Point(0, 1.0, 0), Point(1, None, 0), Point(2, 2.0, 0), Point(3, 2.5, 1)]
    assert runs_of(points) == [[(0, 1.0)], [(2, 2.0)], [(3, 2.5)]]


def test_values_squeezed_together_get_a_logarithmic_axis():
    falling = [10.0 / (1 + step) for step in range(50)]
    assert axis_for(falling, 100, 0).log
    assert not axis_for([step / 50 for step in range(50)], 100, 0).log
    assert not axis_for([0.0, *falling], 100, 0).log


@given(st.lists(st.floats(-1e300, 1e300) | st.floats(1e-300, 1e-290), max_size=20))
def test_any_values_have_an_axis_with_ticks(values):
    axis = axis_for(values, 100.0, 0.0)
    for value in values:
        assert 0.0 <= axis.at(value) <= 100.0
    ticks = axis.ticks(5)
    assert len(ticks) <= 102
    assert all(isinstance(axis.label(tick), str) for tick in ticks)


def that_any_records_can_be_drawn(records):
    ET.fromstring(timeline_svg(GRAPH, records))


@settings(max_examples=30)
@given(wild_records())
def test_any_records_can_be_drawn(records):
    that_any_records_can_be_drawn(records)


@pytest.mark.slow
@settings(max_examples=1000)
@given(wild_records())
def test_any_records_can_be_drawn_many(records):
    that_any_records_can_be_drawn(records)
