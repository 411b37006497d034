import pytest
import torch
from torch import nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)
from transformers.optimization import Adafactor as TransformersAdafactor

from stagegraph.actions.growth.width.families import normalised, space_map
from stagegraph.actions.growth.width.maps import Binding, Factor, mapped
from stagegraph.actions.optimizing.optimizer_state import grown_state, state_for_copy
from stagegraph.actions.optimizing.optimizers import check_state_shapes, state_shapes
from stagegraph.actions.optimizing.state_rules import register_state, state_uses
from stagegraph.errors import UnsupportedError
from tests.actions.optimizing.splits import HALF, bindings, loss_of, small, widened

F64 = torch.float64
LR = 1e-2


def maps(splits):
    return {
        "equal": {"hidden": space_map("split", 4, 8), "heads": space_map("split", 2, 4)},
        "uneven": {
            "hidden": space_map("uneven", 4, 7, seed=1),
            "heads": space_map("uneven", 2, 3, seed=2),
        },
    }[splits] | {"stream": normalised("split", 4, 8, subtracts_mean=True)[0]}


def accumulate(make, spaces, at=(1, 5, 12), times=None):
    """Train the small model; at each step let the grown one see its own gradients too.

    The grown model's weights are always the small one's of that moment, mapped: what its optimizer
    keeps is what it would have kept, had it been the one that was trained.
    """
    model, times = small(tied=times is not None), times or {}
    bound = bindings(model, **spaces)
    grown = widened(model, bound, heads=spaces["heads"], times=times)
    optimizer, shadow = make(model.named_parameters()), make(grown.named_parameters())
    for number in range(max(at)):
        for (name, wide), old in zip(grown.named_parameters(), model.parameters(), strict=True):
            wide.data.copy_(mapped(old, bound[name], "weight") * times.get(name, 1.0))
        for one, its in ((model, optimizer), (grown, shadow)):
            one.zero_grad()
            loss_of(one, number).backward()
            its.step()
        if number + 1 in at:
            yield model, optimizer, grown, shadow, bound


def kinds(cls, **kwargs):
    return lambda named: cls([p for _, p in named], lr=LR, **kwargs)


def muon(named):
    return Muon([p for _, p in named if p.dim() == 2], lr=LR, weight_decay=0)


MAKERS = {
    "SGD momentum": kinds(SGD, momentum=0.9),
    "Adam": kinds(Adam),
    "AdamW": kinds(AdamW, weight_decay=0.1),
    "AMSGrad": kinds(AdamW, amsgrad=True),
    "NAdam": kinds(NAdam),
    "RAdam": kinds(RAdam),
    "Adamax": kinds(Adamax, eps=0),
    "RMSprop centered": kinds(RMSprop, centered=True, momentum=0.9, eps=0),
    "Adagrad": kinds(Adagrad),
    "Adadelta": kinds(Adadelta, eps=1e-30),
    "Rprop": kinds(Rprop),
    "Adafactor": kinds(Adafactor),
    "Muon": muon,
    "transformers Adafactor": kinds(
        TransformersAdafactor, relative_step=False, scale_parameter=False, beta1=0.9, eps=(0, 1e-3)
    ),
}


def errors_of_mapped_state(make, spaces, times=None):
    """The largest relative error of each tensor of the state, by key, at several steps."""
    errors = {}
    for model, optimizer, grown, shadow, bound in accumulate(make, spaces, times=times):
        names = dict(model.named_parameters())
        for key, wide in grown.named_parameters():
            expected = shadow.state.get(wide, {})
            factor = (times or {}).get(key, 1.0)
            got = grown_state(optimizer, names[key], bound[key], policy="fill_v", times=factor)
            assert list(got or {}) == list(expected)
            for entry, value in expected.items():
                if torch.is_tensor(value) and value.dim():
                    error = (got[entry] - value).abs().max() / value.abs().max().clamp(min=1e-300)
                    errors[entry] = max(errors.get(entry, 0.0), float(error))
                elif entry != "RMS":  # of the weights; it is computed anew in each step
                    assert got[entry] == pytest.approx(value)
    return errors


@pytest.mark.parametrize("splits", ["equal", "uneven"])
@pytest.mark.parametrize("name", MAKERS)
def test_mapped_state_is_what_the_grown_model_would_have_kept(name, splits):
    errors = errors_of_mapped_state(MAKERS[name], maps(splits))
    exact = splits == "equal" or "Adafactor" not in name
    assert errors and set(errors) <= set(state_uses(MAKERS[name](small().named_parameters())))
    for entry, error in errors.items():
        assert error < (1e-12 if exact else 0.3), (entry, error)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "Muon"])
