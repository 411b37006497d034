"""Hyper-parameters of the model: what it cannot have is said before the run, or by a boundary.

Not by torch in the middle of a forward, and not after the training that came before.
"""

import pytest
import torch
from torch import nn

import stagegraph as sg
from tests.session.training import PROBE, WIDTH, Net, Training

GRAPH = """
stagegraph: 1
name: hyper
budget: {steps: 40}
waive: {no-monitor: short}
initial: train
stages:
  train: {kind: train, duration: 2 steps, next: grow}
  grow: {kind: grow, actions: [GROWTH], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: lr_ramp, of: grown, start: 0, over: 3 steps}
      - {type: hyper, ACTIVITY}
    next: consolidate
  consolidate: {kind: consolidate, duration: 2 steps, next: done}
  done: {kind: final}
"""
DEEPEN = "{type: deepen, stack: blocks, add: 1}"
ATTACH = "{type: attach, host: [blocks.0.up], module: noisy, mode: after}"
PLACE = "main:warmup.during[1]"


def document(activity, growth=DEEPEN):
    return GRAPH.replace("ACTIVITY", activity).replace("GROWTH", growth)


class Noisy(nn.Module):
    """What is attached: with a dropout, and a number that nothing else has."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.4)
        self.strength = 1.0
        self.linear = nn.Linear(2 * WIDTH, 2 * WIDTH)

    def forward(self, x):
        return self.strength * self.drop(self.linear(x))


def noisy(*_args, **_fields):
    return Noisy()


def given(text, model=None, **more):
    model = Net(dropout=0.1) if model is None else model
    optimizer = torch.optim.AdamW(model.parameters())
    return sg.load(text), {"model": model, "optimizer": optimizer, "probe": PROBE, **more}


def refused(text, says, model=None, **more):
    """It is an error of the activity's, both for check and for the engine, and said once."""
    graph, known = given(text, model, **more)
    found = [one for one in sg.check(graph, **known) if one.pointer == "/stages/warmup/during/1"]
    assert [(one.severity, one.code) for one in found] == [("error", "model-mismatch")]
    assert says in found[0].message
    with pytest.raises(sg.UnsupportedError) as no:
        sg.Engine(graph, **known)
    assert f"{PLACE}: " in str(no.value)
    assert says in str(no.value)


@pytest.mark.parametrize(
    ("activity", "number"),
    [
        ("value: 1.5", "1.5"),
        ("value: -0.5", "-0.5"),
        ("value: {start: 0.1, end: 1.25, over: 3 steps}", "1.25"),
        ("value: {start: 2, end: 0, over: 3 steps, curve: cosine}", "2"),
        ("factor: 11", "1.1"),
        ("factor: {start: 1, end: 20, over: 3 steps}", "2"),
    ],
)
def test_a_rate_that_no_dropout_takes_is_refused_before_the_run(activity, number):
    says = f"'blocks.0.drop.p' would be {number}, and a Dropout takes a rate between 0 and 1"
    refused(document(f"attribute: blocks.*.drop.p, {activity}"), says)


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (nn.AlphaDropout(0.1), "extra.p"),
        (nn.Dropout2d(0.1), "extra.p"),
        (nn.MultiheadAttention(4, 1), "extra.dropout"),
        (nn.LSTM(4, 4, num_layers=2), "extra.dropout"),
    ],
)
def test_so_it_is_in_every_module_of_torchs_that_has_one(module, path):
    model = Net()
    model.extra = module
    says = f"would be 1.5, and a {type(module).__name__} takes a rate between 0 and 1"
    refused(document(f"attribute: {path}, value: 1.5"), says, model)


@pytest.mark.parametrize("activity", ["value: 0", "value: 1", "factor: 10", "factor: 0"])
def test_the_ends_of_the_range_are_in_it(activity):
    graph, known = given(document(f"attribute: blocks.*.drop.p, {activity}"))
    assert not [one for one in sg.check(graph, **known) if one.code == "model-mismatch"]
    sg.Engine(graph, **known).close()


def test_a_number_of_somebodys_own_has_no_range():
    model = Net()
    model.p = 0.5
    graph, known = given(document("attribute: p, value: 7"), model)
    assert not [one for one in sg.check(graph, **known) if one.code == "model-mismatch"]


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("blocks.*.drop.q", "blocks.0.drop is a Dropout"),
        ("blocks.*.q", "blocks.0 is a Block"),
        ("q", "the model is a Net"),
    ],
)
def test_an_attribute_that_modules_have_not_is_refused_before_the_run(path, who):
    """More of their kind will come, and will not have it either."""
    refused(document(f"attribute: '{path}', value: 0.5"), f"({who} and has no 'q')")


def test_one_that_is_no_number_is_refused_too():
    model = Net()
    model.mode = "fast"
    refused(document("attribute: mode, value: 0.5"), "'mode' holds a str", model)


def test_what_only_a_grown_module_will_have_is_waited_for():
    text = document("attribute: blocks.2.drop.p, value: 0.5")
    graph, known = given(text)
    found = [one for one in sg.check(graph, **known) if one.code == "model-mismatch"]
    assert [one.severity for one in found] == ["warning"]
    training = Training(text).go(3)
    assert [block.drop.p for block in training.model.blocks] == [0.0, 0.0, 0.5]
    training.go()
    assert training.engine.ended == "final"
    assert [block.drop.p for block in training.model.blocks] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "path", ["*.strength", "blocks.*.module.strength", "blocks.0.up.noisy.module.strength"]
)
def test_so_is_what_another_kind_of_module_may_bring(path):
    text = document(f"attribute: '{path}', value: 0.5", ATTACH)
    graph, known = given(text, parts={"noisy": noisy})
    found = [one for one in sg.check(graph, **known) if one.pointer.endswith("during/1")]
    assert [one.severity for one in found] == ["warning"]
    training = Training(text, parts={"noisy": noisy}).go(3)
    assert training.model.blocks[0].up.noisy.module.strength == 0.5


@pytest.mark.parametrize(
    "activity",
    ["value: 1.5", "value: {start: 0.5, end: 1.5, over: 3 steps}", "factor: 3"],
)
def test_a_rate_that_could_not_be_known_is_refused_at_the_boundary(activity):
    text = document(f"attribute: blocks.0.up.noisy.module.drop.p, {activity}", ATTACH)
    training = Training(text, parts={"noisy": noisy}).go(1)
    before = training.weights()
    training.update()
    weights = training.weights()
    assert weights != before
    with pytest.raises(
        sg.ActionError, match=r"'blocks.0.up.noisy.module.drop.p' would be 1.*Dropout"
    ):
        training.engine.step(samples=5)
    assert training.weights() == weights
    assert training.stage == "train"
    assert not hasattr(training.model.blocks[0].up, "noisy")
    assert training.model.blocks[0].drop.p == 0.0
