"""The combined curriculum on real text: data and architecture advance together."""

import json
import re
from pathlib import Path

import pytest

import stagegraph as sg
from examples.combined_curriculum import data, plain, train
from stagegraph.runs.journal import read_journal

HERE = Path(train.__file__).parent


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The journal of a whole run."""
    run = tmp_path_factory.mktemp("runs") / "a"
    train.train(sg.load(train.GRAPH), run=run)
    return read_journal(run / "journal.jsonl")


def test_it_grows_when_the_data_is_at_its_hardest_and_the_loss_has_flattened(records):
    moves = [r for r in records if r["type"] == "move"]
    (growth,) = [r for r in records if r["type"] == "growth"]
    (grown,) = [r for r in moves if r["target"] == "arch:warmup"]
    assert grown["step"] == growth["step"]
    assert "plateau" in json.dumps(grown["evidence"])
    before = [r for r in moves if r["region"] == "data" and r["step"] <= growth["step"]]
    assert [r["target"] for r in before] == ["data:easy", "data:medium", "data:hard"]


def test_easier_data_comes_again_only_after_the_warm_up(records):
    moves = [r for r in records if r["type"] == "move"]
    (settled,) = [r["step"] for r in moves if r["target"] == "arch:settle"]
    held = [(r["step"], r["level"]) for r in records if r["type"] == "curriculum"]
    assert [level for _, level in held[:4]] == [0, 1, 2, 0]
    assert held[3][0] == settled + 1
    (end,) = [r for r in records if r["type"] == "end"]
    assert end["reason"] == "final"


def test_the_plain_script_trains(capsys, monkeypatch):
    monkeypatch.setattr(plain, "evaluate", lambda *_: 1.0)
    plain.train(steps=90)
    levels = re.findall(r"level (\d)", capsys.readouterr().out)
    assert levels == list("000011112")


def test_the_graph_is_checked_without_error_or_unwaived_warning():
    text = data.load().train
    loader = sg.CurriculumLoader(text, batch_size=8, score=text.hardness, levels=3)
    found = sg.check(sg.load(train.GRAPH), loader=loader)
    assert [str(f) for f in found if f.severity != "note" and f.waived is None] == []


def test_hard_pieces_are_harder():
    text = data.load().train
    order = sorted(range(len(text)), key=text.hardness.__getitem__)
    assert len(text) == 1499
    easy, hard = (bytes(text[i][0].tolist()) for i in (order[0], order[-1]))
    assert len(set(easy)) < len(set(hard))
