"""Each warm-up, settling and consolidation, ended after every update and resumed, bit for bit."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

import stagegraph as sg
from stagegraph.testing import assert_resume_exact
from tests.session.training import PROBE, Net

GROWING = """
stagegraph: 1
name: {name}
budget: {{steps: 30}}
initial: train
stages:
  train: {{kind: train, duration: 1 step, next: grow}}
  grow: {{kind: grow, actions: [{{type: deepen, stack: blocks, add: 1, how: {how}}}], next: stage}}
  stage: {stage}
  rest: {{kind: consolidate, duration: 2 steps, next: done}}
  done: {{kind: final}}
"""


def warmup(during):
    return f"{{kind: warmup, during: [{during}], next: rest}}"


RATE = "{type: lr_ramp, of: grown, start: 0, end: 1, over: 3 steps}"
STAGES = {
    "zero-init": ("identity", warmup(RATE.replace("3 steps", "3 steps, curve: cosine"))),
    "alpha": (
        "stack",
        warmup(
            f"{{type: alpha_ramp, of: grown, over: 3 steps, curve: [[0, 0], [0.5, 0.1], [1, 1]]}}, "
            f"{RATE}"
        ),
    ),
    "frozen host": (
        "identity",
        warmup(f"{{type: freeze, of: all, but: grown, norms: eval, dropout: eval}}, {RATE}"),
    ),
    "settle": (
        "identity",
        "{kind: settle, lr_factor: 0.5, during: [{type: lr_factor, of: {group: rest}, "
        "factor: 0.4}], duration: 3 steps, next: rest}",
    ),
}


class Normed(Net):
    """With batch statistics and dropout in the host."""

    def __init__(self):
        super().__init__(dropout=0.2)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        x = self.norm(self.inp(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def train(job):
    torch.manual_seed(1)
    model = Normed()
    own = {id(p) for p in model.blocks.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in own], "name": "rest"},
        {"params": list(model.blocks.parameters()), "name": "stack", "lr": 0.01},
    ]
    optimizer = AdamW(groups, lr=0.02)
    scheduler = CosineAnnealingLR(optimizer, 20)
    engine = job.engine(model=model, optimizer=optimizer, scheduler=scheduler, probe=PROBE)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(5))
    with engine.preemptible():
        while not engine.done:
            model.train()
            for part in x.chunk(2):  # accumulated
                engine.loss((model(part) - part.sum(1, keepdim=True)).pow(2).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            engine.step(samples=16)


@pytest.mark.parametrize("name", STAGES)
def test_it_resumes_exactly_after_every_update(name, tmp_path):
    how, stage = STAGES[name]
    graph = sg.load(GROWING.format(name=name, how=how, stage=stage))
    report = assert_resume_exact(train, graph, folder=tmp_path, cuts="all")
    assert {graph.stages["stage"].kind, "consolidate"} == set(report.kinds)
    assert report.updates == 6
