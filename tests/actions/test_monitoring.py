"""The monitor: what it measures, and that it leaves no trace."""

import math
import random

import pytest
import torch
from torch.optim import AdamW

from stagegraph.actions.monitoring import Monitor
from stagegraph.errors import MetricError, UnsupportedError
from stagegraph.schema.stagegraph import Metric
from tests.actions.models import Model, batch, digest

METRICS = {
    "probe_loss": Metric(goal="minimize", source=("val/loss",)),
    "accuracy": Metric(goal="maximize"),
}


def loss(model):
    return {"probe_loss": model(batch()).pow(2).mean()}


def monitor(measure, model=None, **more):
    torch.manual_seed(3)
    return Monitor(measure, Model(2) if model is None else model, METRICS, **more)


def test_it_measures_in_eval_mode_without_gradients():
    seen = []

    def measure(model):
        seen.append((model.training, model.blocks[0].drop.training, torch.is_grad_enabled()))
        return loss(model)

    model = Model(2)
    watch = monitor(measure, model)
    assert watch.names == {"probe_loss"}
    found = watch.measure()
    model.eval()
    with torch.no_grad():
        assert found == {"probe_loss": float(model(batch()).pow(2).mean())}
    assert set(seen) == {(False, False, False)}


def test_it_leaves_no_trace_whatever_the_function_does():
    model = Model(2)
    optimizer = AdamW(model.parameters(), lr=0.1)
    model(batch()).sum().backward()
    model.blocks[1].eval()

    def measure(model):
        model.train()
        with torch.enable_grad():
            model(batch()).sum().backward()
        model.bn(torch.randn(7, 8))
        model.blocks[0].register_forward_hook(lambda *_: None)
        random.random()
        return loss(model)

    watch = monitor(measure, model)
    before = digest(model, optimizer)
    watch.measure()
    assert digest(model, optimizer) == before


def test_it_leaves_no_trace_when_the_function_fails():
    model, fails = Model(2), []

    def measure(model):
        model.train()
        torch.randn(3)
        if fails:
            raise ZeroDivisionError("no batches")
        return loss(model)

    watch = monitor(measure, model)
    before = digest(model)
    fails.append(True)
    with pytest.raises(MetricError, match="monitor= failed: ZeroDivisionError: no batches"):
        watch.measure()
    assert digest(model) == before
    assert torch.is_grad_enabled()


def test_it_draws_the_same_random_numbers_each_time():
    watch = monitor(lambda model: {"probe_loss": torch.rand(())})
    first = watch.measure()
    torch.rand(100)
    assert watch.measure() == first
    other = monitor(lambda model: {"probe_loss": torch.rand(())}, seed=1)
    assert other.measure() != first


def test_values_may_be_tensors_numbers_and_nan_and_names_what_hosts_say():
    watch = monitor(lambda model: {"val/loss": torch.tensor(2.5), "accuracy": math.nan})
    assert watch.names == {"probe_loss", "accuracy"}
    found = watch.measure()
    assert found["probe_loss"] == 2.5 and math.isnan(found["accuracy"])


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (3, "monitor= is a int; give a function of the model"),
        (lambda model: 3.0, "returned a float; it is to return a mapping"),
        (lambda model: {}, "measures nothing"),
        (lambda model: {"los": 1.0}, "measures 'los', which is not declared"),
        (lambda model: {"probe_loss": "low"}, "'probe_loss' must be one number, got str"),
        (lambda model: {"probe_loss": torch.zeros(2)}, "of shape"),
        (lambda model: 1 / 0, "monitor= failed: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_run(measure, says):
    with pytest.raises(UnsupportedError, match=says):
        monitor(measure)


def test_it_returns_the_same_metrics_each_time():
    answers = [{"probe_loss": 1.0}, {"accuracy": 1.0}]
    watch = monitor(lambda model: answers.pop(0))
    with pytest.raises(MetricError, match="measured 'probe_loss' at first, and 'accuracy' now"):
        watch.measure()


@pytest.mark.parametrize(
    ("metric", "without", "present", "gain"),
    [
        ("probe_loss", 3.0, 2.0, 1.0),  # worse without: it helps
        ("probe_loss", 1.0, 2.0, -1.0),
        ("probe_loss", -5.0, -2.0, -3.0),  # negative values: still better without
        ("probe_loss", 2.0, -2.0, 4.0),
        ("accuracy", 0.5, 0.75, 0.25),
        ("accuracy", 0.75, 0.5, -0.25),
        ("accuracy", -1.0, -4.0, -3.0),
        ("accuracy", math.nan, 0.5, None),
        ("probe_loss", 1.0, math.inf, None),
    ],
)
def test_a_gain_is_how_much_worse_it_is_without_in_the_metrics_goal(metric, without, present, gain):
    watch = monitor(lambda model: {"probe_loss": 1.0, "accuracy": 1.0})
    assert watch.gain(metric, without, present) == gain
