"""What a growth makes lies where the optimizer wants it, and training goes on from it."""

import copy

import pytest
import torch
from torch.optim import AdamW

from stagegraph.actions.optimizing.optimizers import check_state_shapes
from tests.actions.growth.width.test_resize import OPTIMIZERS as MADE
from tests.actions.growth.width.test_resize import grow, ids, made, train, widen
from tests.contracts.growths import OPTIMIZERS, Scene
from tests.cuda.placing import cases, heavy, misplaced, placed
from tests.session.training import Training

KINDS = ["AdamW", "AdamW, foreach", "AdamW, fused"]
GROWN = [
    "deepen, identity",
    "deepen, identity, fresh",
    "deepen, stack",
    "widen, split",
    "widen, zero_in, stream, tied",
    "add_heads, groups",
    "upcycle",
    "add_experts",
    "add_experts, listed",
    "add_head",
    "inherit",
    "regrow",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("device", "name"), cases(GROWN, on_cpu=["deepen, stack", "add_experts, listed"])
)
def test_weights_moments_and_counts_are_in_their_places(device, name, kind):
    scene = Scene(placed(name, device), OPTIMIZERS[kind]).prepare()
    scene.step(2)
    (optimizer,) = scene.optimizers
    assert optimizer.state, "no real moments"
    scene.grow()
    counts = device if "fused" in kind else "cpu"
    assert misplaced(scene.model, [optimizer], device, counts=counts) == []
    scene.step(2)
    assert misplaced(scene.model, [optimizer], device, counts=counts) == []
    check_state_shapes(scene.optimizers, {})
    assert all(p.isfinite().all() for p in scene.model.parameters())


@pytest.mark.parametrize("state", ["fresh", "copy", "fill_v", "old_step"])
@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_the_state_of_copied_blocks_is_on_the_device(device, state, kind):
    document = COPYING.replace("STATE", state)
    training = Training(
        document, device=device, optimizer=lambda p, lr: AdamW(p, lr=lr, **{kind: True})
    )
    training.go(5)
    assert len(training.model.blocks) == 4
    counts = device if kind == "fused" else "cpu"
    assert misplaced(training.model, [training.optimizer], device, counts=counts) == []
    assert len(training.optimizer.state) == len(list(training.model.parameters()))


COPYING = """
stagegraph: 1
name: copies
budget: {steps: 8}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 2, how: stack, state: STATE}]
    next: after
  after: {kind: train, duration: 3 steps, next: done}
  done: {kind: final}
"""


@heavy
@pytest.mark.parametrize("spaces", [["mlp"], ["mlp", "groups", "stream"]])
@pytest.mark.parametrize("name", ["adamw", "foreach", "fused"])
def test_with_scales_kept_a_widened_model_trains_on_as_the_small_one(device, name, spaces):
    make, options = MADE[name]
    options = {**options, "weight_decay": 0.1}
    model, optimizer, standing = made(make, device=device, **options)
    train(model, optimizer, 3)
    small = copy.deepcopy(model)
    twin = make(small.parameters(), lr=0.01, **options)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    grow(standing, widen(space=spaces, factor=2, scales="keep"))
    for one, other in ((model, optimizer), (small, twin)):
        train(one, other, 15, seed=5)
    x = ids().to(device)
    torch.testing.assert_close(model(x), small(x), rtol=0, atol=1e-9)


WARMED = """
stagegraph: 1
name: beside a twin
budget: {steps: 20}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 2}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}
    next: after
  after: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
"""
COPIES = WARMED.replace("add: 2}", "add: 2, how: stack}")
"""Blocks that compute something as soon as their alpha is not 0."""
ALONE = """
stagegraph: 1
name: the twin
budget: {steps: 20}
initial: train
stages:
  train: {kind: train, duration: 11 steps, next: done}
  done: {kind: final}
"""


@pytest.mark.parametrize("kind", ["single", "foreach", "fused"])
def test_while_new_blocks_rest_old_entries_step_as_if_there_were_none(device, kind, same_bits):
    """Alpha is 0 and so is the learning rate: one update is the ungrown model's, bit for bit."""
    options = {"foreach": False} if kind == "single" else {kind: True}

    def going(document):
        return Training(
            document,
            device=device,
            optimizer=lambda p, lr: AdamW(p, lr=lr, **options),
        ).go(4)

    grown, alone = going(WARMED), going(ALONE)
    assert (len(grown.model.blocks), len(alone.model.blocks)) == (4, 2)
    weights, moments = grown.weights()
    for mine, theirs in zip((weights, moments), alone.weights(), strict=True):
        for name, value in theirs.items():
            assert mine[name] == value, name
    (record,) = grown.records.of("growth")
    assert record["certificate"]["exactness"] == "exact"
