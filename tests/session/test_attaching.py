"""Adapters and mixtures of experts come into a model while it trains, through an engine."""

import pytest
import torch

import stagegraph as sg
from stagegraph.actions.gates import Gate
from tests.session.training import Training

GRAPH = """
stagegraph: 1
name: a new module on its way in
metrics: {{val_loss: {{goal: minimize, every: 3 steps}}}}
budget: {{steps: 100, params: 50k}}
initial: train
stages:
  train: {{kind: train, duration: 4 steps, next: grow}}
  grow: {{kind: grow, actions: [{{{action}}}], next: warmup}}
  warmup:
    kind: warmup
    during:
      - {{type: alpha_ramp, of: grown, over: 4 steps}}
      - {{type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}}
      - {{type: freeze, of: inp}}
    next: consolidate
  consolidate: {{kind: consolidate, duration: 4 steps, next: done}}
  done: {{kind: final}}
"""
ACTIONS = {
    "adapter": "type: attach, host: [blocks.*], module: adapter, bottleneck: 3, init: keep",
    "mine": "type: attach, host: [blocks.*.down], module: mine, mode: after",
    "upcycle": "type: upcycle, host: [blocks.*.up], experts: 3, noise: 0.1, name: experts",
}
EVERY = pytest.mark.parametrize("name", ACTIONS)


def mine(host):
    return torch.nn.Linear(host.out_features, host.out_features)


def training(name):
    return Training(GRAPH.format(action=ACTIONS[name]), parts={"mine": mine})


@EVERY
def test_it_is_blended_in_by_the_ramp(name):
    run = training(name)
    run.go(until="warmup")
    gated = [(m, h) for m in run.model.modules() for h in m._forward_hooks.values()]
    gates = [(module, hook) for module, hook in gated if isinstance(hook, Gate)]
    assert len(gates) == 2
    alphas = []
    while run.stage == "warmup":
        alphas.append(gates[0][1].alpha)
        run.tick()
    assert alphas == [0.0, 0.25, 0.5, 0.75]
    assert not any(module._forward_hooks for module, _ in gates)
    run.go()
    assert run.engine.done


@EVERY
@pytest.mark.parametrize("cut", [3, 4, 6, 9])
def test_a_run_that_is_cut_goes_on_bit_for_bit(name, cut):
    whole = training(name)
    whole.go(cut)
    checkpoint = whole.save()
    whole.go()
    resumed = training(name).load(checkpoint)
    resumed.go()
    assert resumed.weights() == whole.weights()


def test_a_graph_that_names_what_is_not_there_is_refused_before_the_run():
    graph = GRAPH.format(action="type: attach, host: [blocks.*.uup], module: adaptor")
    with pytest.raises(sg.UnsupportedError, match=r"host 'blocks\.\*\.uup' matches no module"):
        Training(graph)
    graph = GRAPH.format(action="type: attach, host: [blocks.*.up], module: adaptor")
    with pytest.raises(sg.UnsupportedError, match=r"no module 'adaptor'.*did you mean 'adapter'"):
        Training(graph)


TWO_REGIONS = """
stagegraph: 1
name: an adapter for a block that has just come
budget: {steps: 60, params: 50k}
max_overlap: 2
regions:
  deeper:
    priority: 1
    initial: train
    stages:
      train: {kind: train, duration: 3 steps, next: grow}
      grow:
        kind: grow
        actions: [{type: deepen, stack: blocks, add: 1, init: fresh}]
        next: warmup
      warmup:
        kind: warmup
        during: [{type: lr_ramp, of: grown, start: 0, over: 9 steps}]
        next: consolidate
      consolidate: {kind: consolidate, duration: 3 steps, next: done}
      done: {kind: final}
  adapters:
    initial: train
    stages:
      train: {kind: train, duration: LATER, next: grow}
      grow:
        kind: grow
        actions:
          - {type: attach, host: [blocks.*.up], module: adapter, bottleneck: 3, init: zero}
        next: consolidate
      consolidate: {kind: consolidate, duration: 3 steps, next: done}
      done: {kind: final}
"""


def test_a_module_inside_a_block_that_still_rests_is_refused_with_the_reason():
    """The block begins with zero at its end, and so nothing inside of it has a gradient yet."""
    run = Training(TWO_REGIONS.replace("LATER", "3 steps"))
    with pytest.raises(sg.ActionError, match=r"inside blocks\.g1-0, which was grown before .*wait"):
        run.go()
    run = Training(TWO_REGIONS.replace("LATER", "8 steps"))
    run.go()
    assert run.engine.done
