"""trial and options on a real model: the same data and numbers for each, bitwise return between."""

import pytest
import torch
from torch.utils.data import DataLoader

import stagegraph as sg
from stagegraph.runs.journal import read_journal
from tests.actions.models import devices_numbers
from tests.session.training import PROBE, Net, Records

TRIAL = """
stagegraph: 1
name: try before you grow
metrics: {val_loss: {goal: minimize, every: 4 steps}}
budget: {steps: 60, params: 5k}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: try, when: elapsed(5 steps), at_most: 1}]
    duration: 9 steps
    next: done
  try:
    kind: trial
    options:
      - {name: deep, actions: [{type: deepen, stack: blocks, add: 2, init: fresh}]}
      - {name: thin, actions: [{type: deepen, stack: blocks, add: 1, init: fresh}]}
    over: 6 steps
    metric: val_loss
    worth: 0.001%
    next: warmup
    otherwise: rest
  warmup:
    kind: warmup
    during: [{type: lr_ramp, of: grown, start: 0, over: 3 steps}]
    next: rest
  rest: {kind: consolidate, duration: 6 steps, next: train}
  done: {kind: final}
"""
X = torch.linspace(-2, 2, 96).view(24, 4).sin()
Y = X.sum(dim=1, keepdim=True) * 0.5


class Order:
    """Where a loop stands in its batches, to be given as ``data``."""

    def __init__(self, device="cpu"):
        self.at, self.device = 0, device

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]

    def next(self):
        self.at += 1
        start = (self.at * 7) % 20
        chosen = slice(start, start + 4)
        return X[chosen].to(self.device), Y[chosen].to(self.device)


class Loop:
    """A small network with dropout in a loop whose batches can be rewound."""

    def __init__(self, document=TRIAL, run=None, *, device="cpu", **more):
        torch.manual_seed(5)
        self.model, self.device = Net(dropout=0.2).to(device), device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.data, self.records, self.seen = Order(device), Records(), []
        self.engine = sg.Engine(
            sg.load(document),
            model=self.model,
            optimizer=self.optimizer,
            data=self.data,
            probe=PROBE.to(device),
            run=run,
            **more,
        )
        self.engine.listen(self.records)

    def go(self, updates=1000):
        for _ in range(updates):
            if self.engine.done:
                break
            x, y = self.data.next()
            out = self.model(x)
            loss = self.engine.loss((out - y).square().mean(), outputs=out, inputs=x)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seen.append((self.engine._core.state.trial, self.data.at, loss.item()))
            self.engine.step()
            if self.engine.wants_evaluation:
                self.engine.observe(val_loss=self.evaluate())
        return self

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            loss = (self.model(X.to(self.device)) - Y.to(self.device)).square().mean().item()
        self.model.train()
        return loss

    def numbers(self):
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        moments = [
            {k: v.clone() if torch.is_tensor(v) else v for k, v in self.optimizer.state[p].items()}
            for p in self.model.parameters()
            if p in self.optimizer.state
        ]
        random = [torch.get_rng_state().tolist(), *devices_numbers()]
        return weights, moments, random, self.data.at


def equal(a, b):
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_each_option_sees_the_same_batches_and_the_best_is_kept():
    loop = Loop().go()
    tried = {}
    for trial, at, loss in loop.seen:
        if trial is not None:
            tried.setdefault(trial.option, []).append((at, loss))
    assert list(tried) == [None, "deep", "thin"]
    assert [at for at, _ in tried["deep"]] == [at for at, _ in tried[None]] == [6, 7, 8, 9, 10, 11]
    (kept,) = [r for r in loop.records.of("trial") if r["status"] in ("kept", "none kept")]
    values = dict(map(tuple, kept["tried"]))
    best = min(values, key=values.get)
    assert kept["option"] == (None if best is None else best)
    blocks = {None: 2, "deep": 4, "thin": 3}[kept["option"]]
    assert len(loop.model.blocks) == blocks
    assert loop.engine._core.state.spent.step == loop.engine.progress.step + 18


