"""The SVG statechart: everything is there, nothing lies on anything else."""

import itertools
import time

import pytest

from stagegraph.drawing.render import render
from stagegraph.graph.compile import compile_graph
from tests.drawing.geometry import inside, overlap, read_sheet
from tests.drawing.graphs import chain, document, graphs, journal, mesh, odd

GRAPHS = graphs()


@pytest.fixture(params=[*GRAPHS, "a run"])
def drawn(request):
    if request.param == "a run":
        graph = document("grow-on-plateau")
        return graph, read_sheet(render(graph, "svg", records=journal("grow-on-plateau")))
    graph = GRAPHS[request.param]
    return graph, read_sheet(render(graph, "svg"))


def test_every_stage_and_every_way_is_there(drawn):
    graph, sheet = drawn
    compiled, _ = compile_graph(graph)
    assert set(compiled.stages) <= set(sheet.nodes)
    assert set(compiled.edges) <= set(sheet.ways)
    assert {edge.id for edge in compiled.edges.values()} <= set(sheet.labels)
    assert {f"{region.name}:(start)" for region in compiled.regions} <= set(sheet.nodes)


def test_no_two_nodes_or_labels_overlap(drawn):
    _, sheet = drawn
    frames = {**sheet.nodes, **{f"label of {key}": at for key, at in sheet.labels.items()}}
    pairs = itertools.combinations(frames.items(), 2)
    assert [(a, b) for (a, one), (b, other) in pairs if overlap(one, other)] == []


def test_all_lies_within_the_page(drawn):
    _, sheet = drawn
    frames = [*sheet.nodes.values(), *sheet.labels.values(), *sheet.boxes.values()]
    assert all(x >= 0 and y >= 0 for x, y, _, _ in frames)
    assert all(x <= sheet.width and y <= sheet.height for _, _, x, y in frames)
    assert all(0 <= x <= sheet.width and 0 <= y <= sheet.height for _, x, y in sheet.texts)


def test_no_way_runs_through_a_node_or_another_way_s_label(drawn):
    _, sheet = drawn
    found = [
        (way, key)
        for way, points in sheet.ways.items()
        for key, frame in [*sheet.nodes.items(), *sheet.labels.items()]
        if key != way and any(inside(point, frame) for point in points)
    ]
    assert found == []


def test_ways_begin_and_end_at_their_stages():
    sheet = read_sheet(render(document("grow-on-plateau"), "svg"))
    left, top, right, bottom = sheet.nodes["main:train"]
    (start, _), *_, (end, high) = (
        sheet.ways["main:train.transitions[0]"][0],
        sheet.ways["main:consolidate.next"][-1],
    )
    assert left < start < right
    assert sheet.ways["main:train.transitions[0]"][0][1] == pytest.approx(bottom)
    assert left < end < right and bottom < high < bottom + 12
    assert top < bottom


def test_stages_of_a_sub_graph_stand_in_their_box_and_others_do_not():
    sheet = read_sheet(render(odd(), "svg"))
    assert set(sheet.boxes) == {"c1", "c2"}
    for name, box in sheet.boxes.items():
        within = {
            key for key, at in sheet.nodes.items() if inside(at[:2], box) or inside(at[2:], box)
        }
        assert within == {f"main:{name}.{stage}" for stage in ("grow", "warmup", "hold")}


def test_regions_stand_side_by_side():
    sheet = read_sheet(render(document("combined-curriculum"), "svg"))
    arch = max(at[2] for key, at in sheet.nodes.items() if key.startswith("arch:"))
    data = min(at[0] for key, at in sheet.nodes.items() if key.startswith("data:"))
    assert arch < data


def test_the_same_graph_gives_the_same_picture():
    for graph in GRAPHS.values():
        assert render(graph, "svg") == render(graph, "svg")


def test_a_run_shows_visits_steps_and_counts():
    sheet = read_sheet(
        render(document("grow-on-plateau"), "svg", records=journal("grow-on-plateau"))
    )
    texts = [text for text, _, _ in sheet.texts]
    assert "4 visits · 8.8k steps" in texts
    assert texts.count("taken 3×") == 4
    assert "taken by the run" in texts
    assert not any("here now" in text for text in texts)


def test_a_run_that_goes_on_shows_where_it_is():
    records = journal("grow-on-plateau-running")
    texts = read_sheet(render(document("grow-on-plateau"), "svg", records=records)).texts
    assert [text for text, _, _ in texts if "here now" in text] == [
        "2 visits · 400 steps · here now"
    ]


@pytest.mark.parametrize("graph", [chain(990), mesh(900)], ids=["chain", "mesh"])
def test_a_thousand_stages_take_seconds(graph):
    start = time.perf_counter()
    sheet = read_sheet(render(graph, "svg"))
    assert time.perf_counter() - start < 20
    assert sum(key.startswith("main:s") for key in sheet.nodes) >= 900


def test_names_that_lead_nowhere_are_told():
    stages = {"s0": {"kind": "train", "duration": "1 epoch", "next": "nowhere"}}
    data = {"stagegraph": 1, "name": "lost", "initial": "s0", "stages": stages}
    from stagegraph.schema.load import load

    texts = [text for text, _, _ in read_sheet(render(load(data), "svg")).texts]
    assert any("/stages/s0/next" in text for text in texts)
