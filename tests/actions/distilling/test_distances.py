"""The distances between student and teachers, by hand and in double precision."""

import doctest
import math

import pytest
import torch

from stagegraph.actions.distilling import distances
from stagegraph.actions.distilling.distances import cosine, divergence, mean_of, squared

STUDENT = [[0.3, -1.2, 2.0], [1.0, 0.0, -0.5]]
FIRST = [[1.0, 0.5, -0.3], [0.2, 0.1, 0.9]]
SECOND = [[-2.0, 0.0, 0.4], [0.0, 0.0, 0.0]]


def by_hand(student, teachers, shares, temperature):
    """KL with plain floats, row by row."""
    total = 0.0
    for row, z in enumerate(student):
        p = [0.0] * len(z)
        for logits, share in zip(teachers, shares, strict=True):
            exps = [math.exp(t / temperature) for t in logits[row]]
            p = [have + share * e / sum(exps) for have, e in zip(p, exps, strict=True)]
        exps = [math.exp(s / temperature) for s in z]
        q = [e / sum(exps) for e in exps]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student) * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    ("teachers", "shares"), [([FIRST], [1.0]), ([FIRST, SECOND], [0.25, 0.75])]
)
def test_divergence_is_the_one_by_hand(temperature, teachers, shares):
    given = [torch.tensor(one, dtype=torch.float64) for one in teachers]
    found = divergence(torch.tensor(STUDENT).double(), given, shares, temperature, -1)
    exact = [[float(torch.tensor(v).double()) for v in row] for row in STUDENT]
    assert found.item() == pytest.approx(by_hand(exact, teachers, shares, temperature), rel=1e-12)


def test_gradient_of_the_divergence_is_t_times_q_minus_p():
    z = torch.tensor(STUDENT, requires_grad=True)
    divergence(z, [torch.tensor(FIRST)], [1.0], 3.0, -1).backward()
    p = torch.tensor(FIRST, dtype=torch.float64).div(3).softmax(-1)
    q = torch.tensor(STUDENT, dtype=torch.float64).div(3).softmax(-1)
    torch.testing.assert_close(z.grad.double(), 3 * (q - p) / 2, rtol=1e-5, atol=1e-7)


def test_size_of_the_gradient_hardly_hangs_on_the_temperature():
    sizes = []
    for temperature in (20.0, 40.0):
        z = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
        divergence(z, [torch.tensor(FIRST).double()], [1.0], temperature, -1).backward()
        sizes.append(float(z.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_divergence_from_itself_is_nothing():
    z = torch.tensor(STUDENT)
    assert divergence(z, [z], [1.0], 2.0, -1).item() == 0.0


def test_a_masked_class_counts_nothing_and_leaves_no_nan():
    masked = torch.tensor([[1.0, -math.inf, 0.0]])
    z = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    found = divergence(z, [masked], [1.0], 1.0, -1)
    found.backward()
    pair = [divergence(torch.tensor([[0.0, 1.0]]), [torch.tensor([[1.0, 0.0]])], [1.0], 1.0, -1)]
    torch.testing.assert_close(found.detach(), pair[0])
    assert z.grad[0, 1] == 0.0
    assert z.grad.isfinite().all()


def test_a_teacher_with_no_share_is_left_out():
    broken = torch.full((2, 3), math.nan)
    z, t = torch.tensor(STUDENT), torch.tensor(FIRST)
    assert torch.equal(
        divergence(z, [t, broken], [1.0, 0.0], 2.0, -1), divergence(z, [t], [1.0], 2.0, -1)
    )
    assert torch.equal(mean_of([t, broken], [1.0, 0.0]), t)


def test_classes_may_lie_on_another_axis():
    z, t = torch.tensor(STUDENT), torch.tensor(FIRST)
    assert torch.equal(divergence(z.T, [t.T], [1.0], 2.0, 0), divergence(z, [t], [1.0], 2.0, -1))


def test_half_precision_is_widened_first():
    z, t = torch.tensor(STUDENT).bfloat16(), torch.tensor(FIRST).bfloat16()
    found = divergence(z, [t], [1.0], 1.0, -1)
    assert found.dtype == torch.float32
    assert torch.equal(found, divergence(z.float(), [t.float()], [1.0], 1.0, -1))


def test_squared_and_cosine_by_hand():
    target = mean_of([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])], [0.25, 0.75])
    assert target.tolist() == [[0.25, 0.75]]
    student = torch.tensor([[0.75, 0.25]])
    assert squared(student, target).item() == pytest.approx(0.25)
    assert cosine(student, target, -1).item() == pytest.approx(1 - 0.375 / 0.625)


def test_examples_in_docstrings_run():
    assert doctest.testmod(distances).failed == 0
