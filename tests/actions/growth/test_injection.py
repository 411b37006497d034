"""A growth that fails is as if it had not been, wherever it fails."""

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from stagegraph.schema.actions import Attach, Upcycle, Widen
from stagegraph.schema.spaces import Spaces
from tests.actions.growth import injection
from tests.actions.models import (
    Counting,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    freeze,
    growth,
    lr_factor,
    snapshot,
    train,
)
from tests.contracts.growths import GROWTHS, OPTIMIZERS, Scene

COUNTS = ("config.num_hidden_layers", "config.layer_types")
SPACES = Spaces(
    tensors={
        "inp.weight": "stream _",
        "inp.bias": "stream",
        "bn.[wbr]*": "stream",
        "head.weight": "_ stream",
        "blocks.*.ln?.*": "stream",
        "blocks.*.q.weight": "key stream",
        "blocks.*.q.bias": "key",
        "blocks.*.v.weight": "value stream",
        "blocks.*.v.bias": "value",
        "blocks.*.o.weight": "stream value",
        "blocks.*.o.bias": "stream",
        "blocks.*.fc1.weight": "mlp stream",
        "blocks.*.fc1.bias": "mlp",
        "blocks.*.fc2.weight": "stream mlp",
        "blocks.*.fc2.bias": "stream",
    }
)
OPERATIONS = {
    "deepen, identity": (Counting, deepen(at="spread", count=COUNTS)),
    "deepen, stack": (Counting, deepen(how="stack", count=COUNTS)),
    "attach": (
        Counting,
        Attach(type="attach", host=("blocks.*.o",), module="adapter", bottleneck=2),
    ),
    "upcycle": (
        Counting,
        Upcycle(type="upcycle", host=("blocks.*.fc2",), experts=3, name="moe"),
    ),
    "widen, split": (Counting, Widen(type="widen", space="mlp", factor=2)),
    "widen, uneven, rehearsed": (
        Counting,
        Widen(type="widen", space="value", add=3, how="uneven", probe="train"),
    ),
    "deepen, identity, rehearsed": (Counting, deepen(count=COUNTS, probe="train")),
}
"""Per operation a model and a growth of it."""


@pytest.mark.parametrize(
    ("failing", "points"),
    [
        pytest.param(injection.operations, 3, id="op"),
        pytest.param(injection.calls, 4, id="call"),
        pytest.param(injection.operations, 16, id="op, more", marks=pytest.mark.slow),
        pytest.param(injection.calls, 40, id="call, more", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("make", "action"), OPERATIONS.values(), ids=OPERATIONS)
def test_a_growth_that_fails_is_as_if_it_had_not_been(make, action, failing, points):
    torch.manual_seed(0)
    model = make()
    optimizer = AdamW(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=batch(), ema=AveragedModel(model), spaces=SPACES)
    train(model, optimizer, 2)
    blended = action.blends
    growing = boundary(
        deeds=[snapshot(), growth(action)],
        held=[
            *([alpha_ramp()] if blended else []),
            freeze("inp", "bn", norms="eval"),
            lr_factor(0.5, "blocks.*"),
        ],
        alphas={"main:grow#1": 0.0} if blended else {},
    )
    injection.check(model, optimizer, actor, growing, failing, points=points)


def test_the_harness_finds_what_is_not_undone(monkeypatch):
    torch.manual_seed(0)
    model = Counting()
    optimizer = SGD(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=batch())
    growing = boundary(deeds=[growth(deepen(count=COUNTS))])
    monkeypatch.setattr("stagegraph.actions.undo.UndoLog.undo", lambda _self: None)
    with pytest.raises(AssertionError):
        injection.check(model, optimizer, actor, growing, injection.operations, points=3)


ROWS = (
    "deepen, drop_and_cat",
    "widen, zero_in, stream, tied",
    "extend_vocab",
    "extend_context",
    "add_heads, groups",
    "widen_head_dim, rotary",
    "attach, copy",
    "add_experts",
    "add_experts, listed",
    "add_head",
    "inherit",
    "regrow",
)
"""Rows of the contracts, so that no operator is without one here or above."""


def test_every_operator_is_made_to_fail():
    made = [action for _, action in OPERATIONS.values()] + [GROWTHS[name].action for name in ROWS]
    assert {type(action) for action in made} == {type(row.action) for row in GROWTHS.values()}


@pytest.mark.parametrize(
    ("failing", "points"), [(injection.operations, 2), (injection.calls, 4)], ids=["op", "call"]
)
@pytest.mark.parametrize("name", ROWS)
def test_every_operator_fails_without_a_trace(name, failing, points):
    scene = Scene(GROWTHS[name], OPTIMIZERS["AdamW, foreach"]).prepare()
    scene.step(1)
    growing = boundary(
        deeds=[snapshot(), growth(scene.row.action, cohort="new")],
        held=[freeze(*scene.row.frozen)],
    )
    injection.check(
        scene.model,
        scene.optimizers[0],
        scene.actor,
        growing,
        failing,
        points=points,
        train=lambda *_: scene.step(1),
    )
