import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, AdamW, Rprop

from stagegraph.actions.growth.width.families import space_map
from stagegraph.actions.growth.width.maps import Binding
from stagegraph.actions.growth.width.maps import Factor as AxisFactor
from stagegraph.actions.optimizing.learning_rates import Factor, LearningRates, SliceFactor
from stagegraph.actions.optimizing.slice_factors import Slices

ROW = torch.tensor([[False], [True]])
COLUMN = torch.tensor([[False, True]])


def grown(dtype=torch.float64):
    p = nn.Parameter(torch.tensor([[1.0, 2.0], [-3.0, 4.0]], dtype=dtype))
    p.grad = torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=dtype)
    return p


def held(optimizer, **factors):
    """Factors on slices of the optimizer's first parameter: place=(mask, value)."""
    p, rates = optimizer.param_groups[0]["params"][0], LearningRates([optimizer])
    rates.hold(
        [SliceFactor(place, p, mask) for place, (mask, _) in factors.items()],
        {place: value for place, (_, value) in factors.items()},
        lasting=1.0,
    )
    return rates


OPTIMIZERS = {
    "AdamW": lambda ps: AdamW(ps, lr=0.1, weight_decay=0.5),
    "AdamW foreach": lambda ps: AdamW(ps, lr=0.1, weight_decay=0.5, foreach=True),
    "AdamW fused": lambda ps: AdamW(ps, lr=0.1, weight_decay=0.5, fused=True),
    "SGD": lambda ps: SGD(ps, lr=0.1, momentum=0.9),
    "Adafactor": lambda ps: Adafactor(ps, lr=0.1),
    "Rprop": lambda ps: Rprop(ps, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_factor_scales_the_update_of_its_slice_alone(make):
    free, p = grown(), grown()
    start = p.detach().clone()
    one, other = make([free]), make([p])
    held(other, new=(ROW, 0.25))
    one.step()
    other.step()
    assert torch.equal(p[0], free[0])
    update = (free - start)[1]
    torch.testing.assert_close((p - start)[1], 0.25 * update, rtol=1e-14, atol=1e-15)
    for key, value in one.state[free].items():
        assert torch.equal(other.state[p][key], value)  # the moments go on as if nothing were


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_factor_of_0_freezes_bit_for_bit(make):
    p = grown(torch.float32)
    p.data[1, 0] = -0.0
    start = p.detach().clone()
    optimizer = make([p])
    held(optimizer, new=(ROW, 0.0))
    for _ in range(3):
        p.grad = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
        optimizer.step()
    assert torch.equal(p[1].view(torch.int32), start[1].view(torch.int32))
    assert not torch.equal(p[0], start[0])


def test_a_frozen_slice_survives_an_update_that_is_not_finite():
    p = grown()
    p.grad[1] = float("inf")
    optimizer = SGD([p], lr=0.1)
    held(optimizer, new=(ROW, 0.0))
    optimizer.step()
    assert p[1].tolist() == [-3.0, 4.0]


def test_decoupled_weight_decay_is_scaled_with_the_update():
    p = grown()
    p.grad.zero_()
    optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
    held(optimizer, new=(ROW, 0.5))
    optimizer.step()
    torch.testing.assert_close(p[0].tolist(), [1 * 0.95, 2 * 0.95])
    torch.testing.assert_close(p[1].tolist(), [-3 * 0.975, 4 * 0.975])


def test_factors_on_overlapping_slices_multiply_with_each_other_and_those_on_the_whole():
    p = grown()
    p.data.zero_()
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=1.0)
    rates = LearningRates([optimizer])
    rates.hold(
        [SliceFactor("a", p, ROW), SliceFactor("b", p, COLUMN), Factor("c", None)],
        {"a": 0.5, "b": 0.25, "c": 0.5},
        lasting=1.0,
    )
    optimizer.step()
    assert (-p).tolist() == [[0.5, 0.125], [0.25, 0.0625]]


def test_a_place_may_hold_whole_parameters_and_slices():
    p, new = grown(), nn.Parameter(torch.zeros(2, dtype=torch.float64))
    new.grad = torch.ones(2, dtype=torch.float64)
    start = p.detach().clone()
    optimizer = SGD([p, new], lr=1.0)
    rates = LearningRates([optimizer])
    rates.hold([SliceFactor("x", p, ROW), Factor("x", frozenset({id(new)}))], {"x": 0.5}, lasting=1)
    optimizer.step()
    assert (p - start).tolist() == [[-1, 1], [-1, -0.25]]
    assert new.tolist() == [-0.5, -0.5]
    rates.tune("x", 0.0)
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p[1], before[1])
    assert new.tolist() == [-0.5, -0.5]


