"""Failures at every step of a transaction leave everything as it was, identities included."""

import sys
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel

import stagegraph.actions
from stagegraph.actions import TorchActor
from tests.actions.models import (
    Counting,
    accept,
    alpha_ramp,
    back_to,
    batch,
    boundary,
    deepen,
    digest,
    freeze,
    growth,
    lr_factor,
    snapshot,
    train,
)

HOME = str(Path(stagegraph.actions.__file__).parent)


class Injected(RuntimeError):
    """The failure."""


def failing_at(line):
    """A trace function that raises at the n-th line executed in the torch layer."""
    count = 0

    def trace(frame, event, _arg):
        nonlocal count
        name = frame.f_code.co_filename
        if not name.startswith(HOME) or name.endswith("undo.py"):
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Injected(f"{Path(name).name}:{frame.f_lineno}")
        return trace

    return trace, lambda: count


def scene(*, scheduler=True):
    torch.manual_seed(0)
    model = Counting()
    optimizer = AdamW(model.parameters(), lr=0.01)
    companions = {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9)} if scheduler else {}
    ema = AveragedModel(model)
    actor = TorchActor(model, optimizer, probe=batch(), ema=ema, **companions)
    action = deepen(at="spread", count=("config.num_hidden_layers", "config.layer_types"))
    first = boundary(
        deeds=[snapshot(), growth(action)],
        held=[alpha_ramp(), freeze("inp", "bn", norms="eval"), lr_factor(0.5, "blocks.*")],
        alphas={"main:grow#1": 0.0},
    )
    return model, optimizer, ema, actor, first, action


def everything(model, optimizer, ema, actor):
    state = actor.state_dict()
    packed = sorted(actor.snapshots())
    rates = [group["lr"] for group in optimizer.param_groups]
    return digest(model, optimizer), digest(ema), vars(ema.module.config), state, packed, rates


def lines_of(act):
    trace, count = failing_at(-1)
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return count()


def check(make, points):
    """Fail the transaction at some of its lines; then it must still go through."""
    _, act, _ = make()
    total = lines_of(act)
    assert total > 500
    state, act, seen = make()
    before = seen()
    for line in sorted({1 + k * (total - 1) // points for k in range(points)}):
        trace, _ = failing_at(line)
        sys.settrace(trace)
        try:
            with pytest.raises(Exception) as failure:  # noqa: PT011 - it may be wrapped
                act()
        finally:
            sys.settrace(None)
        after = seen()
        assert after == before, f"line {line}: {failure.value!r}"
    act()
    assert seen() != before
    return state


growth_points = pytest.mark.parametrize(
    "points", [20, *(pytest.param(40 + more, marks=pytest.mark.slow) for more in range(4))]
)
"""At how many lines something fails; each number spreads them otherwise."""
roll_back_points = pytest.mark.parametrize(
    "points", [20, *(pytest.param(40 + more, marks=pytest.mark.slow) for more in range(2))]
)


@growth_points
def test_a_failing_growth_leaves_everything_as_it_was(points):
    def make():
        model, optimizer, ema, actor, first, _ = scene()
        train(model, optimizer, 2)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return (
            actor,
            lambda: actor.transact(first, accept),
            lambda: everything(model, optimizer, ema, actor),
        )

    check(make, points)


@roll_back_points
def test_a_failing_roll_back_leaves_everything_as_it_was(points):
    def make():
        model, optimizer, ema, actor, first, _ = scene()
        train(model, optimizer, 2)
        actor.transact(first, accept)
        train(model, optimizer, 2)
        ema.update_parameters(model)
        back = boundary(4, restore=back_to(lr_factor=0.5, fork=1), held=[freeze("head")])
        return (
            actor,
            lambda: actor.transact(back, accept),
            lambda: everything(model, optimizer, ema, actor),
        )

    check(make, points)


def test_an_interrupt_from_the_keyboard_undoes_too():
    model, optimizer, ema, actor, first, _ = scene()
    before = everything(model, optimizer, ema, actor)

    def interrupted(_outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actor.transact(first, interrupted)
    assert everything(model, optimizer, ema, actor) == before
