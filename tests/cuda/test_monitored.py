"""A run that measures itself on the device, finds the block that harms, and prunes it."""

import pytest
import torch

from tests.cuda.placing import misplaced
from tests.session.test_monitoring import run
from tests.session.training import Net


def monitored(device):
    torch.manual_seed(3)
    return run(model=Net().to(device, torch.float64))


def test_it_finds_what_it_finds_on_the_host(device):
    model, optimizer, engine, records = monitored(device)
    host = monitored("cpu")[3]
    assert engine.ended == "final"
    (cut,) = records.of("prune")
    assert cut["modules"] == ["blocks.g1-1"]
    for mine, theirs in zip(records.of("attribution"), host.of("attribution"), strict=True):
        assert mine["worst"] == theirs["worst"]
        values = [[one["name"] for one in each["contributions"]] for each in (mine, theirs)]
        assert values[0] == values[1]
    seen, expected = ([r["value"] for r in each.of("metric")] for each in (records, host))
    assert seen == pytest.approx(expected, rel=1e-6)
    assert misplaced(model, [optimizer], device, counts="cpu") == []
