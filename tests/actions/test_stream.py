from collections import OrderedDict, namedtuple

import torch

from stagegraph.actions.stream import main_input, main_output, with_main_output

A, B, MASK = torch.ones(1), torch.zeros(1), torch.ones(1, dtype=torch.bool)
Pair = namedtuple("Pair", "first second")


def test_the_stream_is_the_first_floating_tensor():
    assert main_input((MASK, A, B), {}) is A
    assert main_input((), {"mask": MASK, "x": A}) is A
    assert main_input((), {"other": B, "hidden_states": A}) is A
    assert main_input((1, None), {}) is None


def test_the_output_may_be_a_tensor_a_tuple_or_a_mapping():
    assert main_output(A) is A
    assert main_output((None, A, B)) is A
    assert main_output({"mask": MASK, "x": A}) is A
    assert main_output(MASK) is None and main_output(None) is None


def test_the_output_keeps_its_form():
    assert with_main_output(A, B) is B
    assert with_main_output((A, 3), B) == (B, 3)
    assert with_main_output([A, 3], B) == [B, 3]
    assert with_main_output(Pair(A, 3), B) == Pair(B, 3)
    replaced = with_main_output(OrderedDict(x=A, y=3), B)
    assert type(replaced) is OrderedDict and replaced == {"x": B, "y": 3}
