"""What models and optimizers of one's own hold comes back from a checkpoint, or it is refused."""

import pytest
import torch
from torch import nn

import stagegraph as sg

GRAPH = sg.load("""
stagegraph: 1
name: keeps everything
initial: train
stages:
  train: {kind: train, duration: 12 steps, next: done}
  done: {kind: final}
waive: {no-monitor: short and watched}
""")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.inner(x).tanh()


class WithExtraState(Plain):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls / 100)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


class WithCache(Plain):
    """It registers one buffer as it runs, and enlarges another."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(0), persistent=False)

    def forward(self, x):
        if "cache" not in self._buffers:
            self.register_buffer("cache", torch.full((4, 1, 1), 0.5), persistent=False)
        if len(self.mask) < len(x):
            self.mask = torch.ones(len(x))
        self.cache *= 0.99
        return super().forward(x) * self.cache


class Counting(torch.optim.SGD):
    """It has a state that no parameter has."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01, momentum=0.9)
        self.updates = 0

    def step(self, closure=None):
        self.updates += 1
        for group in self.param_groups:
            group["lr"] = 0.01 / self.updates
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict):
        state_dict = dict(state_dict)
        self.updates = state_dict.pop("updates")
        super().load_state_dict(state_dict)


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def fused(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)


def channels_last():
    return Plain().to(memory_format=torch.channels_last)


def train(folder, make_model, make_optimizer, *, until):
    torch.manual_seed(3)
    model = make_model()
    optimizer = make_optimizer(model)
    options = sg.Checkpoints(every="1 step", background=False)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    with sg.Engine(
        GRAPH, model=model, optimizer=optimizer, run=folder, checkpoints=options
    ) as engine:
        engine.resume()
        while engine.progress.step < until:
            (model(x.to(next(model.parameters()).dtype)) - 1).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("make_model", "make_optimizer"),
    [
        pytest.param(channels_last, fused, id="a fused optimizer and channels last"),
        pytest.param(WithExtraState, adam, id="an extra state"),
        pytest.param(WithCache, adam, id="buffers made and enlarged as the model runs"),
        pytest.param(Plain, lambda model: Counting(model.parameters()), id="an own optimizer"),
    ],
)
def test_what_is_ones_own_comes_back(tmp_path, make_model, make_optimizer):
    whole = train(tmp_path / "whole", make_model, make_optimizer, until=12)
    train(tmp_path / "cut", make_model, make_optimizer, until=7)
    again = train(tmp_path / "cut", make_model, make_optimizer, until=12)
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_another_dtype_is_refused_not_rounded(tmp_path):
    train(tmp_path, Plain, adam, until=3)
    with pytest.raises(
        sg.SnapshotError,
        match=r"'inner.weight' was of torch.float32 in the snapshot and is of torch.bfloat16 now",
    ):
        train(tmp_path, lambda: Plain().to(torch.bfloat16), adam, until=5)


def test_an_extra_state_that_has_no_module_is_refused(tmp_path):
    train(tmp_path, WithExtraState, adam, until=3)
    with pytest.raises(sg.SnapshotError, match="differ in which modules have an extra state"):
        train(tmp_path, Plain, adam, until=5)
