"""Factors of settling: per group, of two regions at once, under groups and schedulers that come."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

import stagegraph as sg
from tests.session.training import Net, Training, rates_in_step

GROUPS = """
stagegraph: 1
name: settles per group
budget: {steps: 30}
initial: before
stages:
  before: {kind: train, duration: 2 steps, next: settle}
  settle:
    kind: settle
    lr_factor: 0.5
    during:
      - {type: lr_factor, of: {group: stack}, factor: 0.2}
      - {type: lr_factor, of: all, but: {group: "st*"}, factor: 0.4}
    duration: 3 steps
    next: after
  after: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
"""


def grouped(parameters, lr, names=("rest", "stack")):
    parameters = list(parameters)
    ends = [*parameters[:2], *parameters[-2:]]
    groups = [{"params": ends, "lr": lr}, {"params": parameters[2:-2], "lr": 2 * lr}]
    for group, name in zip(groups, names, strict=True):
        if name is not None:
            group["name"] = name
    return SGD(groups, lr=lr)


def in_force(training, seen):
    """The factors on the ends and on the stack in the last update."""
    ends, stack = training.optimizer.param_groups[:2]
    before = 0.99 ** (training.updates - 1)
    return (
        round(seen[-1]["head.bias"] / (ends["initial_lr"] * before), 12),
        round(seen[-1]["blocks.0.up.bias"] / (stack["initial_lr"] * before), 12),
    )


def test_a_settle_cuts_each_group_by_its_own_factor_and_gives_it_back():
    training = Training(GROUPS, optimizer=grouped)
    seen, found = rates_in_step(training), []
    while not training.engine.done:
        training.tick()
        found.append(in_force(training, seen))
    assert found == [(1.0, 1.0)] * 2 + [(0.2, 0.1)] * 3 + [(1.0, 1.0)] * 2
    rates = [group["lr"] for group in training.optimizer.param_groups]
    assert rates == [0.1 * 0.99**7, 0.2 * 0.99**7]


def test_a_group_that_is_added_meanwhile_changes_nothing_for_the_others():
    """A sketch zipped the rates it had kept with the groups of then."""
    training = Training(GROUPS, optimizer=grouped).go(3)
    assert training.stage == "settle"
    extra = nn.Parameter(torch.ones(1))
    first = training.optimizer.param_groups[0]
    training.optimizer.add_param_group({"params": [extra], "lr": 0.3, "name": "extra"})
    training.optimizer.param_groups.insert(0, training.optimizer.param_groups.pop())
    training.scheduler.step = lambda: None
    for group in training.optimizer.param_groups:
        group["lr"] = group["lr"] / 2  # as a scheduler does meanwhile
    extra.grad = torch.ones(1)
    training.update()
    assert extra.item() == pytest.approx(1 - 0.15 * 0.5 * 0.4)
    training.engine.step()
    training.go()
    rates = [group["lr"] for group in training.optimizer.param_groups]
    assert rates == pytest.approx([0.15, 0.05 * 0.99**3, 0.1 * 0.99**3], rel=1e-12)
    assert training.optimizer.param_groups[1] is first


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((None, None), r"none of its groups has a name; give them one beside their parameters"),
        (("rest", "stak"), r"'stack' is the name of no group; did you mean 'stak'"),
    ],
)
def test_a_group_that_is_not_there_is_told_before_the_run(names, message):
    def make(parameters, lr):
        return grouped(parameters, lr, names)

    model = Net()
    found = sg.check(sg.load(GROUPS), model=model, optimizer=make(model.parameters(), 0.1))
    assert any("is the name of no group" in str(one) for one in found)
    with pytest.raises(sg.UnsupportedError, match=message):
        Training(GROUPS, optimizer=make)


def test_a_group_is_never_chosen_by_its_place():
    with pytest.raises(sg.DocumentError, match=r"a text is wanted, got 0"):
        sg.load(GROUPS.replace("{group: stack}", "{group: 0}"))


def test_what_grows_into_a_group_is_under_its_factor():
    document = GROUPS.replace("next: settle}", "next: grow}").replace(
        "  settle:",
        "  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: settle}\n"
        "  settle:",
    )
    training = Training(document, optimizer=grouped)
    seen = rates_in_step(training)
    training.go(4)
    assert training.optimizer.param_groups[1]["name"] == "stack"
    assert seen[-1]["blocks.2.up.bias"] == seen[-1]["blocks.0.up.bias"]
    assert in_force(training, seen) == (0.2, 0.1)


NESTED = """
stagegraph: 1
name: two settles
budget: {steps: 30}
regions:
  a:
    initial: wait
    stages:
      wait: {kind: train, duration: 1 step, next: settle}
      settle: {kind: settle, lr_factor: 0.5, duration: 5 steps, next: done}
      done: {kind: final}
  b:
    initial: wait
    stages:
      wait: {kind: train, duration: 3 steps, next: settle}
      settle: {kind: settle, lr_factor: 0.2, duration: 5 steps, next: done}
      done: {kind: final}
"""


def test_two_settles_multiply_and_each_releases_its_own():
    """A sketch's second settle kept the first one's cut as the original."""
    training = Training(NESTED)
    seen = rates_in_step(training)
    training.go()
    found = [round(rates["head.bias"] / (0.1 * 0.99**n), 12) for n, rates in enumerate(seen)]
    assert found == [1.0] + [0.5] * 2 + [0.1] * 3 + [0.2] * 2
    assert training.optimizer.param_groups[0]["lr"] == 0.1 * 0.99**8
