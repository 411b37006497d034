"""What two ranks do, and must find, when a sharded model grows."""

import torch
from torch.distributed.tensor import DTensor

from tests.actions.models import alpha_ramp, deepen
from tests.sharded.small import (
    everything,
    furthest,
    grow,
    made,
    moments,
    plain,
    sharded,
    train,
    weights,
)


def grown_as_in_one_process(how, at, state, policy):
    model, optimizer, actor = made(sharded(**policy))
    other, whole_optimizer, whole_actor = made(plain())
    train(model, optimizer, range(3))
    train(other, whole_optimizer, range(3), part=everything)
    action = (
        deepen(how=how, at=at, add=1, state=state)
        if how == "identity"
        else deepen(how=how, add=1, state=state)
    )
    seen = grow(actor, action)["main:grow.actions[0]"]
    expected = grow(whole_actor, action)["main:grow.actions[0]"]
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in other.named_parameters()]
    assert optimizer.param_groups[0]["params"] is not None
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]
    for key in ("inserted", "zeroed", "params", "gradient", "promise"):
        assert seen[key] == expected[key], key
    train(model, optimizer, range(3, 7))
    train(other, whole_optimizer, range(3, 7), part=everything)
    return (
        furthest(weights(model), weights(other)),
        furthest(moments(model, optimizer), moments(other, whole_optimizer)),
    )
