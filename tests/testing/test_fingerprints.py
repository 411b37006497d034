"""Equal contents, equal fingerprints; one bit, another one."""

from collections import OrderedDict
from fractions import Fraction

import pytest
import torch

from stagegraph.testing.fingerprints import fingerprint


def test_single_numbers_stand_for_themselves():
    assert fingerprint(0.1) == "0.1"
    assert fingerprint(Fraction(1, 3)) == "1/3"
    assert fingerprint(torch.tensor(2.5)) == "2.5 float32"
    assert fingerprint(None) == "None"
    assert fingerprint("x" * 100) == fingerprint("x" * 100) != fingerprint("x" * 101)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(3), torch.ones(3).nextafter(torch.tensor(2.0))),
        (torch.ones(4), torch.ones(2, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), -torch.zeros(2)),
        ([1, 2], (1, 2)),
        ([1, 2], [12]),
        ([[1], 2], [1, [2]]),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (True, 1),
        ([True], [1]),
        (b"ab", "ab"),
    ],
)
def test_what_differs_has_another(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_what_is_equal_has_the_same():
    def value():
        return OrderedDict(a=torch.arange(6.0).view(2, 3).t(), b=[{3, 1, 2}, (None, 1 + 2j)])

    assert fingerprint(value()) == fingerprint(value())
    part = torch.arange(10.0)[::2]
    assert fingerprint(part) == fingerprint(part.clone())
    assert fingerprint(object()) == fingerprint(object())
