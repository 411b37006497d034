import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagegraph.actions.growth.width.families import copied, normalised, space_map
from stagegraph.actions.growth.width.maps import Binding, Factor, mapped

F64 = torch.float64
FAMILIES = ("split", "uneven", "zero_out", "zero_in", "pair")


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def growths(family):
    step = 2 if family == "pair" else 1
    return st.tuples(st.integers(1, 7), st.integers(1, 9)).map(
        lambda pair: (pair[0], pair[0] + step * pair[1])
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), seed=st.integers(0, 99))
def test_folding_what_was_grown_gives_it_back(family, data, seed):
    before, after = data.draw(growths(family))
    space = space_map(family, before, after, seed=seed)
    torch.testing.assert_close(
        space.fold() @ space.forward(), torch.eye(before, dtype=F64), rtol=0, atol=1e-15
    )


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from(["split", "zero_in"]), st.booleans())
def test_maps_under_a_norm_fold_back_too(before, more, family, subtracts_mean):
    space, _ = normalised(family, before, before + more, subtracts_mean=subtracts_mean)
    torch.testing.assert_close(
        space.fold() @ space.forward(), torch.eye(before, dtype=F64), rtol=0, atol=1e-15
    )


@given(st.integers(2, 6), st.integers(1, 9), st.sampled_from(["split", "zero_in"]), st.booleans())
def test_a_norm_sees_the_same_statistics(before, more, family, subtracts_mean):
    space, share = normalised(family, before, before + more, subtracts_mean=subtracts_mean)
    x, eps = randn(3, before, seed=more), 0.01
    grown = x @ space.forward().T

    def norm(x, eps, gain):
        centred = x - x.mean(-1, keepdim=True) if subtracts_mean else x
        return gain * centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    out = norm(grown, eps * share, share**0.5)
    torch.testing.assert_close(out @ space.fold().T, norm(x, eps, 1.0), rtol=0, atol=1e-14)


def test_an_uneven_split_divides_unevenly_and_by_its_seed():
    shares = space_map("uneven", 2, 4, seed=1).read
    assert shares[0] + shares[2] == pytest.approx(1, abs=1e-15)
    assert abs(float(shares[0]) - 0.5) > 1e-3
    assert torch.equal(shares, space_map("uneven", 2, 4, seed=1).read)
    assert not torch.equal(shares, space_map("uneven", 2, 4, seed=2).read)


@pytest.mark.parametrize(
    ("family", "before", "after", "message"),
    [
        ("split", 4, 4, "there are 4 units already, 4 is no growth"),
        ("pair", 4, 7, "pairs come in twos, and 3 units more is an odd number"),
    ],
)
def test_sizes_that_cannot_be(family, before, after, message):
    with pytest.raises(ValueError, match=message):
        space_map(family, before, after)


def test_zero_out_under_a_norm_is_refused():
    with pytest.raises(ValueError, match="'zero_out' would change what a norm over this space"):
        normalised("zero_out", 4, 6, subtracts_mean=True)


def test_which_units_are_fresh_and_which_are_added():
    split, zero = space_map("split", 2, 5), space_map("zero_out", 2, 3)
    assert split.fresh.tolist() == [False] * 5
    assert split.added.tolist() == [False, False, True, True, True]
    assert split.copies.tolist() == [3, 2]
    assert zero.fresh.tolist() == zero.added.tolist() == [False, False, True]


def binding(*axes):
    return Binding(tuple(axes))