def test_a_weight_that_is_multiplied_beside_its_map_has_smaller_gradients(name):
    spaces = {"heads": None, "hidden": None, "stream": maps("equal")["stream"]}
    for entry, error in errors_of_mapped_state(MAKERS[name], spaces, times=HALF).items():
        assert error < 1e-12, (entry, error)


def test_an_average_of_weights_grows_as_weights():
    ((model, optimizer, _, _, bound),) = accumulate(kinds(ASGD, t0=0), maps("uneven"), at=(4,))
    for name, parameter in model.named_parameters():
        got = grown_state(optimizer, parameter, bound[name], policy="fill_v", times=0.5)
        ax = optimizer.state[parameter]["ax"]
        assert torch.equal(got["ax"], mapped(ax, bound[name], "weight") * 0.5)
        assert got["eta"] == optimizer.state[parameter]["eta"]


# Factored moments


def matrix(rows, columns):
    return Binding((((rows,),), ((columns,),)))


def uneven_matrix():
    rows = Factor(4, space_map("uneven", 4, 7, seed=1), "out")
    return matrix(rows, Factor(3, space_map("uneven", 3, 5, seed=2), "out"))


def state_of(optimizer, parameter, **entry):
    optimizer.state[parameter] = entry
    return parameter


def test_a_factored_moment_is_exact_where_the_whole_is_of_rank_one():
    bound, generator = uneven_matrix(), torch.Generator().manual_seed(0)
    left, right = (torch.rand(n, generator=generator, dtype=F64) for n in (4, 3))
    whole = torch.outer(left, right)
    p = nn.Parameter(torch.ones(4, 3, dtype=F64))
    ours, theirs = Adafactor([p]), TransformersAdafactor([p], lr=LR, relative_step=False)
    row, column = whole.mean(1, keepdim=True), whole.mean(0, keepdim=True)
    state_of(ours, p, step=torch.tensor(3.0), row_var=row, col_var=column)
    state_of(theirs, p, step=3, exp_avg_sq_row=row[:, 0], exp_avg_sq_col=column[0])
    expected = mapped(whole, bound, "square")
    one = grown_state(ours, p, bound, policy="fill_v")
    other = grown_state(theirs, p, bound, policy="fill_v")
    torch.testing.assert_close(one["row_var"], expected.mean(1, keepdim=True), rtol=1e-14, atol=0)
    torch.testing.assert_close(one["col_var"], expected.mean(0, keepdim=True), rtol=1e-14, atol=0)
    torch.testing.assert_close(other["exp_avg_sq_row"], expected.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(other["exp_avg_sq_col"], expected.mean(0), rtol=1e-14, atol=0)


def test_a_factored_moment_follows_the_axes_before_it():
    kernel = Binding(
        (((Factor(2, space_map("uneven", 2, 3, seed=1)),),), ((Factor(3),),), ((Factor(4),),))
    )
    p = nn.Parameter(torch.ones(2, 3, 4, dtype=F64))
    optimizer, whole = Adafactor([p]), torch.rand(2, 3, 4, dtype=F64)
    row, column = whole.mean(-1, keepdim=True), whole.mean(-2, keepdim=True)
    state_of(optimizer, p, step=torch.tensor(1.0), row_var=row, col_var=column)
    got, expected = (
        grown_state(optimizer, p, kernel, policy="fill_v"),
        mapped(whole, kernel, "square"),
    )
    torch.testing.assert_close(got["row_var"], expected.mean(-1, keepdim=True))
    torch.testing.assert_close(got["col_var"], expected.mean(-2, keepdim=True))


def test_a_factored_moment_without_any_gradient_yet_stays_zero():
    p = nn.Parameter(torch.ones(4, 3))
    optimizer = Adafactor([p])
    state_of(
        optimizer, p, step=torch.tensor(0.0), row_var=torch.zeros(4, 1), col_var=torch.zeros(1, 3)
    )
    got = grown_state(optimizer, p, uneven_matrix(), policy="fill_v")
    assert torch.equal(got["row_var"], torch.zeros(7, 1))


# Fresh units


def zero_out():
    return matrix(Factor(2, space_map("zero_out", 2, 3), "out"), Factor(2))


def adam_with_history():
    p = nn.Parameter(torch.ones(2, 2, dtype=F64))
    optimizer = AdamW([p], lr=LR)
    m = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    state_of(optimizer, p, step=torch.tensor(5.0), exp_avg=m, exp_avg_sq=m**2)
    return p, optimizer


@pytest.mark.parametrize(("policy", "filled"), [("fill_v", 7.5), ("old_step", 0.0)])
def test_fresh_entries_begin_as_the_policy_says(policy, filled):
    p, optimizer = adam_with_history()
    got = grown_state(optimizer, p, zero_out(), policy=policy)
    assert got["exp_avg"].tolist() == [[1, 2], [3, 4], [0, 0]]
    assert got["exp_avg_sq"].tolist() == [[1, 4], [9, 16], [filled, filled]]
    assert got["step"] == 5


def test_a_fresh_step_begins_the_whole_tensor_anew():
    p, optimizer = adam_with_history()
    assert grown_state(optimizer, p, zero_out(), policy="fresh_step") == {}
    split = matrix(Factor(2, space_map("split", 2, 4), "out"), Factor(2))
    assert grown_state(optimizer, p, split, policy="fresh_step")["step"] == 5  # nothing is fresh


def test_adagrad_begins_anew_with_what_it_cannot_step_without():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Adagrad([p], lr=LR, initial_accumulator_value=0.5)
    p.grad = torch.ones_like(p)
    optimizer.step()
    got = grown_state(optimizer, p, zero_out(), policy="fresh_step")
    assert got["step"] == 0
    assert torch.equal(got["sum"], torch.full((3, 2), 0.5))
    fresh = nn.Parameter(torch.ones(2, 2))
    optimizer.param_groups[0]["params"].append(fresh)
    optimizer.state[fresh] = state_for_copy(optimizer, p)
    fresh.grad = torch.ones_like(fresh)
    optimizer.step()


def test_a_step_size_is_never_zero():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Rprop([p], lr=LR)
    sizes = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    state_of(optimizer, p, step=torch.tensor(1.0), prev=torch.ones(2, 2), step_size=sizes)
    got = grown_state(optimizer, p, zero_out(), policy="old_step")
    assert got["step_size"].tolist() == [[1, 2], [3, 4], [2.5, 2.5]]
    assert got["prev"][2].tolist() == [0, 0]


def test_factored_moments_of_fresh_units_are_filled():
    p = nn.Parameter(torch.ones(2, 2, dtype=F64))
    optimizer = Adafactor([p])
    row, column = torch.tensor([[1.0], [3.0]], dtype=F64), torch.tensor([[1.5, 2.5]], dtype=F64)
    state_of(optimizer, p, step=torch.tensor(1.0), row_var=row, col_var=column)
    filled = grown_state(optimizer, p, zero_out(), policy="fill_v")
    assert filled["row_var"].flatten().tolist() == [1, 3, 2]
    assert filled["col_var"].flatten().tolist() == [1.5, 2.5]
    empty = grown_state(optimizer, p, zero_out(), policy="old_step")
    assert empty["row_var"].flatten().tolist() == [1, 3, 0]
    torch.testing.assert_close(empty["col_var"], column * 2 / 3)  # a third of the rows is zero


def test_an_average_of_weights_begins_with_the_new_weights():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = ASGD([p], lr=LR)
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(
        UnsupportedError, match=r"begins with the new weights themselves; pass weigh"
    ):
        grown_state(optimizer, p, zero_out(), policy="fill_v")
    weight = torch.full((3, 2), 7.0)
    got = grown_state(optimizer, p, zero_out(), policy="fill_v", weight=weight)
    assert torch.equal(got["ax"][:2], optimizer.state[p]["ax"])
    assert got["ax"][2].tolist() == [7, 7]


def update_sizes(policy, steps=400):
    """Per step |update| / lr of an entry that is new at step 10 000, under a constant gradient."""
    p = nn.Parameter(torch.zeros(1, 1, dtype=F64))
    optimizer = AdamW([p], lr=1.0, weight_decay=0, eps=1e-12)
    one = torch.ones(1, 1, dtype=F64)
    state_of(optimizer, p, step=torch.tensor(10_000.0), exp_avg=one, exp_avg_sq=one.clone())
    bound = matrix(Factor(1, space_map("zero_out", 1, 2), "out"), Factor(1))
    grown = nn.Parameter(torch.zeros(2, 1, dtype=F64))
    optimizer.state[grown] = grown_state(optimizer, p, bound, policy=policy)
    optimizer.param_groups[0]["params"][:] = [grown]
    sizes = []
    for _ in range(steps):
        before = grown.detach().clone()
        grown.grad = torch.ones_like(grown)
        optimizer.step()
        sizes.append(float((grown.detach() - before)[1].abs()))
    return sizes


@pytest.mark.parametrize(
    ("policy", "first", "peak", "at"),
    [("fresh_step", 1.00, 1.00, None), ("old_step", 3.16, 6.57, 12), ("fill_v", 0.10, 1.00, 139)],
)
def test_how_far_a_new_entry_moves(policy, first, peak, at):
    sizes = update_sizes(policy)
    assert sizes[0] == pytest.approx(first, abs=0.005)
    assert max(sizes) == pytest.approx(peak, abs=0.005)
    if at is not None:
        assert sizes[at - 1] == pytest.approx(max(sizes), rel=2e-5)


# Copies


def test_asymmetric_copies_begin_without_moments():
    p, optimizer = adam_with_history()
    split = matrix(Factor(2, space_map("split", 2, 4), "out"), Factor(2))
    got = grown_state(optimizer, p, split, policy="fill_v", copies="asymmetric")
    assert got["exp_avg"].tolist() == [[0.5, 1], [1.5, 2], [0, 0], [0, 0]]
    assert got["exp_avg_sq"].tolist() == [[0.25, 1], [2.25, 4], [0, 0], [0, 0]]


def test_a_parameter_without_axes_has_a_first_moment_too():
    p = nn.Parameter(torch.tensor(1.0))
    optimizer = AdamW([p])
    state_of(optimizer, p, step=torch.tensor(5.0), exp_avg=torch.tensor(2.0), exp_avg_sq=p.detach())
    got = state_for_copy(optimizer, p, policy="fill_v")
    assert {key: float(value) for key, value in got.items()} == {
        "step": 5,
        "exp_avg": 0,
        "exp_avg_sq": 1,
    }


def test_asymmetric_copies_have_no_factored_moments():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Adafactor([p])
    row, column = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.5, 2.5]])
    state_of(optimizer, p, step=torch.tensor(1.0), row_var=row, col_var=column)
    split = matrix(Factor(2, space_map("split", 2, 4), "out"), Factor(2))
    got = grown_state(optimizer, p, split, policy="fill_v", copies="asymmetric")
    assert got["row_var"].flatten().tolist() == [0.25, 0.75, 0, 0]
    assert got["col_var"].flatten().tolist() == [1.5 / 8, 2.5 / 8]  # a quarter, on half of the rows


