import pytest
import torch
from torch import nn
from torch.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    lr_scheduler,
)

from stagegraph.actions.growth.width.families import copied, normalised, space_map
from stagegraph.actions.growth.width.maps import Binding, Factor, mapped
from stagegraph.actions.optimizing.learning_rates import LearningRates
from stagegraph.actions.optimizing.optimizer_state import grown_state
from stagegraph.actions.optimizing.scales import Scale, scales_of
from stagegraph.errors import UnsupportedError
from tests.actions.optimizing.splits import HALF, bindings, loss_of, small, widened

HIDDEN = {"hidden": space_map("split", 4, 8)}
HEADS = {"heads": space_map("split", 2, 4)}
STREAM = {"stream": normalised("split", 4, 8, subtracts_mean=True)[0]}
SPACES = {"hidden": HIDDEN, "heads": HEADS, "stream": STREAM, "all": HIDDEN | HEADS | STREAM}
NO_SPACES = {"stream": None, "heads": None, "hidden": None}


def both(model):
    return list(model.parameters())


def side_by_side(make, spaces, *, schedule=None, scaled=True, trained=both, times=None, steps=25):
    """Train, grow, and go on with both; how far the grown weights end from the mapped small ones.

    The distance is relative to the largest entry of each weight.
    """
    spaces, tied, times = NO_SPACES | spaces, times is not None, times or {}
    model = small(tied=tied)
    bound = bindings(model, **spaces)
    optimizer = make(trained(model))
    scheduler = None if schedule is None else schedule(optimizer)
    for number in range(5):
        update(model, optimizer, scheduler, number)
    grown = widened(model, bound, heads=spaces["heads"], times=times)
    wide = make(trained(grown))
    wide_scheduler = None if schedule is None else schedule(wide)
    if wide_scheduler is not None:
        wide_scheduler.load_state_dict(scheduler.state_dict())
    rates, scales = LearningRates([wide]), {}
    ours = {id(p) for p in trained(model)}
    for (name, old), new in zip(model.named_parameters(), grown.parameters(), strict=True):
        if id(old) not in ours:
            continue
        more = times.get(name, 1.0)
        state = grown_state(optimizer, old, bound[name], policy="fill_v", times=more)
        if state is not None:
            wide.state[new] = state
        group = wide.param_groups[0]
        scales[id(new)] = scales_of(wide, bound[name], times=more, group=group)
    for group, old_group in zip(wide.param_groups, optimizer.param_groups, strict=True):
        group["lr"] = old_group["lr"]
    if scaled:
        rates.lasting_scales = scales
    for number in range(5, 5 + steps):
        update(model, optimizer, scheduler, number)
        update(grown, wide, wide_scheduler, number)
        assert [g["lr"] for g in wide.param_groups] == [g["lr"] for g in optimizer.param_groups]
    return max(
        distance(new, mapped(old, bound[name], "weight") * times.get(name, 1.0))
        for (name, old), new in zip(model.named_parameters(), grown.parameters(), strict=True)
    )


def update(model, optimizer, scheduler, number):
    model.zero_grad()
    loss_of(model, number).backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()


def distance(a, b):
    return float((a.detach() - b.detach()).abs().max() / b.detach().abs().max())


def kinds(cls, **kwargs):
    return lambda params: cls(params, **{"lr": 1e-2, **kwargs})


@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize("variant", ["foreach=False", "foreach=True", "fused=True"])
def test_a_scaled_model_trains_as_the_small_one(variant, spaces):
    key, on = variant.split("=")
    make = kinds(AdamW, weight_decay=0.1, **{key: on == "True"})
    assert side_by_side(make, SPACES[spaces]) < 1e-9


@pytest.mark.parametrize("spaces", SPACES)
def test_without_scales_it_does_not(spaces):
    make = kinds(AdamW, weight_decay=0.1)
    assert side_by_side(make, SPACES[spaces], scaled=False) > 1e-3


def test_scales_go_on_under_a_schedule():
    make = kinds(AdamW, weight_decay=0.1)

    def decay(optimizer):
        return lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)

    assert side_by_side(make, SPACES["all"], schedule=decay) < 1e-9


@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
def test_a_tied_head_needs_half_the_last_norm_and_scales_for_it(kind):
    make = kinds(kind, weight_decay=0.1)
    assert side_by_side(make, STREAM, times=HALF) < 1e-9
    assert side_by_side(make, STREAM, times=HALF, scaled=False) > 1e-4


