"""A checkpoint of one device on another, as far as a machine without any can tell."""

import io
import logging

import pytest
import torch
from torch.optim import SGD, AdamW

from stagegraph.actions import TorchActor
from stagegraph.actions.keeping.plain import pack, unpack
from stagegraph.actions.randomness import RandomState, seed_all
from stagegraph.actions.snapshots import _counting_on_device, _moved
from tests.actions.models import Model, batch, train

STEP = torch.tensor(3.0)


def elsewhere(*shape):
    """A parameter on a device other than the host."""
    return torch.nn.Parameter(torch.empty(shape, device="meta"))


@pytest.mark.parametrize(("key", "away"), [({"fused": True}, True), ({"foreach": True}, False)])
def test_steps_are_counted_where_the_optimizer_wants_them(key, away):
    counting = _counting_on_device(AdamW(Model().parameters(), **key))
    assert bool(counting) is away
    moved = _moved("step", STEP, elsewhere(2), apart=not counting)
    assert moved.device.type == ("meta" if away else "cpu")
    assert moved is not STEP


def test_moments_of_a_single_number_go_where_it_is():
    parameter = elsewhere()
    assert _moved("exp_avg", STEP, parameter, apart=True).device.type == "meta"
    assert _moved("step", STEP, parameter, apart=True).device.type == "cpu"


def test_nothing_stays_on_a_device_that_the_parameter_is_not_on():
    counted = torch.zeros((), device="meta")
    with pytest.raises(NotImplementedError, match="meta tensor"):  # it is moved, not kept
        _moved("step", counted, torch.nn.Parameter(torch.ones(2)), apart=True)


def test_a_number_of_an_accelerator_stays_on_the_host_where_there_is_none(monkeypatch):
    """Torch built for CUDA names it even where no device is."""
    tree, tensors = pack({"step": STEP})
    tree["step"]["device"] = "cuda"

    def current(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    assert unpack(tree, tensors)["step"] is tensors["0"]


def with_devices(count):
    state = RandomState.capture()
    return RandomState(state.python, state.numpy, state.cpu, (state.cpu.clone(),) * count)


@pytest.mark.parametrize(("kept", "here", "put"), [(2, 1, 1), (2, 0, None), (1, 2, 1)])
def test_random_numbers_of_devices_that_are_not_here_go_nowhere(monkeypatch, kept, here, put):
    given = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: given.append(len(states)))
    with_devices(kept).restore()
    assert given == ([] if put is None else [put])


def test_a_resume_says_that_the_devices_draw_something_else(caplog, monkeypatch):
    def actor():
        torch.manual_seed(0)
        model = Model()
        optimizer = SGD(model.parameters(), lr=0.01)
        train(model, optimizer, 1)
        return TorchActor(model, optimizer, probe=batch())

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first, again = actor(), actor()
    files = {name: io.BytesIO() for name in first.take_checkpoint().files()}
    for name, write in first.take_checkpoint().files().items():
        write(files[name])
    files = {name: file.getvalue() for name, file in files.items()}
    with caplog.at_level(logging.WARNING, "stagegraph"):
        again.load_checkpoint(files)
    assert not caplog.records
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(RandomState, "restore", lambda _self: None)
    one = files["contents.json"].replace(b'"cuda":[]', b'"cuda":[7]', 1)
    assert one != files["contents.json"]
    with caplog.at_level(logging.WARNING, "stagegraph"):
        again.load_checkpoint({**files, "contents.json": one})
    assert "random numbers of 1 CUDA devices, and here are 0" in caplog.text


@pytest.mark.parametrize(("used", "global_seeds"), [(False, 0), (True, 1)])
def test_cuda_is_seeded_only_where_it_is_in_use(monkeypatch, used, global_seeds):
    """A seed given before CUDA begins could not be taken back by anybody."""
    seeds = []
    real = torch.manual_seed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or real(seed))
    seed_all(5)
    assert len(seeds) == global_seeds
    first = torch.rand(3)
    torch.default_generator.manual_seed(5)
    assert torch.equal(first, torch.rand(3))
