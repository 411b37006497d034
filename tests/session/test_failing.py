"""An action that fails: nothing has changed, and the author's answer is taken or the error told."""

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.actions import growing
from stagegraph.engine import core
from stagegraph.engine.machine import Machines
from stagegraph.runs.journal import read_journal
from tests.session.training import Net, Training

GROW = """
stagegraph: 1
name: a growth that fails
budget: {{steps: 40}}
initial: train
stages:
  train:
    kind: train
    transitions:
      - {{target: grow, when: elapsed(4 steps){on_error}}}
    duration: 20 steps
    next: done
  grow:
    kind: grow
    actions: [{{type: snapshot, name: kept}}, {{type: deepen, stack: blocks, add: 1}}]
    next: consolidate
  consolidate: {{kind: consolidate, duration: 3 steps, next: done}}
  anneal: {{kind: train, during: [{{type: lr_factor, factor: 0.1}}], duration: 3 steps, next: done}}
  done: {{kind: final}}
{more}
"""
PLAIN = GROW.format(on_error="", more="").replace(
    "  anneal: {kind: train, during: [{type: lr_factor, factor: 0.1}], duration: 3 steps, "
    "next: done}\n",
    "",
)
ANSWERED = GROW.format(on_error=", on_error: {retry: 1, then: anneal}", more="")
PLACE = "main:grow.actions[1]"


class Failing:
    """A certificate that a growth does not get, the first so many times."""

    def __init__(self, monkeypatch, times):
        self.left, self.calls, measure = times, 0, growing.measure

        def refusing(*args, **more):
            self.calls += 1
            if self.left > 0:
                self.left -= 1
                raise RuntimeError("no certificate today")
            return measure(*args, **more)

        monkeypatch.setattr(growing, "measure", refusing)


def everything(training):
    return (
        training.weights(),
        [id(p) for p in training.model.parameters()],
        [id(m) for m in training.model.modules()],
        [[id(p) for p in g["params"]] for g in training.optimizer.param_groups],
        [p.requires_grad for p in training.model.parameters()],
        [
            name
            for m in training.model.modules()
            for name, v in vars(m).items()
            if "hook" in name and v
        ],
        torch.get_rng_state().tolist(),
    )


def boundary(training):
    """One tick; everything before and after its boundary, and the error that it raised."""
    training.update()
    before, error = everything(training), None
    try:
        training.engine.step()
    except sg.ActionError as raised:
        error = raised
    return before, everything(training), error


def test_without_an_answer_the_error_is_raised_and_nothing_has_changed(monkeypatch):
    Failing(monkeypatch, times=1)
    training = Training(PLAIN, dropout=0.2).go(3)
    before, after, error = boundary(training)
    assert before == after
    assert isinstance(error, sg.ActionError)
    assert (error.action, error.reason) == (PLACE, "RuntimeError: no certificate today")
    assert training.stage == "train"
    (told,) = training.records.of("error")
    assert (told["edge"], told["action"], told["attempt"]) == (
        "main:train.transitions[0]",
        PLACE,
        1,
    )


def test_after_an_error_the_engine_can_be_used_and_tries_again(monkeypatch):
    Failing(monkeypatch, times=1)
    training = Training(PLAIN).go(3)
    _, _, error = boundary(training)
    assert error is not None
    before, after, error = boundary(training)
    assert error is None and before != after
    assert (training.stage, len(training.model.blocks)) == ("consolidate", 3)
    assert training.go().engine.ended == "final"


def test_a_retry_that_succeeds_goes_on_as_if_nothing_had_happened(monkeypatch):
    failing = Failing(monkeypatch, times=1)
    training = Training(ANSWERED, dropout=0.2).go(3)
    before, after, error = boundary(training)
    assert (before == after, error, training.stage) == (True, None, "train")
    training.go()
    assert failing.calls == 2
    assert [(target, step) for _, target, step in training.moves] == [
        ("main:train", 0),
        ("main:consolidate", 5),
        ("main:done", 8),
    ]


