"""The staged example from its command line, its folder, and its journal played again."""

import re

import pytest
import torch

import stagegraph as sg
from examples.grow_gpt import data, plain, train
from examples.grow_gpt.model import GPT
from stagegraph.runs.journal import read_journal

HURRIED = """\
stagegraph: 1
name: a small GPT in a hurry
metrics: {val_loss: {goal: minimize, every: 3 steps}}
budget: {params: 500k, steps: 60}
waive: {no-monitor: too short to see anything regress}
initial: train
stages:
  train:
    kind: train
    transitions:
      - {target: grow, when: val_loss < 5 and elapsed(6 steps) and affordable(grow), at_most: 2}
    duration: 8 steps
    next: anneal
  grow:
    kind: grow
    actions:
      - {type: snapshot, name: before}
      - {type: deepen, stack: blocks, factor: 2}
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 3 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 3 steps}
    next: consolidate
  consolidate: {kind: consolidate, duration: 4 steps, next: train}
  anneal:
    kind: train
    during: [{type: lr_ramp, end: 0, over: 3 steps}]
    duration: 3 steps
    next: done
  done: {kind: final}
"""
UNDONE = (
    HURRIED.replace("waive: {no-monitor: too short to see anything regress}\n", "")
    + """\
interrupts:
  - name: undo
    within: [consolidate]
    when: val_loss > 0 and elapsed(2 steps)
    actions: [{type: roll_back, to: before, rng: fork}]
    target: train
    at_most: 1
"""
)
CAME = {
    "hurried": [
        (None, "main:train", 0),
        ("main:train.transitions[0]", "main:warmup", 6),
        ("main:warmup.next", "main:consolidate", 9),
        ("main:consolidate.next", "main:train", 13),
        ("main:train.transitions[0]", "main:warmup", 19),
        ("main:warmup.next", "main:consolidate", 22),
        ("main:consolidate.next", "main:train", 26),
        ("main:train.next", "main:anneal", 34),
        ("main:anneal.next", "main:done", 37),
    ],
    "undone": [
        (None, "main:train", 0),
        ("main:train.transitions[0]", "main:warmup", 6),
        ("main:warmup.next", "main:consolidate", 9),
        ("main:interrupts.undo", "main:train", 12),
        ("main:train.transitions[0]", "main:warmup", 12),
        ("main:warmup.next", "main:consolidate", 15),
        ("main:consolidate.next", "main:train", 19),
        ("main:train.next", "main:anneal", 27),
        ("main:anneal.next", "main:done", 30),
    ],
}
DOCUMENTS = {"hurried": HURRIED, "undone": UNDONE}


pytestmark = pytest.mark.xdist_group("staged")  # one process trains for all tests here


