"""Values that an optimizer's own class refuses are found before anybody trains with them."""

import random
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer, RMSprop

import stagegraph as sg
from stagegraph.actions.optimizing.refused_values import why_no_value
from tests.session.training import PROBE, Net

GRAPH = """
stagegraph: 1
name: hyper
initial: one
stages:
  one: {kind: train, duration: 2 steps, next: two}
  two: {kind: train, during: [ACTIVITY], duration: 2 steps, next: done}
  done: {kind: final}
"""


def asked(activity, optimizer=AdamW):
    """The graph, and what it is for: a model and its optimizer."""
    model = Net()
    given = {"model": model, "optimizer": optimizer(model.parameters(), lr=0.1), "probe": PROBE}
    return sg.load(GRAPH.replace("ACTIVITY", f"{{type: hyper, {activity}}}")), given


def said_by(kind, **settings):
    with pytest.raises(ValueError, match=r".") as caught:
        kind([nn.Parameter(torch.ones(1))], lr=0.1, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("activity", "settings"),
    [
        ("optimizer: betas.0, value: 1.5", {"betas": (1.5, 0.999)}),
        ("optimizer: betas.1, value: 1.0", {"betas": (0.9, 1.0)}),
        ("optimizer: weight_decay, value: -3", {"weight_decay": -3.0}),
        ("optimizer: eps, value: -1", {"eps": -1.0}),
        (
            "optimizer: betas.1, value: {start: 0.9, end: 1, over: 2 steps}",
            {"betas": (0.9, 1.0)},
        ),
        (
            "optimizer: weight_decay, value: {start: -3, end: 1, over: 2 steps}",
            {"weight_decay": -3.0},
        ),
        ("optimizer: betas.0, factor: 2", {"betas": (1.8, 0.999)}),
        (
            "optimizer: betas.0, factor: {start: 1, end: 2, over: 2 steps, curve: cosine}",
            {"betas": (1.8, 0.999)},
        ),
    ],
)
def test_what_adamw_refuses_is_refused_before_the_run_in_its_words(activity, settings):
    graph, given = asked(activity)
    (found,) = [one for one in sg.check(graph, **given) if one.severity == "error"]
    assert found.pointer == "/stages/two/during/0"
    assert "main:two.during[0]" in found.message
    assert f"({said_by(AdamW, **settings)}); give a '" in found.message
    with pytest.raises(sg.UnsupportedError, match=r"main:two.during\[0\]: .*AdamW.*refuses") as no:
        sg.Engine(graph, **given)
    assert said_by(AdamW, **settings) in str(no.value)


@pytest.mark.parametrize(
    "activity",
    [
        "optimizer: betas.0, value: 0",
        "optimizer: betas.1, value: {start: 0.999, end: 0.5, over: 2 steps}",
        "optimizer: weight_decay, factor: {start: 1, end: 0, over: 2 steps}",
        "optimizer: eps, value: 0.001",
        "optimizer: eps, factor: 1000",
    ],
)
def test_what_it_takes_is_not(activity):
    graph, given = asked(activity)
    assert [one for one in sg.check(graph, **given) if one.severity == "error"] == []
    sg.Engine(graph, **given).close()


def grouped(kind, *groups, **settings):
    shaped = [{"params": [nn.Parameter(torch.ones(2, 2))], **group} for group in groups]
    return kind(shaped, lr=0.1, **settings)


def test_a_factor_is_on_what_each_group_has():
    optimizer = grouped(SGD, {"momentum": 0.2}, {"momentum": 0.8})
    assert why_no_value([optimizer], "momentum", [2.0], times=True) == []  # SGD takes any from 0
    adam = grouped(AdamW, {"betas": (0.2, 0.9)}, {"betas": (0.8, 0.9)})
    (said,) = why_no_value([adam], "betas.0", [1.0, 2.0], times=True)
    assert said == (
        "a factor of 2 makes betas.0 1.6, which AdamW refuses (Invalid beta parameter at index 0: "
        "1.6); give a 'factor' with which it is one that AdamW takes"
    )


def test_several_optimizers_are_asked_each():
    both = [grouped(Muon, {}), grouped(RMSprop, {"momentum": 0.5})]
    said = why_no_value(both, "momentum", [-1.0], times=False)
    assert len(said) == 2
    assert "Muon refuses momentum of -1 (momentum should be >= 0" in said[0]
    assert "RMSprop refuses momentum of -1 (Invalid momentum value: -1.0)" in said[1]


def test_momentum_may_begin_at_zero_under_nesterov():
    nesterov = grouped(SGD, {}, momentum=0.9, nesterov=True)
    assert why_no_value([nesterov], "momentum", [0.0, 0.9], times=False) == []
    (said,) = why_no_value([nesterov], "momentum", [-0.1], times=False)
    assert "Invalid momentum value: -0.1" in said


class Own(Optimizer):
    """Somebody's own: refuses, draws and warns."""

    def __init__(self, params, lr, temper=1.0):
        warnings.warn("an experimental optimizer", stacklevel=2)
        torch.rand(1)
        random.random()
        if temper > 10:
            raise RuntimeError("too hot")
        super().__init__(params, {"lr": lr, "temper": temper, "hidden": 0.5})


class Forwarding(AdamW):
    """Hands on what it is given."""

    def __init__(self, params, **settings):
        super().__init__(params, **settings)


class OtherArguments(AdamW):
    """Takes a model, and cannot be called as others are."""

    def __init__(self, model, *, lr, betas=(0.9, 0.999)):
        super().__init__(model.parameters(), lr=lr, betas=betas)


@pytest.mark.filterwarnings("ignore:an experimental optimizer")
def test_a_class_of_somebodys_own_is_asked_where_its_constructor_takes_the_key():
    own = grouped(Own, {})
    assert (
        "Own refuses temper of 11 (too hot)" in why_no_value([own], "temper", [11], times=False)[0]
    )
    assert why_no_value([own], "temper", [9], times=False) == []
    assert why_no_value([own], "hidden", [-1], times=False) == []
    forwarding = grouped(Forwarding, {})
    (said,) = why_no_value([forwarding], "betas.0", [1.5], times=False)
    assert "Forwarding refuses betas.0 of 1.5 (Invalid beta parameter at index 0: 1.5)" in said
    other = OtherArguments(nn.Linear(1, 1), lr=0.1)
    assert why_no_value([other], "betas.0", [1.5], times=False) == []


def test_asking_changes_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = grouped(Own, {})
    before = (repr(optimizer), dict(vars(optimizer)), torch.get_rng_state(), random.getstate())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        why_no_value([optimizer], "temper", [11, 2], times=False)
    assert repr(optimizer) == before[0]
    assert vars(optimizer).keys() == before[1].keys()
    assert optimizer.state == {}
    assert torch.equal(torch.get_rng_state(), before[2])
    assert random.getstate() == before[3]
