"""Tensors as metrics: they are read rarely, together, and right."""

import math

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.actions.reading import read_together
from stagegraph.engine.metrics import as_number


class Loss(torch.Tensor):
    """A tensor that tells when it is read."""

    reads = 0

    def item(self):
        Loss.reads += 1
        return super().item()

    def tolist(self):
        Loss.reads += 1
        return super().tolist()

    def __float__(self):
        Loss.reads += 1
        return super().__float__()


def loss_of(value):
    return torch.tensor(value).as_subclass(Loss)


def forced_reads(when, *, metric="goal: minimize", declared="loss", steps=1000):
    graph = sg.load(
        f"""
stagegraph: 1
name: read
metrics: {{{declared}: {{{metric}}}}}
initial: a
stages:
  a: {{kind: train, transitions: [{{target: b, when: "{when}"}}]}}
  b: {{kind: train, duration: 5 steps, next: c}}
  c: {{kind: final}}
"""
    )
    model = nn.Linear(2, 2)
    with sg.Engine(graph, model=model, optimizer=torch.optim.SGD(model.parameters())) as engine:
        engine.step()
        Loss.reads = 0
        for n in range(2, steps + 1):
            engine.step(loss=loss_of(100.0 / n))
        assert engine.progress.step == steps
        return Loss.reads


def test_reads_per_thousand_steps():
    assert forced_reads("step > 5k", declared="val_loss") == 0, "nobody declares it"
    assert forced_reads("step > 5k") == 0, "no guard reads it"
    every = "goal: minimize, every: 50 steps"
    assert 20 <= forced_reads("plateau(loss, worth=0.1%)", metric=every) <= 42
    sampled = "goal: minimize, look_every: 50 steps"
    assert 20 <= forced_reads("loss < 0.01", metric=sampled) <= 21
    assert forced_reads("loss < 0.01 and step > 900") == 100, "not before it can matter"
    assert forced_reads("loss < 0.01") == 999, "each value is compared"


def test_every_kind_of_number_is_read_as_it_is():
    values = [
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(0.1),
        torch.tensor(0.1, dtype=torch.bfloat16),
        torch.tensor(3.0, dtype=torch.float16),
        torch.tensor([7]),
        torch.tensor([[True]]),
        torch.tensor(2**53 + 1),
        torch.tensor(math.nan),
        torch.tensor(-math.inf),
        nn.Parameter(torch.tensor(2.5)),
    ]
    expected = [float(value.item()) for value in values]
    assert [str(number) for number in read_together(values)] == [str(n) for n in expected]
    assert read_together(values[:1]) == [0.1]
    assert read_together([]) == []


def test_the_graph_of_a_loss_is_not_kept():
    graph = sg.load(
        "stagegraph: 1\nname: g\nmetrics: {loss: {goal: minimize}}\ninitial: a\n"
        "stages: {a: {kind: train}}\nwaive: {never-ends: a test, unread-metric: a test}\n"
        "budget: {steps: 50}\n"
    )
    engine = sg.Engine(graph)
    engine.step()
    loss = nn.Linear(3, 1)(torch.ones(3)).sum()
    engine.step(loss=loss)
    waiting = engine._core._arrivals.waiting
    assert [arrival.unread.value.requires_grad for arrival in waiting] == [False]
    with torch.no_grad():
        loss.fill_(99.0)
    engine.step()
    assert engine.state_dict()["engine"]["metrics"]["loss"][0] != 99.0


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(2), r"Tensor of shape \(2,\)"),
        (torch.ones(0), r"Tensor of shape \(0,\)"),
        (torch.tensor(1j), "Tensor"),
        (torch.tensor(1.0, device="meta"), "Tensor"),
    ],
)
def test_tensors_that_are_no_number_are_refused_without_reading(value, what):
    with pytest.raises(sg.MetricError, match=f"metric 'm' must be one number, got {what}; reduce"):
        as_number("m", value)


def test_a_loss_of_several_elements_is_refused_at_the_call():
    graph = sg.load(
        "stagegraph: 1\nname: g\ninitial: a\nbudget: {steps: 9}\nstages: {a: {kind: train}}\n"
    )
    engine = sg.Engine(graph)
    engine.step()
    with pytest.raises(sg.MetricError, match=r"'loss' must be one number, got Tensor of shape \(3"):
        engine.step(loss=torch.ones(3))
    assert engine.progress.step == 1
