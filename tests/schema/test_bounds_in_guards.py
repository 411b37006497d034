"""What a guard's number may be, and what a curve may be, told in words."""

import pytest

import stagegraph as sg
from stagegraph.errors import DocumentError

TEXT = """
stagegraph: 1
name: bounds
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: warmup
    during: [{type: lr_ramp, start: 0, over: 10 steps, curve: CURVE}]
    transitions: [{target: done, when: "GUARD"}]
    next: done
  done: {kind: final}
"""


@pytest.mark.parametrize(
    ("guard", "curve", "says"),
    [
        ("harmful(m, by=0%)", "linear", "harmful: by: it is over 0, got 0"),
        ("harmful(m, by=2000%)", "linear", "harmful: by: it is under 10, got 20"),
        ("m < 1", "sigmoid", "known: cosine, exponential, linear, or points from [0, 0] to [1, 1]"),
    ],
)
def test_the_message_names_the_bound_and_all_forms(guard, curve, says):
    with pytest.raises(DocumentError) as caught:
        sg.load(TEXT.replace("GUARD", guard).replace("CURVE", curve))
    assert says in str(caught.value) and "Input should" not in str(caught.value)