@pytest.mark.parametrize(
    ("policy", "m", "v"),
    [
        ("copy", [1, 2, 3, 4], [1, 4, 9, 16]),
        ("fill_v", [0] * 4, [7.5] * 4),
        ("old_step", [0] * 4, [0] * 4),
    ],
)
def test_a_whole_copy_begins_as_the_policy_says(policy, m, v):
    p, optimizer = adam_with_history()
    got = state_for_copy(optimizer, p, policy=policy)
    assert got["exp_avg"].flatten().tolist() == m
    assert got["exp_avg_sq"].flatten().tolist() == v
    assert got["step"] == 5
    old = optimizer.state[p]
    assert not {t.data_ptr() for t in got.values()} & {t.data_ptr() for t in old.values()}


def test_without_state_there_is_none_to_copy_or_grow():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([p])
    assert state_for_copy(optimizer, p, policy="copy") is None
    assert grown_state(optimizer, p, zero_out(), policy="fill_v") is None
    assert p not in optimizer.state
    with_state, history = adam_with_history()
    assert state_for_copy(history, with_state) is None


def test_an_average_begins_with_the_copied_parameter():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = ASGD([p], lr=LR)
    p.grad = torch.ones_like(p)
    optimizer.step()
    got = state_for_copy(optimizer, p, policy="copy", weight=torch.zeros(2, 2))
    assert torch.equal(got["ax"], torch.zeros(2, 2))
    with pytest.raises(UnsupportedError, match=r"pass weight=\.\.\."):
        state_for_copy(optimizer, p, policy="copy")


