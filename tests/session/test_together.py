"""A trial, a spike rule, a gradient scaler, a budget of tokens and workers, all in one run."""

import pytest
import torch
from torch.optim import AdamW, lr_scheduler

import stagegraph as sg
from stagegraph.testing import assert_resume_exact
from tests.session.training import PROBE, Net, Records

GRAPH = """
stagegraph: 1
name: together
budget: {tokens: 3000, params: 5k}
metrics: {val_loss: {goal: minimize, every: 4 steps}, loss: {goal: minimize}}
max_overlap: 1
regions:
  arch:
    initial: train
    stages:
      train:
        kind: train
        transitions:
          - target: try
            when: elapsed(180 tokens)
            at_most: 1
            actions: [{type: teacher, name: before}]
      try:
        kind: trial
        options:
          - {name: deep, actions: [{type: deepen, stack: blocks, add: 2, init: fresh}]}
          - {name: thin, actions: [{type: deepen, stack: blocks, add: 1, init: fresh}]}
        over: 144 tokens
        metric: val_loss
        next: warmup
      warmup:
        kind: warmup
        during:
          - {type: lr_ramp, of: grown, start: 0, over: 4 steps}
          - {type: alpha_ramp, of: grown, over: 4 steps}
        next: consolidate
      consolidate: {kind: consolidate, duration: 216 tokens, next: tail}
      tail: {kind: train, duration: 360 tokens, next: done}
      done: {kind: final}
  data:
    initial: easy
    stages:
      easy:
        kind: train
        during: [{type: difficulty, level: 0}]
        transitions: [{target: hard, when: done(arch) or in(arch:consolidate)}]
      hard: {kind: train, during: [{type: difficulty, level: 2}], duration: 4 steps, next: free}
      free: {kind: final}
  watch:
    initial: rule
    stages:
      rule:
        use: spike_rule
        with: {metric: loss, by: 900%, every: 5 steps, skip_batches: 2, at_most: 2, lr_factor: 0.5}
"""
OVERFLOWS = {3, 9, 14, 24}
"""After so many batches the gradients are infinite, and the scaler skips the update."""
SPIKES = {17, 22}
"""After so many batches the loss that is told is a spike."""


class Items:
    """Items of four features, noisy at each reading."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.arange(4.0) / 4 + index + torch.rand(())


class Loop:
    """A loop under a scaler, over batches that workers fetch."""

    def __init__(self, make_engine, workers=0):
        torch.manual_seed(3)
        self.model = Net(dropout=0.1)
        self.optimizer = AdamW(self.model.parameters(), lr=0.02)
        self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.97**step)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=5)
        ahead = {"num_workers": workers, "prefetch_factor": 1} if workers else {"lead": 2}
        self.data = sg.CurriculumLoader(
            Items(), batch_size=4, seed=5, score=list(range(24)), levels=3, **ahead
        )
        self.engine = make_engine(
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            data=self.data,
            probe=PROBE,
        )
        self.seen = []

    def go(self):
        for epoch in self.engine.epochs(self.data):
            for batch in epoch:
                self.update(batch)
        return self

    def update(self, batch):
        state, at = self.engine._core.state, self.data.consumed
        trial = None if state.trial is None else state.trial.option
        self.seen.append((trial, at, batch.tolist(), self.scaler.get_scale(), self.step))
        loss = (self.model(batch - batch.mean(1, keepdim=True)) - 1).pow(2).mean()
        self.scaler.scale(loss * (float("inf") if at in OVERFLOWS else 1.0)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.engine.step(loss=loss * (1e6 if at in SPIKES else 1.0), samples=4, tokens=36)
        if self.engine.wants_evaluation:
            self.engine.observe(val_loss=self.evaluate())

    @property
    def step(self):
        return self.engine._core.state.spent.step

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        loss = (self.model(torch.linspace(0, 1, 24).view(6, 4)) - 1).pow(2).mean().item()
        self.model.train()
        return loss


def task(workers):
    def train(job):
        loop = Loop(job.engine, workers)
        job.watch(loader=loop.data)
        loop.go()

    return train


def whole(workers=0):
    loop = Loop(lambda **things: sg.Engine(sg.load(GRAPH), **things), workers)
    records = Records()
    loop.engine.listen(records)
    return loop.go(), records


def test_all_of_it_comes_about():
    loop, records = whole()
    assert [r["status"] for r in records.of("trial")] == ["begun", "goes on", "kept"]
    spikes = [r for r in records.of("move") if r["edge"] and r["edge"].endswith(".spike")]
    assert len(spikes) == 2
    data = [a["data"] for r in spikes for a in r["actions"].values() if a["kind"] == "roll_back"]
    assert data == ["rewound, and 2 batches skipped", "rewound, and 4 batches skipped"]
    assert {at for _, at, *_ in loop.seen} >= OVERFLOWS | SPIKES
    updates = loop.step
    assert len(loop.seen) > updates, "updates that the scaler skipped are none"
    assert loop.engine._core.state.spent.tokens == 36 * updates
    assert loop.engine.ended == "final"


def test_options_of_a_trial_begin_with_the_same_batches_and_the_same_scale():
    loop, _ = whole()
    tried = {}
    for trial, at, batch, scale, _ in loop.seen:
        if trial is not None:
            tried.setdefault(trial, []).append((at, batch, scale))
    assert list(tried) == ["deep", "thin"]
    assert tried["deep"] == tried["thin"] and len(tried["deep"]) >= 4
    assert len({scale for _, _, scale in tried["deep"]}) > 1, "it overflows in the trial too"


def test_workers_change_nothing():
    alone, helped = whole()[0], whole(2)[0]
    assert [one[:3] for one in alone.seen] == [one[:3] for one in helped.seen]
    assert all(
        torch.equal(a, b)
        for a, b in zip(alone.model.parameters(), helped.model.parameters(), strict=True)
    )


def test_it_resumes_exactly(tmp_path):
    assert_resume_exact(task(0), sg.load(GRAPH), cuts=[9, 24], folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_exactly_after_each_update(tmp_path, workers):
    assert_resume_exact(task(workers), sg.load(GRAPH), cuts="all", folder=tmp_path)
