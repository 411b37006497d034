"""An engine whose checkpoints a host keeps: its state out, and in again; the host keeps tensors."""

import copy

import pytest
import torch

import stagegraph as sg
from stagegraph.errors import RunFolderError, SnapshotError, StageGraphError, UnsupportedError
from stagegraph.runs.journal import read_journal

GROWS = """
{stagegraph: 1, name: grows, initial: small,
 metrics: {val: {goal: minimize, every: 3 steps}},
 stages: {
   small: {kind: train, duration: 4 steps, next: grow},
   grow: {kind: grow, actions: [{type: snapshot, name: s},
          {type: deepen, stack: blocks, add: 1}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: large},
   large: {kind: train, duration: 4 steps, next: done},
   done: {kind: final}}}
"""


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.out = torch.nn.Linear(4, 4)

    def forward(self, x):
        return x + self.out(torch.tanh(self.inner(x)))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


X = torch.linspace(-1, 1, 12).view(3, 4)


class Host:
    """A loop that keeps its own checkpoints."""

    def __init__(self, run=None, text=GROWS, **given):
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.engine = sg.Engine(
            sg.load(text), model=self.model, optimizer=self.optimizer, probe=(X,), run=run,
            checkpoints=None, **given,
        )  # fmt: skip

    def train(self, updates):
        for _ in range(updates):
            if self.engine.done:
                return
            self.engine.loss(self.model(X).square().sum()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            wants = self.engine.evaluation_follows(samples=3)
            self.engine.step(samples=3)
            assert self.engine.wants_evaluation == wants
            if wants:
                self.engine.observe(val=1.0)

    def save(self):
        parts = (
            self.engine.host_state(), self.model.state_dict(), self.optimizer.state_dict(),
        )  # fmt: skip
        return copy.deepcopy(parts)

    def load(self, saved):
        engine, model, optimizer = saved
        self.engine.resume_from(engine)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)


@pytest.mark.parametrize("cut", [2, 4, 6, 9])
def test_a_host_resumes_bit_for_bit(tmp_path, cut):
    whole, part = Host(tmp_path / "a"), Host(tmp_path / "b")
    whole.train(99)
    part.train(cut)
    saved = part.save()
    part.train(2)  # what comes after the host's checkpoint is done again
    part.engine.close()
    again = Host(tmp_path / "b")
    again.load(saved)
    again.train(99)
    for host in (whole, again):
        host.engine.close()
    assert all(torch.equal(a, b) for a, b in zip(
        whole.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ))  # fmt: skip
    told = [
        [(r["step"], r["type"]) for r in read_journal(tmp_path / name / "journal.jsonl")
         if r["type"] in ("move", "growth", "end")]
        for name in "ab"
    ]  # fmt: skip
    assert told[0] == told[1]
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_host_that_evaluates_first_evaluates_the_same_model():
    host = Host()
    host.train(5)  # grown at 4; alpha is a quarter
    assert host.engine.alphas["main:grow#1"] == 0.25
    host.engine.loss(host.model(X).square().sum()).backward()
    host.optimizer.step()
    host.optimizer.zero_grad()
    before = host.model(X)
    host.engine.tune_ahead(samples=3)
    ahead = host.model(X)
    assert host.engine.progress.step == 5 and host.engine.alphas["main:grow#1"] == 0.25
    host.engine.step(samples=3)  # a half, and the boundary waits
    assert host.engine.wants_evaluation
    assert torch.equal(host.model(X), ahead) and not torch.equal(before, ahead)
    host.engine.tune_ahead(samples=3)  # the boundary waits for this update's evaluation
    assert torch.equal(host.model(X), ahead)


def test_rebuild_gives_the_model_its_structure_and_leaves_the_run(tmp_path):
    host = Host()
    host.train(3)
    early = host.save()
    host.train(99)
    assert host.engine.done and len(host.model.blocks) == 3
    host.engine.rebuild(early[0])
    host.model.load_state_dict(early[1])
    assert len(host.model.blocks) == 2
    assert host.engine.done and host.engine.stages == {"main": "done"}


BRANCHES = """
{stagegraph: 1, name: branches, initial: small,
 stages: {
   small: {kind: train, duration: 2 steps, next: grow},
   grow: {kind: grow, options: [{name: early, actions: [{type: deepen, stack: blocks, add: 1}]},
                               {name: late, actions: [{type: deepen, stack: blocks, add: 2}]}],
          actions: [{type: snapshot, name: s}], next: watch},
   watch: {kind: consolidate, duration: 3 steps, next: done,
           transitions: [{target: small, at_most: 1, when: "elapsed(2 steps)",
             actions: [{type: roll_back, to: s, data: skip, exclude: grow}]}]},
   done: {kind: final}}}
"""


def test_rebuild_goes_back_over_a_rollback():
    """The best of a run may lie on a branch that was given up."""
    host = Host(text=BRANCHES)
    host.train(3)
    early = host.save()
    assert len(host.model.blocks) == 3
    host.train(99)
    assert host.engine.done and len(host.model.blocks) == 4
    host.engine.rebuild(early[0])
    host.model.load_state_dict(early[1])
    assert len(host.model.blocks) == 3 and host.engine.done


def test_a_state_without_a_journal_is_refused_by_a_folder_that_has_one(tmp_path):
    without, within = Host(), Host(tmp_path)
    without.train(2)
    within.train(2)
    within.engine.close()
    with pytest.raises(RunFolderError, match="is of one without a folder; choose another folder"):
        Host(tmp_path).engine.resume_from(without.engine.host_state())


def test_the_journal_of_another_run_is_refused(tmp_path):
    one, other = Host(tmp_path / "a"), Host(tmp_path / "b")
    one.train(5)
    other.train(1)
    saved = one.engine.host_state()
    other.engine.close()
    with pytest.raises(RunFolderError):
        Host(tmp_path / "b").engine.resume_from(saved)


def test_an_engine_that_has_begun_does_not_resume():
    host = Host()
    host.train(1)
    with pytest.raises(StageGraphError, match="has begun already; make a new one"):
        host.engine.resume_from(host.engine.host_state())


@pytest.mark.parametrize("state", [None, {}, {"version": 9}, {"version": 1, "engine": 3}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(SnapshotError):
        Host().engine.resume_from(state)


def test_saving_models_needs_checkpoints(tmp_path):
    text = GROWS.replace("{type: snapshot, name: s}", "{type: save, name: s}")
    with pytest.raises(UnsupportedError, match="this run's are its host's; let the host save"):
        Host(tmp_path, text)


def test_asking_for_a_checkpoint_is_answered(tmp_path):
    host = Host(tmp_path)
    with pytest.raises(RunFolderError, match="the trainer keeps this run's checkpoints"):
        host.engine._record.save_now()


def test_alphas_and_rates_can_be_seen():
    host = Host()
    host.train(6)
    assert host.engine.alphas == {"main:grow#1": 0.5}
    assert host.engine.learning_rates == [1e-2]
