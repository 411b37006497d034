"""The documents of the examples: read, checked, and simulated to their end."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

import stagegraph as sg
from examples.grow_gpt import train
from tests.session.training import PROBE, Net, Records

FOLDER = Path(__file__).parents[2] / "examples" / "graphs"
DOCUMENTS = [*sorted(FOLDER.glob("*.yaml")), train.GRAPH]


def by_name(name):
    return sg.load(FOLDER / f"{name}.yaml")


def stays(simulation):
    return [(i.stage, i.start, i.end) for i in simulation.schedule]


def test_the_readme_tells_of_each_document_and_of_no_other():
    readme = (FOLDER.parent / "README.md").read_text("utf-8")
    told = re.findall(r"^\| `([\w-]+\.yaml)` \|", readme.partition("## graphs")[2], re.MULTILINE)
    assert sorted(told) == [path.name for path in sorted(FOLDER.glob("*.yaml"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_each_is_checked_without_error_or_unwaived_warning(path):
    findings = sg.check(sg.load(path))
    assert [str(f) for f in findings if f.severity != "note" and f.waived is None] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_each_names_its_schema(path):
    first = path.read_text("utf-8").partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert first.endswith("/schemas/stagegraph.schema.json")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["text", "mermaid", "dot", "svg", "html"])
def test_each_can_be_drawn(path, kind):
    graph = sg.load(path)
    stages = graph.stages or next(iter(graph.regions.values())).stages
    assert next(iter(stages)) in sg.render(graph, kind)


# Those with one region, to their end

GROWING = [
    ("train", 0, 7400),
    ("warmup", 7400, 7900),
    ("settle", 7900, 8000),
    ("consolidate", 8000, 8400),
    ("train", 8400, 10400),
    ("warmup", 10400, 10900),
    ("settle", 10900, 11000),
    ("consolidate", 11000, 11400),
    ("train", 11400, 13400),
    ("warmup", 13400, 13900),
    ("settle", 13900, 14000),
    ("consolidate", 14000, 14400),
    ("train", 14400, 16400),
    ("anneal", 16400, 18400),
    ("done", 18400, 18400),
]


def loss(step):
    return 2 + 300 / (step + 100)


def as_csv(path, name, values):
    rows = "".join(f"{step},{value!r}\n" for step, value in values)
    path.write_text(f"step,{name}\n{rows}")


def as_jsonl(path, name, values):
    path.write_text("".join(json.dumps({"step": s, name: v}) + "\n" for s, v in values))


@pytest.fixture(params=["a formula", "a function", "csv", "jsonl"])
def source(request, tmp_path):
    """The same numbers from each kind of source."""

    def give(name, formula, function, every, last):
        values = [(step, function(step)) for step in range(every, last + 1, every)]
        match request.param:
            case "a formula":
                return {name: formula}
            case "a function":
                return {name: function}
            case "csv":
                as_csv(tmp_path / "curve.csv", name, values)
                return tmp_path / "curve.csv"
        as_jsonl(tmp_path / "curve.jsonl", name, values)
        return tmp_path / "curve.jsonl"

    return give


def test_grow_on_plateau_grows_three_times_and_ends(source):
    plan = sg.simulate(
        by_name("grow-on-plateau"),
        metrics=source("val_loss", "2 + 300 / (step + 100)", loss, 200, 20_000),
        steps_per_epoch=100,
        params=1_200_000,
        costs={"grow": 400_000},
    )
    assert plan.ended == "final"
    assert stays(plan) == GROWING
    assert [r["params"] for r in plan.records if r["type"] == "facts"] == [
        1_200_000,
        1_600_000,
        2_000_000,
        2_400_000,
    ]


def test_a_metric_is_known_by_what_hosts_call_it(tmp_path):
    as_csv(tmp_path / "log.csv", "val/loss", [(s, loss(s)) for s in range(200, 20_001, 200)])
    plan = sg.simulate(
        by_name("grow-on-plateau"),
        metrics=tmp_path / "log.csv",
        steps_per_epoch=100,
        params=1_200_000,
        costs={"grow": 400_000},
    )
    assert stays(plan) == GROWING


def test_a_growth_that_makes_it_worse_is_undone(tmp_path):
    def worse(step):
        return loss(step) + (0.5 if 7900 < step <= 8400 else 0.0)

    plan = sg.simulate(
        by_name("grow-on-plateau"),
        metrics={"val_loss": worse},
        steps_per_epoch=100,
        params=1_200_000,
        costs={"grow": 400_000},
    )
    (back,) = [r for r in plan.records if r["type"] == "roll_back"][:1]
    assert (back["to"], back["step"]) == (7400, 8400)
    assert plan.ended == "final"


def test_no_room_for_parameters_means_no_growth():
    plan = sg.simulate(
        by_name("grow-on-plateau"),
        metrics={"val_loss": loss},
        steps_per_epoch=100,
        params=2_900_000,
        costs={"grow": 400_000},
    )
    assert [stage for stage, _, _ in stays(plan)] == ["train", "anneal", "done"]


def test_gradual_unfreezing_goes_from_the_top_down(source):
    def accuracy(step):
        return 0.9 - 30 / (step + 100)

    plan = sg.simulate(
        by_name("gradual-unfreezing"),
        metrics=source("val_acc", "0.9 - 30 / (step + 100)", accuracy, 100, 1300),
        steps_per_epoch=100,
    )
    assert plan.ended == "final"
    assert stays(plan) == [
        ("head", 0, 200),
        ("top", 200, 300),
        ("upper", 300, 800),
        ("full", 800, 1200),
        ("done", 1200, 1200),
    ]


def test_gradual_unfreezing_goes_on_sooner_when_nothing_gets_better():
    plan = sg.simulate(by_name("gradual-unfreezing"), metrics={"val_acc": 0.5}, steps_per_epoch=100)
    assert plan.ended == "final"
    assert [stage for stage, _, _ in stays(plan)] == ["head", "top", "upper", "full", "done"]
    assert plan.steps < 1200


def test_sequential_stages_grow_one_after_another():
    plan = sg.simulate(
        by_name("sequential-stages"),
        metrics={"val_loss": loss},
        params=1_000_000,
        costs={"deepen": 400_000, "widen": 800_000},
    )
    assert plan.ended == "final"
    assert stays(plan) == [
        ("small", 0, 4400),
        ("blend", 4400, 4700),
        ("consolidate_depth", 4700, 6700),
        ("deep", 6700, 7700),
        ("ease", 7700, 8000),
        ("consolidate_width", 8000, 10_000),
        ("wide", 10_000, 11_000),
        ("done", 11_000, 11_000),
    ]


# What goes wrong when one grows, and the answers


def rollbacks(plan):
    return [(r["step"], r["to"]) for r in plan.records if r["type"] == "roll_back"]


def too_fast(hurt_until, norm=1.0):
    def steps(step):
        return (
            loss(step)
            + 0.001 * math.sin(step * 12.9898)
            + (0.8 if 7000 <= step <= hurt_until else 0)
        )

    plan = sg.simulate(
        by_name("growing-too-fast"),
        metrics={
            "val_loss": steps,
            "grad_norm": lambda step: 1 + 0.1 * math.sin(step) + (norm - 1) * (step > 6800),
        },
        params=1_200_000,
        costs={"grow": 400_000, "gentle": 100_000},
    )
    assert plan.ended == "final"
    return plan


def test_a_growth_that_goes_well_is_left_alone():
    plan = too_fast(0)
    assert rollbacks(plan) == []
    assert [s for s, _, _ in stays(plan)] == [
        "train", "warmup", "consolidate", "train", "anneal", "done"
    ]  # fmt: skip


def test_growing_too_fast_is_tried_again_smaller_and_slower():
    """The window begins anew at 7,100, where the warm-up's ramp of the rate ends.

    It has three values at 7,400, and the excess has lasted for a window at 7,800.
    """
    plan = too_fast(7800)
    assert rollbacks(plan) == [(7800, 6800)]
    assert [s for s, _, _ in stays(plan)][:6] == [
        "train", "warmup", "consolidate", "retry", "long_warmup", "consolidate"
    ]  # fmt: skip
    assert plan.records[-1]["type"] == "end"


def test_a_growth_that_fails_twice_is_given_up_and_the_run_ends():
    plan = too_fast(99_000)
    assert [to for _, to in rollbacks(plan)] == [6800, 6800]
    assert [s for s, _, _ in stays(plan)][-3:] == ["train", "anneal", "done"]
    facts = [r["params"] for r in plan.records if r["type"] == "facts"]
    assert facts[-1] == 1_200_000


def test_a_norm_of_the_gradient_that_stays_large_is_too_fast_as_well():
    assert len(rollbacks(too_fast(0, norm=5.0))) == 1


def too_slow(curve):
    plan = sg.simulate(
        by_name("growing-too-slow"),
        metrics={"val_loss": curve},
        params=1_200_000,
        costs={"grow": 400_000},
    )
    assert plan.ended == "final"
    return [(r["step"], r["guard"]) for r in plan.records if r["type"] == "move" and r["guard"]]


def test_growing_too_slow_does_not_wait_for_a_plateau_that_noise_hides():
    moves = too_slow(lambda step: 2 + 3 * math.exp(-step / 900) + 0.02 * math.sin(step * 13))
    assert moves[0][0] >= 5000 and "gain(val_loss" in moves[0][1]


def test_growth_that_no_longer_helps_is_the_last():
    moves = too_slow(lambda step: 2 + 3 * math.exp(-step / 400))
    assert "plateau" in moves[0][1]
    assert "not improved" in next(guard for _, guard in moves if "improved" in guard)
    assert sum("plateau" in guard or "gain" in guard for _, guard in moves) == 1


def shocked(begin, end):
    def accuracy(step):
        return 0.9 - 30 / (step + 100) - (0.2 if begin < step < end else 0)

    plan = sg.simulate(
        by_name("transition-shock"),
        metrics={"val_acc": accuracy},
        params=1_200_000,
        costs={"grow": 400_000},
    )
    assert plan.ended == "final"
    return plan


def test_a_shock_that_heals_by_itself_is_left_alone():
    plan = shocked(4000, 5500)
    assert rollbacks(plan) == []
    assert "heal" not in [stage for stage, _, _ in stays(plan)]


def test_a_shock_that_lasts_is_given_time_and_a_teacher():
    plan = shocked(4000, 8000)
    assert rollbacks(plan) == []
    assert [s for s, _, _ in stays(plan)][3:7] == ["consolidate", "heal", "look_again", "train"]


def test_a_shock_that_does_not_heal_is_taken_back():
    assert rollbacks(shocked(4000, 9800)) == [(9500, 4000)]


# The one that measures, on numbers and on a model

MONITORED = [
    ("train", 0, 2000),
    ("warmup", 2000, 2500),
    ("settle", 2500, 3000),
    ("consolidate", 3000, 4000),
    ("judge", 4000, 4200),
    ("rest", 4200, 6200),
    ("done", 6200, 6200),
]


def monitored(probe_loss):
    graph, costs = by_name("monitor-and-prune"), {"grow": 400_000}
    return sg.simulate(graph, metrics={"probe_loss": probe_loss}, params=1_200_000, costs=costs)


def test_monitor_and_prune_goes_straight_on_where_nothing_is_known_to_harm():
    plan = monitored(loss)
    assert plan.ended == "final"
    assert stays(plan) == MONITORED


def test_monitor_and_prune_undoes_a_growth_that_made_it_worse():
    plan = monitored(lambda step: 2 + (step > 2600))
    assert [stage for stage, _, _ in stays(plan)] == [
        *("train", "warmup", "settle", "rest", "done"),
    ]


def hundredth(document):
    """The same document, a hundred times as fast."""
    text = (FOLDER / f"{document}.yaml").read_text("utf-8")
    for before, after in (
        *((f"{n}k steps", f"{10 * n} steps") for n in (1, 2)),
        *((f"{n}00 steps", f"{n} steps") for n in (1, 2, 3, 5)),
    ):
        text = text.replace(before, after)
    return sg.load(text.replace("12k", "120"))


def test_monitor_and_prune_takes_out_the_block_that_harms():
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)

    def error(model):
        return (model(PROBE) - PROBE.sum(1, keepdim=True)).pow(2).mean()

    graph, records = hundredth("monitor-and-prune"), Records()
    engine = sg.Engine(
        graph,
        model=model,
        optimizer=optimizer,
        probe=PROBE,
        monitor=lambda model: {"probe_loss": error(model)},
    )
    engine.listen(records)
    engine.start()
    while not engine.done:
        error(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        if engine.progress.step == 39:  # the last of its consolidation
            with torch.no_grad():
                model.blocks[3].down.bias.fill_(30.0)
        engine.step()
    engine.close()
    assert records.of("prune")[0]["names"] == ["blocks.3"]
    assert "main:cut" in [key for record in records.of("move") for key in record["via"]]
    assert len(model.blocks) < 4


# The two with regions


def regions(name, **more):
    plan = sg.simulate(by_name(name), metrics={"val_loss": loss}, **more)
    assert plan.ended == "final"
    return {
        region: [(i.stage, i.start, i.end) for i in plan.schedule if i.region == region]
        for region in sg.load(FOLDER / f"{name}.yaml").regions
    }


def test_the_second_growth_starts_while_the_first_still_consolidates():
    found = regions(
        "depth-overlapped-by-width",
        params=1_000_000,
        costs={"depth:grow": 400_000, "width:grow": 500_000},
    )
    depth, width = ({s: (a, b) for s, a, b in found[r]} for r in ("depth", "width"))
    assert depth["consolidate"][0] < width["warmup"][0] < depth["consolidate"][1]
    assert (depth["done"][1], width["done"][1]) == (14_300, 14_300)


def test_the_data_gets_harder_and_easier_again_at_each_growth():
    found = regions("combined-curriculum", params=1_200_000, costs={"grow": 400_000})
    assert [stage for stage, _, _ in found["data"]] == ["easy", "medium", "hard"] * 4
    growths = [start for stage, start, _ in found["arch"] if stage == "warmup"]
    easier = [start for stage, start, _ in found["data"] if stage == "easy"][1:]
    assert easier == [step + 1 for step in growths]