def test_a_weight_is_multiplied_by_both_matrices():
    rows, columns = space_map("uneven", 3, 5, seed=1), space_map("uneven", 2, 6, seed=2)
    weight = randn(3, 2)
    bound = binding(((Factor(3, rows, "out"),),), ((Factor(2, columns, "in"),),))
    assert bound.shape == (3, 2)
    assert bound.grown == (5, 6)
    expected = rows.forward() @ weight @ columns.fold()
    torch.testing.assert_close(mapped(weight, bound, "weight"), expected, rtol=0, atol=1e-15)
    gradient = rows.fold().T @ weight @ columns.forward().T
    torch.testing.assert_close(mapped(weight, bound, "gradient"), gradient, rtol=0, atol=1e-15)
    square = (rows.fold().T ** 2) @ weight @ (columns.forward().T ** 2)
    torch.testing.assert_close(mapped(weight, bound, "square"), square, rtol=0, atol=1e-15)


@pytest.mark.parametrize("role", ["out", "in"])
@pytest.mark.parametrize("use", ["weight", "gradient"])
def test_mean_units_follow_the_matrices_too(role, use):
    space, _ = normalised("zero_in", 3, 5, subtracts_mean=True)
    tensor = randn(3)
    R, D = space.forward(), space.fold()
    matrix = {
        ("out", "weight"): R,
        ("out", "gradient"): D.T,
        ("in", "weight"): D.T,
        ("in", "gradient"): R,
    }[role, use]
    got = mapped(tensor, binding(((Factor(3, space, role),),)), use)
    torch.testing.assert_close(got, matrix @ tensor, rtol=0, atol=1e-15)


def test_a_flattened_axis_is_a_kronecker_product():
    heads = space_map("uneven", 2, 3, seed=4)
    weight = randn(12, 5)
    bound = binding(((Factor(3), Factor(2, heads, "out"), Factor(2)),), ((Factor(5),),))
    R = torch.kron(torch.eye(3, dtype=F64), torch.kron(heads.forward(), torch.eye(2, dtype=F64)))
    torch.testing.assert_close(mapped(weight, bound, "weight"), R @ weight, rtol=0, atol=1e-15)


def test_a_concatenated_axis_grows_part_by_part():
    one = space_map("split", 2, 4)
    weight = randn(3, 5)
    bound = binding(((Factor(3),),), ((Factor(2, one, "in"),), (Factor(3),)))
    grown = mapped(weight, bound, "weight")
    assert grown.shape == bound.grown == (3, 7)
    torch.testing.assert_close(grown[:, :4], weight[:, :2] @ one.fold())
    assert torch.equal(grown[:, 4:], weight[:, 2:])


def test_marks_tell_new_entries_of_a_tensor():
    bound = binding(
        ((Factor(2), Factor(1, space_map("zero_out", 1, 2), "out")),),
        ((Factor(2, space_map("split", 2, 3), "in"),),),
    )
    added = bound.marks("added").expand(4, 3)
    assert added.tolist() == [
        [False, False, True],
        [True, True, True],
        [False, False, True],
        [True, True, True],
    ]
    fresh = bound.marks("fresh", "out").expand(4, 3)
    assert fresh[:, 0].tolist() == [False, True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_float64_and_rounded_once(dtype):
    space = copied(1, [0, 0, 0], [1 / 3, 1 / 3, 1 / 3])
    weight = randn(1, 1, dtype=F64).to(dtype)
    bound = binding(((Factor(1, space, "in"),),), ((Factor(1, space, "in"),),))
    expected = (weight.double() * (1 / 3) * (1 / 3)).to(dtype).expand(3, 3)
    assert torch.equal(mapped(weight, bound, "weight"), expected)


def test_what_does_not_grow_is_a_copy_and_keeps_its_layout():
    weight = randn(2, 3, 4, 4, dtype=torch.float32).to(memory_format=torch.channels_last)
    still = binding(*(((Factor(size),),) for size in weight.shape))
    copy = mapped(weight, still, "weight")
    assert torch.equal(copy, weight)
    assert copy.data_ptr() != weight.data_ptr()
    bound = binding(((Factor(2, space_map("split", 2, 4), "out"),),), *still.axes[1:])
    assert mapped(weight, bound, "weight").is_contiguous(memory_format=torch.channels_last)
