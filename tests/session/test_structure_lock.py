"""Nobody but a growth of the graph changes the structure: at check time, at run time, and the host.

A sketch's consolidation was begun by one name and asked for by another, and nothing enforced it.
"""

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.actions.structure import Structure
from tests.session.training import WIDTH, Block, Net, Training

GRAPH = """
stagegraph: 1
name: locked
budget: {steps: 40}
initial: train
stages:
  train: {kind: train, duration: 2 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: hold}
  hold: {kind: consolidate, duration: 4 steps,
         next: done, transitions: [{target: grow, at_most: 1}]}
  done: {kind: final}
"""
NO_GROWTH = GRAPH.replace(", transitions: [{target: grow, at_most: 1}]", "")


@pytest.mark.parametrize(
    "written",
    [
        "actions: [{type: deepen, stack: blocks, add: 1}],",
        "transitions: [{target: done, when: step > 3, "
        "actions: [{type: deepen, stack: blocks, add: 1}]}],",
    ],
)
def test_a_growth_inside_a_consolidation_is_an_error_of_the_checks(written):
    found = sg.check(
        sg.load(NO_GROWTH.replace("{kind: consolidate,", f"{{kind: consolidate, {written}"))
    )
    assert "growth-outside-grow" in {one.code for one in found if one.severity == "error"}


def test_a_growth_out_of_a_consolidation_waits_for_its_end_and_is_journalled():
    training = Training(GRAPH).go(3)
    assert training.stage == "hold" and len(training.model.blocks) == 3
    training.go(2)
    (told,) = training.records.of("blocked")
    assert told["boundary"] == 3
    assert told["reason"] == "its own consolidation 'hold' is not completed"
    assert len(training.model.blocks) == 3
    training.go(1)
    assert len(training.model.blocks) == 4 and training.stage == "hold"


def adds_a_layer(training):
    training.model.extra = nn.Linear(WIDTH, WIDTH)


def appends_a_block(training):
    training.model.blocks.append(Block())


def takes_a_layer(training):
    del training.model.blocks[2]


def makes_a_layer_larger(training):
    training.model.blocks[0].up.bias.data = torch.zeros(3 * WIDTH)


def replaces_what_is_trained(training):
    training.model.head.bias = nn.Parameter(torch.zeros(1))


CHANGES = {
    adds_a_layer: r"'extra.weight' has come, 'extra.bias' has come;",
    appends_a_block: r"'blocks.3.norm.weight' has come, .* and 2 more;",
    takes_a_layer: r"'blocks.2.norm.weight' has gone, .* and 2 more;",
    makes_a_layer_larger: r"'blocks.0.up.bias' was \[12\] and is \[18\];",
    replaces_what_is_trained: r"'head.bias' is another parameter, which no optimizer trains;",
}


def steps_on(training):
    while training.stage == "hold":
        training.engine.step()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_the_host_changes_during_a_consolidation_is_told_at_the_next_boundary(change):
    training = Training(NO_GROWTH).go(3)
    change(training)
    if change is not makes_a_layer_larger:
        for _ in range(2):
            training.tick()
    with pytest.raises(sg.ActionError, match="changed by something else than") as raised:
        steps_on(training)
    assert raised.match(CHANGES[change])
    (told,) = training.records.of("error")
    assert (
        told["action"] == f"boundary {told['step']}"
        and "put the model back" in told["reason"].lower()
    )
    assert training.stage == "hold"


def test_a_growth_that_finds_a_changed_model_is_blamed_and_its_answer_is_taken():
    answered = NO_GROWTH.replace(
        "train: {kind: train, duration: 2 steps, next: grow}",
        "train: {kind: train, transitions: [{target: grow, when: elapsed(2 steps), "
        "on_error: {retry: 0, then: done}}]}",
    )
    training = Training(answered).go(1)
    adds_a_layer(training)
    training.go(2)
    (told,) = training.records.of("error")
    assert told["action"] == "main:grow.actions[0]" and "'extra.weight' has come" in told["reason"]
    assert training.engine.done and training.moves[-1][1] == "main:done"


@pytest.mark.parametrize("harmless", ["move", "freeze", "buffer", "group"])
def test_what_is_no_change_of_the_structure_is_none(harmless):
    training = Training(NO_GROWTH).go(3)
    match harmless:
        case "move":
            training.model.double().float()
        case "freeze":
            training.model.inp.requires_grad_(requires_grad=False)
        case "buffer":
            training.model.register_buffer("cache", torch.zeros(3))
        case "group":
            training.optimizer.param_groups[0]["name"] = "all"
    assert training.go().engine.ended == "final"


def test_a_compiled_layer_is_the_layer():
    model = Net()
    before = Structure.of(model, ())
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    before.require(Structure.of(model, ()))


def test_a_lazy_layer_may_take_its_shape_after_the_beginning():
    layer = nn.LazyLinear(1)
    before = Structure.of(layer, ())
    layer(torch.zeros(2, 3))
    before.require(Structure.of(layer, ()))
