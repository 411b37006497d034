"""The larger example: wider, then deeper, then a second head; a bad growth is taken back."""

import re

import pytest

import stagegraph as sg
from examples.grow_images import data, plain, train
from examples.grow_images.model import Net
from stagegraph.drawing.history import read_history
from stagegraph.runs.journal import read_journal
from stagegraph.testing import assert_resume_exact

SHORT = 5
"""How many times as fast the run goes that is resumed everywhere."""


def hurried():
    """The same document, its stages a fifth as long; what it decides by metrics stays out of it."""
    text = train.GRAPH.read_text("utf-8")
    text = re.sub(
        r"(over|duration): (\d+) steps", lambda m: f"{m[1]}: {int(m[2]) // SHORT} steps", text
    )
    # So early in training the loss is no judge: the first deepening is undone by the clock.
    text = re.sub(
        r"when: >-\n.*?\n    actions: \[\{type: roll",
        "when: elapsed(3 steps) and visits(deepen) == 1\n    actions: [{type: roll",
        text,
        flags=re.DOTALL,
    )
    return sg.load(text)


class Ended:
    """One run of the example."""

    def __init__(self, folder):
        self.folder = folder
        self.accuracy, self.model = train.train(sg.load(train.GRAPH), run=folder)
        self.records = read_journal(folder / "journal.jsonl")

    def of(self, *kinds):
        return [record for record in self.records if record["type"] in kinds]


pytestmark = pytest.mark.xdist_group("images")  # one process trains for all tests here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Ended(tmp_path_factory.mktemp("images") / "run")


def test_it_grows_wider_then_deeper_then_gets_a_head(run):
    cohorts = [(r["cohort"], r["certificate"]["kind"]) for r in run.of("growth")]
    assert cohorts == [
        ("main:widen#1", "widen"),
        ("main:deepen.reckless#1", "deepen"),
        ("main:deepen.careful#2", "deepen"),
        ("main:add_head#1", "add_head"),
    ]
    assert run.accuracy > 0.8
    assert len(run.model.blocks) == 4 and set(run.model.heads) == {"upright", "turned"}
    assert run.model.blocks[0].up.out_channels == 32
    assert [r["reason"] for r in run.of("end")] == ["final"]


def test_the_harmful_growth_is_taken_back_and_not_tried_again(run):
    (back,) = run.of("roll_back")
    assert back["snapshot"].startswith("shallow")
    (move,) = [r for r in run.of("move") if r["edge"] == "main:interrupts.undo"]
    assert move["target"] == "main:wide" and "regressed(probe_loss" in move["guard"]
    reckless = next(r for r in run.of("growth") if "reckless" in r["cohort"])
    careful = next(r for r in run.of("growth") if "careful" in r["cohort"])
    assert reckless["certificate"]["exactness"] == "approximate"
    assert careful["certificate"]["exactness"] == "exact"
    # What the monitor measures jumps with the first, and does not with the second.
    metrics = [r for r in run.of("metric") if r["name"] == "probe_loss"]

    def around(growth):
        at = growth["boundary"]
        before = [r["value"] for r in metrics if r["boundary"] <= at][-1]
        return before, next(r["value"] for r in metrics if r["boundary"] > at)

    before, after = around(reckless)
    assert after > 2 * before
    before, after = around(careful)
    assert after < 1.5 * before


def test_contributions_of_the_new_blocks_are_measured_and_ranked(run):
    (found,) = run.of("attribution")
    names = [one["module"] for one in found["contributions"]]
    assert len(names) >= 2 and all("blocks" in name for name in names)
    values = [one["contribution"] for one in found["contributions"]]
    assert values == sorted(values, reverse=True)


def test_the_model_is_its_own_class_with_plain_weights(run):
    assert type(run.model) is Net
    assert not any(module._forward_hooks for module in run.model.modules())
    names = set(run.model.state_dict())
    assert {"blocks.3.up.weight", "heads.turned.weight", "stem.bias"} <= names


def test_its_report_draws_the_way_the_timeline_and_the_contributions(run):
    html = (run.folder / "report.html").read_text("utf-8")
    for told in ("probe_loss", "deepen.reckless#1", "undone", "turned", "Contributions"):
        assert told in html
    history = read_history(run.records)
    assert [stay.abandoned for stay in history.stays if stay.stage == "main:deepen_warmup"] == [
        True,
        False,
    ]


def test_the_document_uses_most_of_what_there_is():
    graph = sg.load(train.GRAPH)
    text = train.GRAPH.read_text("utf-8")
    for kind in (
        *("warmup", "plateau", "widen", "lr_ramp", "freeze", "settle", "consolidate", "regressed"),
        *("unstable", "distill", "add_head", "baseline", "recovered", "snapshot", "roll_back"),
        *("exhausted", "attribute", "budget"),
    ):
        assert kind in text
    assert [str(f) for f in sg.check(graph) if f.severity != "note"] == []


def test_plain_and_staged_learn_the_digits():
    assert plain.train(steps=60) > 0.5


@pytest.mark.skipif(not data.FASHION.exists(), reason="dataset-fashion-mnist is not installed")
def test_fashion_is_read_where_it_is():
    images = data.load("fashion")
    assert images.train.shape == (60_000, 1, 28, 28) and images.labels.max() == 9
    assert float(images.train.min()) >= 0 and float(images.train.max()) == 1.0


def test_a_missing_data_set_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "FASHION", tmp_path)
    with pytest.raises(SystemExit, match="install the Debian package dataset-fashion-mnist"):
        data.load("fashion")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whole_the_monitor_catches_the_harm_by_itself(tmp_path, seed):
    accuracy, model = train.train(sg.load(train.GRAPH), run=tmp_path / "run", seed=seed)
    records = read_journal(tmp_path / "run" / "journal.jsonl")
    (move,) = [r for r in records if r.get("edge") == "main:interrupts.undo"]
    assert "regressed(probe_loss" in move["guard"]
    assert [len(model.blocks), accuracy > 0.8] == [4, True]


@pytest.mark.slow
def test_it_resumes_at_every_update(tmp_path):
    report = assert_resume_exact(train.task, hurried(), folder=tmp_path, cuts="all")
    assert report.updates > 100
