"""A compiled model through a growth and a warm-up: the losses of the model as it is written."""

import shutil

import pytest
import torch
from torch.optim import AdamW

from tests.cuda.placing import heavy
from tests.cuda.test_optimizer_state import COPIES
from tests.session.test_warmups import alpha_of
from tests.session.training import WIDTH, Training


def losses(device, backend):
    """The loss of each update, and alpha before it, in a loop that runs the compiled model."""
    training = Training(COPIES, device=device, optimizer=lambda p, lr: AdamW(p, lr=lr / 10))
    net = training.model if backend is None else torch.compile(training.model, backend=backend)
    x = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH).to(device)
    found, alphas = [], []
    training.engine.start()
    while not training.engine.done:
        generator = torch.Generator().manual_seed(len(found))
        batch = torch.randn(5, 4, generator=generator).to(device)
        loss = (net(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.scheduler.step()
        found.append(loss.item())
        training.engine.step()
        if training.stage == "warmup":
            alphas.append(alpha_of(training.model.blocks[3], x))
    return found, alphas


@heavy
@pytest.mark.filterwarnings("ignore")  # what compilers say of devices and of precision
def test_it_learns_as_the_model_does(device):
    """Float32 over 11 updates: to 1e-3 of each loss on CUDA, where kernels are fused."""
    if device.type == "cuda" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("inductor needs a C compiler")
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "eager"
    compiled, alphas = losses(device, backend)
    expected, same = losses(device, None)
    assert len(compiled) == 11
    tolerance = 1e-3 if device.type == "cuda" else 1e-6
    assert compiled == pytest.approx(expected, rel=tolerance)
    assert alphas == pytest.approx(same, abs=1e-6)
    assert alphas == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=1e-5)
