"""An update that the gradient scaler skips is none."""

import pytest
import torch

import stagegraph as sg
from tests.session.training import Net

GRAPH = """
stagegraph: 1
name: scaled
metrics: {val_loss: {goal: minimize, every: 2 steps}}
initial: a
stages:
  a: {kind: train, duration: 6 steps, next: done}
  done: {kind: final}
"""


def trained(skipped, **more):
    """Steps of an engine after each call, where some losses are infinite."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **more)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    engine = sg.Engine(sg.load(GRAPH), model=model, optimizer=optimizer, scaler=scaler)
    engine.start()
    steps, weights = [], []
    for number in range(6 + len(skipped)):
        loss = engine.loss(model(torch.ones(3, 4)).pow(2).mean())
        scaler.scale(loss * (float("inf") if number in skipped else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        before = engine.progress.step
        engine.step(loss=loss, samples=3)
        if engine.wants_evaluation and engine.progress.step > before:
            engine.observe(val_loss=1.0)
        steps.append(engine.progress.step)
        weights.append(model.head.weight.tolist())
    engine.close()
    return engine, steps, weights


@pytest.mark.parametrize("more", [{}, {"fused": True}], ids=["single", "fused"])
def test_a_skipped_update_is_not_counted(more):
    engine, steps, weights = trained({1, 2, 5}, **more)
    assert steps == [1, 1, 1, 2, 3, 3, 4, 5, 6]
    assert weights[0] == weights[1] == weights[2] != weights[3]
    assert engine.progress.samples == 18
    assert engine.ended == "final"


def test_without_a_skip_every_call_counts():
    assert trained(set())[1] == [1, 2, 3, 4, 5, 6]