# What stays as it is


def test_growing_a_state_changes_nothing_and_keeps_dtypes():
    p = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer = AdamW([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[p].items()}
    got = grown_state(optimizer, p, zero_out(), policy="fill_v")
    assert {key: value.dtype for key, value in got.items()} == {
        "step": torch.float32,
        "exp_avg": torch.bfloat16,
        "exp_avg_sq": torch.bfloat16,
    }
    got["step"] += 1
    assert all(torch.equal(optimizer.state[p][key], value) for key, value in before.items())


# Optimizers of others


class Lion(Optimizer):
    def __init__(self, params, lr=LR):
        super().__init__(params, {"lr": lr})


class Averaged(AdamW):
    pass


def test_an_unknown_optimizer_is_refused_with_the_remedy():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Lion([p])
    state_of(optimizer, p, exp_avg=torch.ones(2, 2))
    message = (
        r"optimizer Lion: there is no rule how its state 'exp_avg' \(\(2, 2\), beside a parameter "
        r"of shape \(2, 2\)\) grows; state it with register_state\(Lion, \{'exp_avg': use\}\)"
    )
    with pytest.raises(UnsupportedError, match=message):
        grown_state(optimizer, p, zero_out(), policy="fill_v")
    with pytest.raises(UnsupportedError, match=message):
        state_for_copy(optimizer, p, policy="copy")


def test_an_unknown_key_of_a_known_optimizer_is_refused_until_it_is_stated():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Averaged([p])
    m = torch.ones(2, 2)
    state_of(optimizer, p, step=torch.tensor(1.0), exp_avg=m, exp_avg_sq=m, fast=2 * m)
    with pytest.raises(UnsupportedError, match=r"optimizer Averaged: .* its state 'fast'"):
        grown_state(optimizer, p, zero_out(), policy="fill_v")
    register_state(Averaged, {"fast": "gradient"})
    got = grown_state(optimizer, p, zero_out(), policy="fill_v")
    assert got["fast"].tolist() == [[2, 2], [2, 2], [0, 0]]
    assert got["exp_avg_sq"].tolist() == [[1, 1]] * 3


def test_state_of_another_shape_than_its_rule_says_is_refused():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([p])
    state_of(optimizer, p, step=torch.tensor(1.0), exp_avg=torch.ones(4))
    with pytest.raises(
        UnsupportedError, match=r"'exp_avg' has shape \(4,\); as 'gradient' of a par"
    ):
        grown_state(optimizer, p, zero_out(), policy="fill_v")


def test_half_a_factored_moment_is_refused():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Adafactor([p])
    state_of(optimizer, p, step=torch.tensor(1.0), row_var=torch.ones(2, 1))
    with pytest.raises(
        UnsupportedError, match="needs one state that is 'column' beside it, found 0"
    ):
        grown_state(optimizer, p, zero_out(), policy="fill_v")


def test_uses_that_are_not_known_are_refused():
    with pytest.raises(UnsupportedError, match=r"'m' of Lion cannot be 'gradiant'; .*'gradient'"):
        register_state(Lion, {"m": "gradiant"})
    with pytest.raises(UnsupportedError, match="takes a class of torch optimizers, got 'Lion'"):
        register_state("Lion", {})


# The next step


@pytest.mark.parametrize("splits", ["equal", "uneven"])
def test_the_next_step_works_and_is_the_same_in_every_variant(splits):
    after = {}
    for variant in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        after[str(variant)] = one_more_step(kinds(AdamW, **variant), maps(splits))
    single, foreach, fused = after.values()
    for a, b, c in zip(single, foreach, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*MAKERS, "ASGD"])
def test_every_optimizer_steps_on_with_its_grown_state(name):
    weights = one_more_step({**MAKERS, "ASGD": kinds(ASGD)}[name], maps("uneven"))
    assert all(bool(weight.isfinite().all()) for weight in weights)


def one_more_step(make, spaces):
    """Grow after four steps, in place, as a growth does; step once more; the weights then."""
    model = small()
    bound, optimizer = bindings(model, **spaces), make(model.named_parameters())
    for number in range(4):
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()
    before = state_shapes([optimizer])
    states = {
        name: grown_state(optimizer, p, bound[name], policy="fill_v")
        for name, p in model.named_parameters()
    }
    grown = widened(model, bound, heads=spaces["heads"])
    for name, p in model.named_parameters():
        p.grad = None
        p.data = grown.get_parameter(name).data
        if states[name] is not None:
            optimizer.state[p] = states[name]
    model.heads = grown.heads
    for norm in (model.ln1, model.ln2, model.ln3):
        norm.normalized_shape = tuple(norm.weight.shape)
    check_state_shapes([optimizer], before)
    loss_of(model, 4).backward()
    optimizer.step()
    return [p.detach().clone() for p in model.parameters()]
