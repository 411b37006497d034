"""A teacher waits in the host's memory, and teaches on the model's device."""

import pytest
import torch

from tests.actions.models import Block, Model
from tests.session.test_distilling import GROWING, Taught, alone


def taught(document, device, **more):
    return Taught(document, device=device, **more)


def where(run):
    return {tensor.device.type for one in run.teachers.values() for tensor in _tensors(one.module)}


def _tensors(module):
    return [*module.parameters(), *module.buffers()]


def test_it_is_kept_on_the_host_until_it_is_asked(device):
    run = taught(alone(), device)
    run.go(1)
    assert where(run) == {"cpu"}
    run.go(until="taught")
    assert where(run) == {"cpu"}
    run.go(1)
    assert where(run) == {device.type}
    modes = {p.device.type for p in run.model.parameters()}
    assert modes == {device.type}


def test_a_copy_of_the_model_computes_what_the_model_does(device):
    run = taught(alone(), device)
    run.go(1)
    (record,) = [
        done
        for move in run.records.of("move")
        for done in (move.get("actions") or {}).values()
        if done.get("kind") == "teacher"
    ]
    assert record["difference"] < 1e-5


def test_what_is_learnt_does_not_depend_on_the_device(device):
    """Without dropout and in float64; the teachers, the growth and the features are the same."""

    def losses(where):
        torch.manual_seed(3)
        model = Model(block=lambda: Block(dropout=0.0))
        return taught(GROWING, where, model=model, dtype=torch.float64).go().losses

    here, host = losses(device), losses("cpu")
    assert len(here) == len(host) > 10
    for mine, theirs in zip(here, host, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)
