"""The engine does not wait for the device where no guard asks."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import stagegraph as sg
from tests.session.training import PROBE, Net

GRAPH = """
stagegraph: 1
name: asks late
metrics: {val_loss: {goal: minimize}, grad_norm: {goal: minimize, look_every: 10 steps}}
budget: {steps: 60}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: grow, when: elapsed(4 steps), at_most: 1}]
    duration: 30 steps
    next: done
  grow:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 12 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 12 steps}
    next: train
  done: {kind: final}
interrupts:
  - name: too_fast
    within: [warmup]
    when: unstable(grad_norm, since=before, over=20 steps, by=100%, allow=8 steps)
    actions: [{type: roll_back, to: before, data: skip, lr_factor: 0.5}]
    target: train
    at_most: 1
"""


class Reads(TorchDispatchMode):
    """Counts the numbers that somebody fetches from a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextmanager
def reads_refused(device):
    """Nothing inside may read a number; on CUDA nothing may wait for the device at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            with Reads() as reads:
                yield
            assert reads.count == 0
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def test_what_refuses_reads_sees_them(device):
    x = torch.ones(3, device=device)
    with pytest.raises((RuntimeError, AssertionError)), reads_refused(device):
        x.sum().item()


class Loop:
    def __init__(self, device):
        self.device = device
        self.model = Net().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, foreach=True)
        self.engine = sg.Engine(
            sg.load(GRAPH), model=self.model, optimizer=self.optimizer, probe=PROBE.to(device)
        )
        self.engine.start()
        self.x = PROBE.to(device)

    def forward(self):
        return (self.model(self.x) - self.x.sum(1, keepdim=True)).pow(2).mean()

    def tick(self):
        loss = self.engine.loss(self.forward())
        loss.backward()
        norm = self.engine.grad_norm()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.engine.step(loss=loss, grad_norm=norm)


def test_nothing_is_waited_for_where_nothing_is_asked(device):
    loop = Loop(device)
    for _ in range(2):
        loop.tick()
    assert loop.engine.stages == {"main": "train"}
    task = loop.forward()
    with reads_refused(device):
        loss = loop.engine.loss(task)
    loss.backward()
    with reads_refused(device):
        norm = loop.engine.grad_norm()
        assert norm.device.type == device.type
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    with reads_refused(device):
        loop.engine.step(loss=loss, grad_norm=norm)
    assert loop.engine.progress.step == 3


def test_ramps_move_without_waiting(device):
    """Alpha and learning rates come from the clock alone."""
    loop = Loop(device)
    while loop.engine.stages != {"main": "warmup"}:
        loop.tick()
    for _ in range(8):
        loss = loop.engine.loss(loop.forward())
        loss.backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()
        with reads_refused(device):
            loop.engine.step(loss=loss)
    assert loop.engine.stages == {"main": "warmup"}
