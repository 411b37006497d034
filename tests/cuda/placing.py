"""Rows of the growths' contract on a device, and where everything of them lies."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.contracts.growths import GROWTHS

CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
)


@contextmanager
def precision(*, ten_bits):
    """Whether products of float32 on CUDA may keep ten bits of a factor (TF32)."""
    knobs = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has a newer way, which the older does not know
        before = [knob.allow_tf32 for knob in knobs]
        for knob in knobs:
            knob.allow_tf32 = ten_bits
    try:
        yield
    finally:
        for knob, allowed in zip(knobs, before, strict=True):
            knob.allow_tf32 = allowed


heavy = pytest.mark.parametrize(
    "device",
    [
        pytest.param(torch.device("cpu"), id="cpu", marks=pytest.mark.slow),
        pytest.param(torch.device("cuda"), id="cuda", marks=CUDA),
    ],
)
"""For a test that takes long on the CPU, where others like it run anyway."""


def cases(names, *, on_cpu, slow=False):
    """Device and name: a few on the CPU, to know that the tests work, and all of them on CUDA."""
    host, other = torch.device("cpu"), torch.device("cuda")
    marks = pytest.mark.slow if slow else ()
    return [pytest.param(host, name, id=f"cpu-{name}", marks=marks) for name in on_cpu] + [
        pytest.param(other, name, id=f"cuda-{name}", marks=CUDA) for name in names
    ]


def placed(name, device):
    """A row of the contract whose model, batch and parts are on a device."""
    row = GROWTHS[name]

    def parts(dtype):
        given = row.parts(dtype).items()
        return {k: v.to(device) if isinstance(v, nn.Module) else v for k, v in given}

    return replace(
        row, make=lambda: row.make().to(device), x=lambda: row.x().to(device), parts=parts
    )


def misplaced(model, optimizers, device, *, counts):
    """What of model and optimizers lies elsewhere than it should.

    Args:
        model: The model.
        optimizers: Its optimizers.
        device: Where everything should lie.
        counts: Where counts of steps should.
    """
    wanted, counting = torch.device(device).type, torch.device(counts).type
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = [name for name, tensor in tensors.items() if tensor.device.type != wanted]
    names = {id(p): name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, entry in optimizer.state.items():
            for key, value in entry.items():
                home = counting if key == "step" else wanted
                if isinstance(value, torch.Tensor) and value.device.type != home:
                    found.append(f"{key} of {names[id(parameter)]}")
    return found
