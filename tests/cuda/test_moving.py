"""Where the model may move: before the engine, and between a checkpoint and a resume."""

import logging

import pytest
from torch.optim import AdamW

import stagegraph as sg
from tests.actions.models import devices_numbers
from tests.cuda.placing import CUDA, misplaced
from tests.cuda.test_optimizer_state import WARMED
from tests.session.training import PROBE, Net, Training

KINDS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def training(device, kind="foreach", **more):
    return Training(
        WARMED,
        device=device,
        optimizer=lambda p, lr: AdamW(p, lr=lr / 10, **KINDS[kind]),
        **more,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ("cpu", "cpu"),
        pytest.param("cpu", "cuda", marks=CUDA),
        pytest.param("cuda", "cpu", marks=CUDA),
        pytest.param("cuda", "cuda", marks=CUDA),
    ],
)
def test_a_checkpoint_is_taken_up_on_any_device(tmp_path, caplog, saved, resumed, kind):
    """Weights and moments are the same numbers; what a device draws from then on is its own."""
    first = training(saved, kind, run=tmp_path / "run", checkpoints=sg.Checkpoints(every="1 step"))
    first.engine.resume()
    first.go(6).engine.finish()
    first.engine.close()
    kept = bool(devices_numbers())  # of a device that the process uses, if not for the model
    again = training(resumed, kind, run=tmp_path / "run")
    with caplog.at_level(logging.WARNING, "stagegraph"):
        assert again.engine.resume()
    again.updates = again.engine.progress.step
    assert again.weights() == first.weights()
    assert len(again.model.blocks) == 4 and again.stage == "warmup"
    counts = resumed if kind == "fused" else "cpu"
    assert misplaced(again.model, [again.optimizer], resumed, counts=counts) == []
    said = "random numbers of 0 CUDA devices" in caplog.text
    assert said == (resumed == "cuda" and not kept)
    again.go()
    assert again.engine.ended == "final"
    assert misplaced(again.model, [again.optimizer], resumed, counts=counts) == []


def five_updates(engine, model, optimizer, x):
    for _ in range(5):
        model(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step()


def test_moved_before_the_engine_it_is_grown_where_it_is(device):
    model = Net()
    model.to(device)
    optimizer = AdamW(model.parameters(), lr=0.01)
    engine = sg.Engine(sg.load(WARMED), model=model, optimizer=optimizer, probe=PROBE.to(device))
    engine.start()
    five_updates(engine, model, optimizer, PROBE.to(device))
    assert len(model.blocks) == 4
    assert misplaced(model, [optimizer], device, counts="cpu") == []


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_a_probe_left_behind_is_named(device):
    """Moved after the engine was made: the growth is refused, and says where the probe is."""
    model = Net()
    optimizer = AdamW(model.parameters(), lr=0.01)
    engine = sg.Engine(sg.load(WARMED), model=model, optimizer=optimizer, probe=PROBE)
    engine.start()
    model.to(device)
    with pytest.raises(sg.StageGraphError, match="the probe is on cpu and the model on cuda"):
        five_updates(engine, model, optimizer, PROBE.to(device))
    assert len(model.blocks) == 2
    assert misplaced(model, [optimizer], device, counts="cpu") == []