def test_between_options_everything_returns_bit_for_bit():
    loop = Loop().go(4)
    states = []

    def note(records):
        if any(r["type"] == "roll_back" for r in records):
            states.append(None)

    loop.engine.listen(type("L", (), {"write": staticmethod(note)})())
    x, y = loop.data.next()
    (loop.model(x) - y).square().mean().backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    before, modules = loop.numbers(), [id(m) for m in loop.model.modules()]
    loop.engine.step()
    assert loop.engine.stages == {"main": "try"}
    loop.go(6)
    assert len(states) == 1 and len(loop.model.blocks) == 4
    weights, moments, random, at = loop.numbers()
    old = {k: v for k, v in weights.items() if not k.startswith(("blocks.2", "blocks.3"))}
    assert equal(old, before[0]) and equal(moments, before[1])
    assert equal(random, before[2]) and at == before[3]
    loop.go(6)
    assert len(states) == 2 and len(loop.model.blocks) == 3
    weights, moments, random, at = loop.numbers()
    old = {k: v for k, v in weights.items() if not k.startswith("blocks.2")}
    assert equal(old, before[0]) and equal(moments, before[1])
    assert equal(random, before[2]) and at == before[3]
    assert set(modules) <= {id(module) for module in loop.model.modules()}


def test_what_is_kept_begins_with_the_weights_that_were_tried():
    loop = Loop()
    fresh = {}
    for _ in range(40):
        loop.go(1)
        trial = loop.engine._core.state.trial
        key = trial.option if trial is not None else loop.engine.stages["main"]
        if key in ("deep", "thin", "warmup") and key not in fresh:
            names = [n for n in loop.model.state_dict() if n.startswith("blocks.2.up")]
            fresh[key] = [loop.model.state_dict()[n].clone() for n in names]
    kept = loop.engine._core.state.options["main:try"].taken
    assert len(kept) == 1
    assert equal(fresh["warmup"], fresh[kept[0]])


@pytest.mark.parametrize("cut", [5, 8, 11, 16, 22, 25])
def test_a_resume_in_a_trial_goes_on_bit_for_bit(tmp_path, cut):
    whole = Loop().go()
    first = Loop(run=tmp_path / "run", checkpoints=sg.Checkpoints(every="1 step"))
    first.engine.resume()
    first.go(cut).engine.finish()
    first.engine.close()
    again = Loop(run=tmp_path / "run")
    assert again.engine.resume()
    again.go()
    assert equal(again.numbers(), whole.numbers())
    decided = ("trial", "move", "roll_back", "growth")
    journal = [r for r in read_journal(tmp_path / "run" / "journal.jsonl") if r["type"] in decided]
    assert [(r["type"], r["boundary"]) for r in journal] == [
        (r["type"], r["boundary"]) for r in whole.records.of(*decided)
    ]


TAUGHT = TRIAL.replace(
    "at_most: 1}", "at_most: 1, actions: [{type: teacher, name: before}]}"
).replace("over: 3 steps}]", "over: 3 steps}, {type: distill, teachers: before, loss: mse}]")


@pytest.mark.parametrize("cut", [8, 14, 20, 25])
def test_a_teacher_made_on_the_way_into_a_trial_teaches_what_it_has_kept(tmp_path, cut):
    """The teacher is the model from before all the options."""
    whole, before = Loop(TAUGHT).go(5), Loop().go(5)
    expected = {name: weight.clone() for name, weight in before.model.state_dict().items()}
    whole.go(20)
    assert whole.engine.stages == {"main": "warmup"}
    (teacher,) = whole.engine._torch._standing.teachers.values()
    assert equal(dict(teacher.module.state_dict()), expected)
    whole.go()
    first = Loop(TAUGHT, run=tmp_path / "run", checkpoints=sg.Checkpoints(every="1 step"))
    first.go(cut).engine.finish()
    first.engine.close()
    again = Loop(TAUGHT, run=tmp_path / "run")
    assert again.engine.resume()
    assert equal(again.go().numbers(), whole.numbers())


def test_a_trial_without_a_way_to_rewind_the_data_is_refused_before_the_run():
    model = Net()
    with pytest.raises(sg.UnsupportedError, match=r"main:try: .*same batches.*data="):
        sg.Engine(
            sg.load(TRIAL),
            model=model,
            optimizer=torch.optim.AdamW(model.parameters()),
            probe=PROBE,
        )


def test_a_loader_that_cannot_go_back_is_refused_for_a_trial():
    """Each option would be trained on other batches, and nobody would know."""
    loop = Loop()
    with pytest.raises(sg.UnsupportedError, match=r"main:try: .*same batches.*DataLoader cannot"):
        next(loop.engine.epochs(DataLoader(X, batch_size=4)))
    assert not loop.engine.stages