@pytest.fixture(scope="module", autouse=True)
def _one_read():
    whole = data.load()
    part = data.Text(train=whole.train[:200_000], validation=whole.validation[:50_000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda: part)
        patch.setattr(train, "BATCH", 4)
        patch.setattr(plain, "BATCH", 4)
        yield


class Run:
    """One run from the command line: its folder, what it showed, and its model at the end."""

    def __init__(self, tmp_path, name, *words):
        path = tmp_path / f"{name}.yaml"
        path.write_text(DOCUMENTS[name])
        self.folder, self.graph = tmp_path / name, sg.load(path)
        train.main(["--graph", str(path), "--run", str(self.folder), *words])

    @property
    def records(self):
        return read_journal(self.folder / "journal.jsonl")


@pytest.fixture(scope="module", params=list(DOCUMENTS))
def run(request, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs"), request.param)
    run.name = request.param
    return run


def moves(records):
    return [(r["edge"], r["target"], r["step"]) for r in records if r["type"] == "move"]


def test_the_run_takes_its_way(run):
    assert moves(run.records) == CAME[run.name]
    assert run.records[-1]["type"] in ("end", "vitals", "checkpoint")
    (end,) = [r for r in run.records if r["type"] == "end"]
    assert end["reason"] == "final"
    assert sum(r["type"] == "roll_back" for r in run.records) == (run.name == "undone")


def test_a_journal_played_again_gives_the_same_transitions_at_the_same_steps(run):
    again = sg.simulate(run.graph, metrics=run.folder / "journal.jsonl")
    assert moves(again.records) == moves(run.records)
    assert again.ended == "final"
    (end,) = [r for r in run.records if r["type"] == "end"]
    (mine,) = [r for r in again.records if r["type"] == "end"]
    assert mine["spent"]["step"] == end["spent"]["step"]
    facts = [
        [(r["boundary"], r["params"]) for r in rs if r["type"] == "facts"]
        for rs in (run.records, again.records)
    ]
    assert facts[0] == facts[1]


def test_the_report_is_self_contained_and_tells_the_transitions(run):
    page = (run.folder / "report.html").read_text("utf-8")
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!\#|data:)[^\s>"']+""", page) == []
    assert not re.search(r"@import|url\((?!['\"]?(?:#|data:))", page)
    for _, target, step in CAME[run.name][1:]:
        assert target.partition(":")[2] in page
        assert str(step) in page
    assert "val_loss &lt; 5" in page


def test_what_is_shown_has_state_transitions_evidence_summary_and_report(tmp_path, capsys):
    run = Run(tmp_path, "hurried")
    out = capsys.readouterr().out
    status = next(line for line in out.splitlines() if "step 3/60" in line)
    assert status.startswith("train  step 3/60")
    for piece in ("loss ", "val_loss ", "lr 0.004", "137k params", "waits for "):
        assert piece in status
    assert "step 6  main: train → grow → warmup" in out
    assert "val_loss < 5" in out
    assert "elapsed(6 steps)" in out
    assert "growth  main:grow#1, 137k → 237k params, exact" in out
    assert "step 37  ended: final  in done" in out
    assert "growths 2" in out
    assert out.rstrip().endswith(f"report: {run.folder / 'report.html'}")


def test_a_run_can_be_stopped_after_some_steps(tmp_path, capsys):
    train.main(["--steps", "60", "--run", str(tmp_path / "short"), "--seed", "1"])
    records = read_journal(tmp_path / "short" / "journal.jsonl")
    assert (records[0]["seed"], records[-1]["step"]) == (1, 60)
    assert [r for r in records if r["type"] == "end"] == []
    assert "train  step 60/3k" in capsys.readouterr().out
    assert (tmp_path / "short" / "report.html").exists()


def test_a_run_that_was_stopped_goes_on_in_its_folder(tmp_path):
    graph = sg.load(HURRIED)
    whole = train.train(graph, run=tmp_path / "whole", seed=5)
    train.train(graph, run=tmp_path / "cut", seed=5, steps=9)
    torch.manual_seed(1)
    assert train.train(graph, run=tmp_path / "cut", seed=5) == whole
    journals = [read_journal(tmp_path / name / "journal.jsonl") for name in ("whole", "cut")]
    assert moves(journals[1]) == moves(journals[0])
    (resumed,) = [record for record in journals[1] if record["type"] == "resume"]
    assert (resumed["step"], resumed["passed_over"], resumed["damage"]) == (9, [], None)


def test_a_run_of_another_seed_is_not_gone_on_with(tmp_path):
    graph = sg.load(HURRIED)
    train.train(graph, run=tmp_path / "a", seed=5, steps=3)
    with pytest.raises(sg.SnapshotError, match="began with seed=5, and this engine has seed=6"):
        train.train(graph, run=tmp_path / "a", seed=6)


def test_runs_without_a_folder_get_the_next_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(train.next_free("runs/x")) == "runs/x-1"
    (tmp_path / "runs" / "x-1").mkdir(parents=True)
    assert str(train.next_free("runs/x")) == "runs/x-2"


def test_the_same_seed_gives_the_same_run(tmp_path):
    graph = sg.load(HURRIED)
    first, again = (train.train(graph, run=tmp_path / name, seed=5, steps=10) for name in "ab")
    assert first == again


def test_a_graph_that_asks_for_nothing_changes_nothing(tmp_path):
    quiet = sg.load(
        {
            "stagegraph": 1,
            "name": "as plain",
            "budget": {"steps": 5},
            "initial": "train",
            "stages": {"train": {"kind": "train"}},
        }
    )
    assert train.train(quiet, run=tmp_path / "quiet", seed=2) == plain.train(steps=5, seed=2)


def test_the_grown_gpt_loads_into_its_own_class_and_gives_the_same():
    model = GPT(layers=2, width=16, heads=2, context=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    probe = torch.randint(256, (2, 8))
    engine = sg.Engine(sg.load(HURRIED), model=model, optimizer=optimizer, probe=(probe,))
    while not engine.done:
        loss = engine.loss(plain.loss_of(model, probe, probe))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step(loss=loss)
        if engine.wants_evaluation:
            engine.observe(val_loss=1.0)
    again = GPT(layers=8, width=16, heads=2, context=8)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(probe), model(probe))
