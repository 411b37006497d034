"""Guards at the edges of what a float can hold: an overflow is unknown, not true (law 11)."""

import math

import pytest

from stagegraph.engine.conditions import compile_guard
from stagegraph.engine.values import SlotTable
from stagegraph.schema.guard_text import parse_guard
from stagegraph.schema.guards import Not


def answers(text, **values):
    """Whether a guard is true, and whether its opposite is."""
    found = []
    for guard in (parse_guard(text), Not(type="not", of=parse_guard(text))):
        table = SlotTable()
        test = compile_guard(guard, "", table).test
        found.append(test([values[slot.name] for slot in table.slots]))
    return tuple(found)


@pytest.mark.parametrize(
    "text",
    [
        "m * m > 3",
        "1 / (m * m) < 3",
        "m * m < n",
        "-m * m < n",
        "n > -m * m",
        "n < m * 1e15",
        "n > m * -1e15",
        "m / z < 3",
        "m / z != 3",
        "m * m - m * m == 0",
        "m * m == m * m",
        "n + m * m / m > 1",
    ],
)
def test_what_runs_over_or_divides_by_zero_is_unknown(text):
    assert answers(text, m=1e300, n=2.0, z=0.0) == (False, False)
    assert answers(text, m=-1e300, n=-2.0, z=-0.0) == (False, False)


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("m < 1", False),
        ("m <= 1", True),
        ("m == 1", True),
        ("m != 1", False),
        ("not m > 1", True),
        ("0 < m < n < 3", True),
        ("0 < m < n < 2", False),
        ("m + n == 3 and n - m == 1 and m * n == 2 and m / n == 50%", True),
        ("(m - n) / n < -0.4 and 3 > m + 1 > 1", True),
        ("10% * n < m and m >= n * 0.5", True),
        ("1 < 2 and not 2 < 1", True),
        ("2 - -1 == 3", True),
    ],
)
def test_known_numbers_are_compared_as_written(text, true):
    assert answers(text, m=1.0, n=2.0) == (true, not true)


@pytest.mark.parametrize("word", ["and", "or"])
@pytest.mark.parametrize("number", range(2, 9))
def test_joins_of_any_length_agree_with_all_and_any(word, number):
    text = f" {word} ".join(f"x{k} {'<' if k % 3 else '+ 0 <'} 1" for k in range(number))
    table = SlotTable()
    test = compile_guard(parse_guard(text), "", table).test
    for bits in range(2**number):
        frame = [0.0 if bits >> int(slot.name[1:]) & 1 else 2.0 for slot in table.slots]
        assert test(frame) == (all if word == "and" else any)(value < 1 for value in frame)


def test_neighbours_of_a_bound_are_told_apart():
    above, below = math.nextafter(0.1, 1), math.nextafter(0.1, 0)
    assert [answers("m < 0.1", m=m)[0] for m in (below, 0.1, above)] == [True, False, False]
    assert [answers("m > 0.1", m=m)[0] for m in (below, 0.1, above)] == [False, False, True]
    assert answers("m < 0", m=-0.0)[0] is False and answers("m <= 0", m=-0.0)[0] is True
