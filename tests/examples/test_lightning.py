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


def test_the_document_goes_with_this_host():
    found = sg.check(sg.load(train.GRAPH), trainer="lightning")
    told = [one for one in found if one.severity in ("error", "warning") and not one.waived]
    assert not told, told


def moves_of(folder):
    records = read_journal(folder / "run/journal.jsonl")
    return [(r["step"], r["target"]) for r in records if r["type"] == "move"]


@pytest.mark.slow
def test_it_grows_and_a_broken_run_goes_on(tmp_path, monkeypatch):
    graph = sg.load(train.GRAPH)
    told = train.train(graph, folder=tmp_path / "whole")
    moves = moves_of(tmp_path / "whole")
    assert [target for _, target in moves] == [
        "main:one", "main:second_in", "main:second_settles", "main:two",
        "main:third_in", "main:third_settles", "main:three", "main:done",
    ]  # fmt: skip
    assert told > 0.85
    with monkeypatch.context() as patched:
        patched.setattr(train.Digits, "validation_step", interrupted())
        with pytest.raises(SystemExit):  # as Lightning answers Ctrl-C
            train.train(graph, folder=tmp_path / "cut")
    again = train.train(graph, folder=tmp_path / "cut", resume=True)
    assert again == told and moves_of(tmp_path / "cut") == moves


def interrupted():
    """A validation that somebody breaks off by Ctrl-C, behind the first growth: at step 170."""
    real = train.Digits.validation_step

    def validation_step(self, *given):
        if self.trainer.global_step == 170:
            raise KeyboardInterrupt
        return real(self, *given)

    return validation_step


@pytest.mark.slow
def test_the_plain_script_learns_too():
    assert plain.train(steps=200) > 0.5
