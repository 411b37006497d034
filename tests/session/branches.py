"""A run with branches that are saved and given up, of a model with all that there is to keep."""

import shutil

import torch
from safetensors.torch import load_file
from torch import nn

import stagegraph as sg
from stagegraph.runs.folder import RunFolder
from tests.session.training import WIDTH, Net, Training

BRANCHES = """
stagegraph: 1
name: branches
metrics: {val_loss: {goal: minimize, every: 3 steps}}
initial: first
stages:
  first: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 1}, {type: save, name: small}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}
    next: trunk
  trunk: {kind: train, duration: 3 steps, next: anneal}
  anneal:
    kind: train
    actions: [{type: snapshot, name: before}]
    during: [{type: lr_ramp, end: 0, over: 2 steps}]
    duration: 2 steps
    transitions:
      - target: trunk
        when: completed()
        actions:
          - {type: save, name: annealed}
          - {type: roll_back, to: before, rng: fork}
        at_most: 2
        on_error: {retry: 1, then: done}
      - {target: done, when: completed() and visits(anneal) > 2}
  done: {kind: final}
"""
SAVED = [("small", 3, 3), ("annealed", 12, 12), ("annealed", 15, 17)]
"""Name, step and boundary of each."""

OPTIONS = sg.Checkpoints(every="2 steps", background=False)


class Rich(Net):
    """A model with running statistics, tied weights and a state beside its tensors."""

    def __init__(self, dropout=0.2):
        super().__init__(dropout=dropout)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.seen += 1
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.other(torch.tanh(self.one(self.norm(x)))))

    def get_extra_state(self):
        return {"calls": self.calls, "as tensor": torch.tensor(self.calls)}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def rich():
    torch.manual_seed(3)
    return Rich()


def training(folder, document=BRANCHES, *, model=None, **more):
    given = {"run": folder, "checkpoints": OPTIONS} | more
    run = Training(document, model=rich() if model is None else model, **given)
    run.before = {}
    return run


def tick(run):
    """One update; what the model is before its boundary is remembered."""
    loss = run.update()
    state = run.model.state_dict()
    run.before[run.engine._core.state.spent.step + run.engine._core.unabsorbed + 1] = {
        key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)
    }
    run.engine.step(loss=loss, samples=5)
    run.observe()


def go(run, updates=200):
    for _ in range(updates):
        if run.engine.done:
            break
        tick(run)
    return run


def resumed(folder, document=BRANCHES, **more):
    torch.manual_seed(99)
    run = training(folder, document, **more)
    run.engine.resume()
    run.updates = run.engine._core.state.spent.step
    return run


def tensors(saved):
    found = {}
    for path in sorted(saved.path.glob("tensors-*.safetensors")):
        found |= load_file(path)
    return found


def equal(one, other):
    assert set(one) == set(other)
    return all(torch.equal(one[key], other[key]) for key in one)


def told(folder):
    records = RunFolder(folder).records()
    return [(r["name"], r["of_step"], r["of_boundary"]) for r in records if r["type"] == "saved"]


def known(folder):
    return [(one.name, one.step, one.boundary) for one in sg.saved(folder)]


def learnt(run):
    kept = {key: one for key, one in run.model.state_dict().items() if "_extra" not in key}
    return {key: one.tolist() for key, one in kept.items()}


def contents(folder):
    """Every file of every saved model but its manifest, which has the wall clock."""
    return [
        {path.name: path.read_bytes() for path in one.path.iterdir() if path.name[:3] != "man"}
        for one in sg.saved(folder)
    ]


def whole_run(base):
    """A whole run in a folder of ``base``, and copies of its folder from around each save."""
    torch.manual_seed(7)
    run = training(base / "whole")
    run.engine.resume()
    run.cuts, run.folder = {}, base / "whole"
    for made in range(1, 200):
        tick(run)
        if made in (2, 3, 4, 11, 12, 13, 16, 17, 18):
            run.cuts[made] = shutil.copytree(run.folder, base / f"cut-{made}")
        if run.engine.done:
            break
    run.engine.close()
    return run
