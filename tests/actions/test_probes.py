from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stagegraph.actions.probes import probe_loss, run_probe
from stagegraph.actions.randomness import fixed_direction
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


def test_a_loss_stands_for_the_output_only_where_nothing_else_does():
    hidden, loss = torch.ones(2, 3), torch.zeros(())
    assert run_probe(Says({"loss": loss, "hidden": hidden}), ONE) is hidden
    assert run_probe(Says({"loss": loss}), ONE) is loss


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_a_model_descends_its_own_loss(kind):
    loss = torch.zeros((), requires_grad=True)
    assert probe_loss(Says(kind(loss=loss, logits=ONE)), ONE) is loss


@pytest.mark.parametrize("loss", [None, torch.zeros(()), torch.zeros(2, requires_grad=True)])
def test_without_a_loss_a_model_descends_its_output(loss):
    output = torch.ones(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(probe_loss(Says({"loss": loss, "logits": output}), ONE), output)
    assert torch.equal(grad, fixed_direction(output))


@pytest.mark.parametrize(
    "probe", [torch.ones(1, 2, device="meta"), [torch.ones(1, 2, device="meta")]]
)
def test_a_probe_on_another_device_is_said(probe):
    message = "the probe is on meta and the model on cpu; give probe= where the model is"
    with pytest.raises(UnsupportedError, match=message):
        run_probe(nn.Linear(2, 2), probe)


def test_a_failure_of_the_model_is_its_own():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_probe(nn.Linear(2, 2), torch.ones(1, 3))