OTHERS = {
    "SGD": kinds(SGD),
    "SGD momentum": kinds(SGD, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": kinds(Adam, weight_decay=0.1),
    "AMSGrad": kinds(AdamW, amsgrad=True),
    "NAdam": kinds(NAdam, weight_decay=0.1),
    "NAdam decoupled": kinds(NAdam, weight_decay=0.1, decoupled_weight_decay=True),
    "Adamax": kinds(Adamax, weight_decay=0.1),
    "Adagrad": kinds(Adagrad, weight_decay=0.1),
    "RMSprop": kinds(RMSprop, weight_decay=0.1, momentum=0.5, centered=True, lr=1e-3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_optimizers_have_scales_too(name):
    assert side_by_side(OTHERS[name], SPACES["all"]) < 1e-9


def matrices(model):
    return [p for p in model.parameters() if p.dim() == 2]


def newton_schulz(grad, ns_coefficients, ns_steps, eps):
    """Muon's iteration, in float64 in place of bfloat16."""
    a, b, c = ns_coefficients
    x = grad / grad.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("spaces", SPACES)
def test_muon_has_scales_too(spaces, adjust, monkeypatch):
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", newton_schulz)
    make = kinds(Muon, adjust_lr_fn=adjust)
    assert side_by_side(make, SPACES[spaces], trained=matrices) < 1e-9


def test_muons_own_precision_is_the_limit():
    make = kinds(Muon)
    scaled = side_by_side(make, SPACES["all"], trained=matrices)
    unscaled = side_by_side(make, SPACES["all"], trained=matrices, scaled=False)
    assert 1e-3 < scaled < 0.05 < unscaled


# The numbers, by hand


def matrix(rows, columns):
    return Binding((((rows,),), ((columns,),)))


def read_twice_written_thrice():
    rows = Factor(2, space_map("split", 2, 6), "out")
    return matrix(rows, Factor(4, space_map("split", 4, 8), "in"))


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (kinds(AdamW), Scale(lr=1 / 2, eps=1 / 3, weight_decay=2)),
        (kinds(Adam), Scale(lr=1 / 2, eps=1 / 3, weight_decay=2 / 3)),
        (kinds(SGD), Scale(lr=3 / 2, weight_decay=2 / 3)),
        (kinds(Muon), Scale(lr=(3 / 2) ** 0.5, eps=(2 / 3) ** 0.5, weight_decay=(2 / 3) ** 0.5)),
    ],
)
def test_scales_are_by_the_number_of_copies(make, scale):
    got = scales_of(make([torch.ones(2, 4)]), read_twice_written_thrice())
    for field in ("lr", "eps", "weight_decay"):
        assert getattr(got, field) == pytest.approx(getattr(scale, field), rel=1e-14)


def test_what_does_not_grow_and_new_units_that_are_read_with_zero_need_no_scale():
    optimizer = AdamW([torch.ones(2, 2)])
    assert scales_of(optimizer, matrix(Factor(2), Factor(2))) == Scale()
    zero_out = Factor(2, space_map("zero_out", 2, 3), "in")
    assert scales_of(optimizer, matrix(Factor(2), zero_out)) == Scale()


def test_uneven_splits_have_no_scale():
    optimizer = AdamW([torch.ones(2, 2)])
    uneven = Factor(2, copied(2, [0, 1, 0, 1], [0.25, 0.5, 0.75, 0.5]), "in")
    with pytest.raises(
        UnsupportedError, match=r"split unevenly, .* \(1/4, 1/2, 1/1.33\); use an eq"
    ):
        scales_of(optimizer, matrix(Factor(2), uneven))
    not_a_multiple = Factor(2, space_map("split", 2, 3), "in")
    with pytest.raises(UnsupportedError, match="split unevenly"):
        scales_of(optimizer, matrix(Factor(2), not_a_multiple))
    packed = Binding((((Factor(2, space_map("split", 2, 4), "out"),), (Factor(2),)),))
    with pytest.raises(UnsupportedError, match="split unevenly"):
        scales_of(optimizer, packed)


def test_units_that_hold_the_mean_have_no_scale():
    space, _ = normalised("split", 2, 5, subtracts_mean=True)
    with pytest.raises(
        UnsupportedError, match="units that hold the mean of all others, and no scale"
    ):
        scales_of(AdamW([torch.ones(2, 2)]), matrix(Factor(2, space, "out"), Factor(2)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (RAdam, "its first steps are linear in the gradient"),
        (Adadelta, "adds one eps to squares of gradients and to squares of updates"),
        (Adafactor, "scales its steps by the size of the whole tensor"),
        (Rprop, "step sizes adapt themselves"),
        (ASGD, "keeps step sizes of its own"),
        (LBFGS, "searched along one line"),
    ],
)
def test_optimizers_without_scales_are_refused(kind, reason):
    optimizer = kind([nn.Parameter(torch.ones(2, 2))])
    message = f"{kind.__name__} has no scales .*{reason}.*Adagrad, Adam, AdamW"
    with pytest.raises(UnsupportedError, match=message):
        scales_of(optimizer, matrix(Factor(2), Factor(2)))