def test_when_the_retries_are_used_up_the_fallback_is_taken(monkeypatch):
    failing = Failing(monkeypatch, times=99)
    training = Training(ANSWERED, dropout=0.2).go(3)
    for _ in range(2):
        before, after, error = boundary(training)
        assert (before == after, error, training.stage) == (True, None, "train")
    training.go()
    assert failing.calls == 2
    assert [(r["target"], r["step"], r["kind"]) for r in training.records.of("move")] == [
        ("main:train", 0, "initial"),
        ("main:anneal", 6, "fallback"),
        ("main:done", 9, "next"),
    ]
    assert [r["attempt"] for r in training.records.of("error")] == [1, 2]
    assert len(training.model.blocks) == 2


def test_a_run_with_errors_is_resumed_with_its_count_of_them(monkeypatch):
    Failing(monkeypatch, times=99)
    training = Training(ANSWERED, dropout=0.2).go(4)
    checkpoint = training.save()
    training.go()
    resumed = Training(ANSWERED, dropout=0.2).load(checkpoint).go()
    assert training.moves[1:] == resumed.moves
    assert [r["attempt"] for r in resumed.records.of("error")] == [2]
    assert resumed.weights() == training.weights()


class Cracked(Net):
    """A model whose stack stops being one while it trains."""

    def crack(self):
        self.blocks[1] = nn.Linear(6, 6)


def test_a_stack_that_is_none_any_more_is_named():
    training = Training(ANSWERED, model=Cracked()).go(3)
    training.model.crack()
    boundary(training)
    (told,) = training.records.of("error")
    assert told["action"] == PLACE
    assert "blocks" in told["reason"]
    assert training.go().moves[-1][1] == "main:done"
    assert training.engine.ended == "final"


def test_a_growth_without_a_gradient_is_refused():
    class Passing(Net):
        def forward(self, x):
            x = self.inp(x)
            for block in self.blocks[:2]:
                x = block(x)
            return self.head(x)

    training = Training(PLAIN, model=Passing()).go(3)
    before, after, error = boundary(training)
    assert before == after
    assert "did not run on the probe" in error.reason


def test_a_listener_that_fails_at_a_growth_leaves_the_old_model():
    """The journal is written within the transaction: what cannot be told has not happened."""
    training = Training(PLAIN).go(3)
    training.update()
    before = everything(training)

    class Full:
        def write(self, records):
            raise sg.RunFolderError("no space left")

    full = Full()
    training.engine.listen(full)
    with pytest.raises(sg.RunFolderError, match="no space left"):
        training.engine.step()
    assert everything(training) == before
    assert training.stage == "train"


def test_what_a_failing_listener_undid_is_not_in_the_journal(tmp_path):
    training = Training(PLAIN, run=tmp_path / "a")
    training.engine.resume()
    training.go(3)
    training.update()

    class Full:
        def write(self, records):
            if any(record["type"] == "growth" for record in records):
                raise sg.RunFolderError("no space left")

    training.engine.listen(Full())
    with pytest.raises(sg.RunFolderError, match="no space left"):
        training.engine.step()
    training.engine.close()
    records = read_journal(tmp_path / "a" / "journal.jsonl")
    assert not [r for r in records if r["type"] in ("move", "growth") and r["step"]]


def test_an_interrupt_after_all_has_been_done_undoes_nothing(monkeypatch):
    training = Training(PLAIN).go(3)
    training.update()

    def interrupted(self, move):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Machines, "move", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.engine.step()
    assert (training.stage, len(training.model.blocks)) == ("consolidate", 3)
    training.go()
    assert training.engine.done and len(training.model.blocks) == 3


def test_an_interrupt_while_an_update_is_counted_loses_none(monkeypatch):
    training = Training(PLAIN).go(3)
    training.update()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(core, "absorb", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.engine.step()
    assert training.engine.progress.step == 4
    training.engine.finish()
    training.update()
    training.engine.step()
    assert training.engine.progress.step == 5


def test_an_initial_action_that_fails_is_raised_and_can_be_tried_again(monkeypatch):
    text = PLAIN.replace("initial: train", "initial: grow")
    text = text[: text.index("  train:")] + text[text.index("  grow:") :]
    Failing(monkeypatch, times=1)
    training = Training(text)
    before = everything(training)
    with pytest.raises(sg.ActionError, match="no certificate today"):
        training.engine.start()
    assert everything(training) == before
    assert training.engine.stages == {}
    training.engine.start()
    assert (training.stage, len(training.model.blocks)) == ("consolidate", 3)
