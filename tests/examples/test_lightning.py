"""The vision transformer that grows deeper, in the Lightning Trainer."""

import pytest

import stagegraph as sg
from examples.lightning import plain, train
from stagegraph.runs.journal import read_journal
from tests.trainers.lightning.quiet import OF_THE_HOST

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (*OF_THE_HOST, ".*You are using a CUDA device")
]

SHORT = {"120 steps": "12 steps", "50 steps": "5 steps", "20 steps": "4 steps"}


def test_the_document_goes_with_this_host():
    found = sg.check(sg.load(train.GRAPH), trainer="lightning")
    assert not [one for one in found if one.severity in ("error", "warning")], found


def moves_of(folder):
    records = read_journal(folder / "run/journal.jsonl")
    return [(r["step"], r["target"]) for r in records if r["type"] == "move"]


@pytest.mark.slow
def test_it_grows_and_a_broken_run_goes_on(tmp_path, capsys):
    graph = sg.load(train.GRAPH)
    told = train.train(graph, folder=tmp_path / "whole")
    moves = moves_of(tmp_path / "whole")
    assert [target for _, target in moves] == [
        "main:one", "main:second_in", "main:second_settles", "main:two",
        "main:third_in", "main:third_settles", "main:three", "main:done",
    ]  # fmt: skip
    assert told > 0.85
    train.train(graph, folder=tmp_path / "cut", steps=130)
    again = train.train(graph, folder=tmp_path / "cut", resume=True)
    assert "accuracy" not in capsys.readouterr().out
    assert again == pytest.approx(told, abs=0.1)  # the schedule's length was another at first


@pytest.mark.slow
def test_the_plain_script_learns_too():
    assert plain.train(steps=60) > 0.3
