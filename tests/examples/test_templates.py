"""The graphs written with templates, in YAML and in Python: simulated to their end, drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

import stagegraph as sg
from examples import templates
from stagegraph.graph.compile import compile_graph

FOLDER = Path(__file__).parents[2] / "examples" / "graphs"
CURVES = {
    "val_loss": "2 + 300 / (step + 100)",
    "val_acc": "0.9 - 30 / (step + 100)",
    "loss": "2 + 300 / (step + 100)",
}


def stays(graph, **metrics):
    costs = {key: 400_000 for key, stage in compile_graph(graph)[0].stages.items() if stage.growths}
    named = {key.removeprefix("main:"): cost for key, cost in costs.items()}
    curves = {name: curve for name, curve in CURVES.items() if name in graph.metrics}
    plan = sg.simulate(
        graph,
        metrics={**curves, **metrics},
        params=1_200_000,
        costs=named,
        steps_per_epoch=100,
    )
    assert plan.ended == "final"
    return [(i.stage, i.start, i.end) for i in plan.schedule if i.region != "watch"]


def document(name):
    return sg.load(FOLDER / f"{name}.yaml")


def test_one_growth():
    assert stays(document("grow-cycle")) == [
        ("deeper.wait", 0, 4400),
        ("deeper.warmup", 4400, 4900),
        ("deeper.settle", 4900, 5100),
        ("deeper.consolidate", 5100, 7100),
        ("rest", 7100, 11100),
        ("done", 11100, 11100),
    ]


def test_two_growths_in_sequence():
    assert stays(document("sequential-growths")) == [
        ("growths.growth1.wait", 0, 4400),
        ("growths.growth1.warmup", 4400, 4900),
        ("growths.growth1.consolidate", 4900, 6900),
        ("growths.growth2.wait", 6900, 7900),
        ("growths.growth2.warmup", 7900, 8200),
        ("growths.growth2.consolidate", 8200, 9200),
        ("anneal", 9200, 11200),
        ("done", 11200, 11200),
    ]


def test_two_growths_that_overlap():
    found = {stage: (a, b) for stage, a, b in stays(document("overlapping-growths"))[2:4]}
    assert found == {"growth.warmup": (6800, 7100), "growth.consolidate": (7100, 12100)}
    assert ("growth.warmup", 9000, 9300) in stays(document("overlapping-growths"))


def test_three_groups():
    found = stays(document("unfreezing-by-template"), val_acc="0.5")
    assert [stage for stage, _, _ in found] == [
        *("thaw.thaw1", "thaw.warmup2", "thaw.thaw2", "thaw.warmup3", "thaw.thaw3", "done"),
    ]
    assert found[-1][1] < 1800, "sooner than without the plateaus"


def test_three_anneals():
    assert stays(document("warmup-stable-decay")) == [
        ("lr.warmup", 0, 500),
        ("lr.stable1", 500, 4000),
        ("lr.anneal1", 4000, 4800),
        ("lr.stable2", 4000, 8000),
        ("lr.anneal2", 8000, 9600),
        ("lr.stable3", 8000, 12000),
        ("lr.anneal3", 12000, 14400),
        ("done", 14400, 14400),
    ]


def test_three_lengths():
    assert [end for _, _, end in stays(document("context-extension"))] == [
        *(10_000, 10_200, 11_200, 11_400, 12_400, 12_600, 13_600, 13_600)
    ]


def test_spikes():
    def spiking(step):
        return 9.0 if step == 1234 else 2.0

    graph = document("spike-rule")
    plan = sg.simulate(graph, metrics={"loss": spiking}, max_steps=2500)
    found = [(i.stage, i.start, i.end) for i in plan.schedule if i.region == "main"]
    assert found[:2] == [("train", 0, 1234), ("train", 1000, 1234)]
    assert len(found) == 6, "the numbers come again at each rewind, five times; then it goes on"
    assert found[-1] == ("train", 1000, plan.steps)


@pytest.mark.parametrize("name", templates.BUILDERS)
def test_each_is_built_checked_drawn_and_comes_to_its_end(name, capsys):
    graph = templates.BUILDERS[name]()
    findings = [f for f in sg.check(graph) if f.severity != "note" and f.waived is None]
    assert [str(f) for f in findings] == []
    assert stays(graph)
    assert all(sg.render(graph, kind) for kind in ("text", "svg"))
    templates.main(name)
    assert capsys.readouterr().out == sg.dump(sg.expand(graph))


def test_a_drawing_names_the_templates_inside_of_templates_too():
    drawn = sg.render(document("sequential-growths"), "svg")
    assert "growths uses sequential" in drawn
    assert "growth2 uses grow_cycle" in drawn


def test_all_are_listed(capsys):
    templates.main()
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(
        templates.BUILDERS
    )