def test_a_factor_of_1_keeps_nothing(monkeypatch):
    def fail(*_):
        raise AssertionError

    p = grown()
    optimizer = SGD([p], lr=0.1)
    rates = held(optimizer, new=(ROW, 1.0))
    monkeypatch.setattr("stagegraph.actions.optimizing.learning_rates.entry_factors", fail)
    optimizer.step()
    rates.tune("new", 0.5)
    with pytest.raises(AssertionError):
        optimizer.step()


def test_nothing_is_kept_between_steps():
    p = grown()
    optimizer = SGD([p], lr=0.1)
    rates = held(optimizer, new=(ROW, 0.5))
    optimizer.step()
    assert rates._steps[0]._slices._kept == []


def test_a_closure_sees_the_parameter_as_it_is_and_may_change_it():
    p = grown()
    optimizer = SGD([p], lr=0.1)
    held(optimizer, new=(ROW, 0.0))

    def closure():
        with torch.no_grad():
            p.mul_(2)  # a constraint in the forward, say: no update of the optimizer's
        p.grad = torch.ones_like(p)
        return p.detach().sum()

    optimizer.step(closure)
    assert p.tolist() == [[2 * 1 - 0.1, 2 * 2 - 0.1], [-6, 8]]


def test_a_failing_closure_leaves_nothing_behind():
    p = grown()
    optimizer = SGD([p], lr=0.1)
    rates = held(optimizer, new=(ROW, 0.0))

    def closure():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    with torch.no_grad():
        p.fill_(7.0)  # a checkpoint is loaded
    rates.heal()
    assert p.tolist() == [[7, 7], [7, 7]]


class Failing(SGD):
    def step(self, closure=None):
        super().step(closure)
        raise RuntimeError("out of memory")


def test_a_step_that_raises_half_way_is_healed():
    p = grown()
    start = p.detach().clone()
    optimizer = Failing([p], lr=0.1)
    rates = held(optimizer, new=(ROW, 0.0))
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    rates.heal()
    assert torch.equal(p[1], start[1])
    assert not torch.equal(p[0], start[0])


def test_a_parameter_that_grew_after_a_raise_is_left_alone():
    p = grown()
    slices = Slices()
    slices.keep([(p, torch.zeros(2, 2, dtype=torch.float64))])
    p.grad = None
    p.data = torch.ones(3, 2, dtype=torch.float64)
    slices.blend()
    assert torch.equal(p, torch.ones(3, 2))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("finite", [False, True])
def test_a_scaler_that_skips_leaves_the_slice_too(finite, fused):
    p = grown(torch.float32)
    start = p.detach().clone()
    optimizer = AdamW([p], lr=0.1, weight_decay=0.5, fused=fused)
    held(optimizer, new=(ROW, 0.5))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    p.grad = None
    scaler.scale((p * (1.0 if finite else float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, start) is not finite


def test_bfloat16_is_blended_in_float32():
    p = nn.Parameter(torch.full((2, 2), 1.0, dtype=torch.bfloat16))
    p.grad = torch.full_like(p, -0.5)
    optimizer = SGD([p], lr=1.0)
    held(optimizer, new=(ROW, 0.3))
    optimizer.step()
    assert p[0].tolist() == [1.5, 1.5]
    assert p[1].tolist() == torch.tensor([1.15, 1.15]).bfloat16().tolist()


def test_the_marks_of_a_binding_are_masks():
    axis = AxisFactor(1, space_map("zero_out", 1, 2), "out")
    marks = Binding((((axis,),), ((AxisFactor(2),),))).marks("added")
    p = grown()
    start = p.detach().clone()
    optimizer = SGD([p], lr=0.1)
    held(optimizer, new=(marks, 0.0))
    optimizer.step()
    assert torch.equal(p[1], start[1])
    assert not torch.equal(p[0], start[0])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"x: a mask of shape \(3, 1\) does not fit a parameter of"
    ):
        SliceFactor("x", grown(), torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not fit"):
        SliceFactor("x", nn.Parameter(torch.ones(1, 2)), torch.ones(2, 2, dtype=torch.bool))


def test_remembered_slices_come_back():
    p = grown()
    optimizer = SGD([p], lr=0.1)
    rates = held(optimizer, new=(ROW, 0.0))
    back = rates.remember()
    rates.hold([], {}, lasting=1.0)
    optimizer.step()
    before = p.detach().clone()
    back()
    optimizer.step()
    assert torch.equal(p[1], before[1])
    assert not torch.equal(p[0], before[0])
