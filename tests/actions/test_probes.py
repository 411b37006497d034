from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stagegraph.actions.probes import run_probe
from stagegraph.errors import UnsupportedError

ONE = torch.ones(1)


class Says(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *args, **kwargs):
        self.called = (args, kwargs)
        return self.output


@pytest.mark.parametrize(
    ("probe", "called"),
    [(ONE, ((ONE,), {})), ([1, 2], ((1, 2), {})), ({"a": 1}, ((), {"a": 1}))],
)
def test_a_batch_is_given_as_the_model_takes_it(probe, called):
    model = Says(ONE)
    assert run_probe(model, probe) is ONE and model.called == called


def test_a_function_of_the_model():
    assert run_probe(Says(3), lambda model: model.output * ONE) == 3


@pytest.mark.parametrize(
    "output",
    [
        (torch.ones(1, dtype=torch.long), ONE),
        {"loss": torch.zeros(1), "logits": ONE},
        {"loss": None, "hidden": [ONE]},
        SimpleNamespace(logits=ONE),
    ],
)
def test_the_tensor_that_stands_for_the_output(output):
    assert run_probe(Says(output), ONE) is ONE


def test_an_output_without_a_floating_tensor_is_refused():
    with pytest.raises(UnsupportedError, match=r"output on the probe is a dict without a floating"):
        run_probe(Says({"a": 1}), ONE)
