"""One graph file, unchanged, in a plain loop, Hugging Face's Trainer, Lightning, Accelerate."""

from pathlib import Path

import pytest
import torch

from tests.trainers.hosts import HOSTS
from tests.trainers.lightning.quiet import OF_THE_HOST

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in OF_THE_HOST]

GRAPH = Path(__file__).parents[1] / "data" / "four_hosts.yaml"
KEEPING = {"checkpoint", "data"}
"""Records of who keeps checkpoints and draws the data: the engine in a loop, else the trainer."""
OF_THE_MACHINE = {"seconds", "started", "memory"}

CURVE = [2.5] * 40
CURVE[3], CURVE[6] = 3.0, 3.25  # no better for three steps: grows
CURVE[12] = 5.0  # over 4: goes back to step 6
CURVE[15], CURVE[18] = 2.5, 2.75  # steps 9 and 12: grows again
CURVE[27] = 0.5  # step 21: under 1, done

TOLD = [
    (0, None, "main:small", None),
    (6, "main:small", "main:warmup", "plateau(val_loss, patience=3 steps)"),
    (9, "main:warmup", "main:settle", "completed()"),
    (12, "main:settle", "main:small", "val_loss > 4 or elapsed(4 steps)"),
    (12, "main:small", "main:warmup", "plateau(val_loss, patience=3 steps)"),
    (15, "main:warmup", "main:settle", "completed()"),
    (20, "main:settle", "main:large", "completed()"),
    (21, "main:large", "main:done", "val_loss < 1"),
]
"""A plateau after three updates, a spike at 12, and an end once the curve is low."""

TIMED = [
    (0, None, "main:small", None),
    (7, "main:small", "main:warmup", "completed()"),
    (10, "main:warmup", "main:settle", "completed()"),
    (14, "main:settle", "main:small", "val_loss > 4 or elapsed(4 steps)"),
    (14, "main:small", "main:warmup", "completed()"),
    (17, "main:warmup", "main:settle", "completed()"),
    (22, "main:settle", "main:large", "completed()"),
    (25, "main:large", "main:done", "completed()"),
]
"""No metric opens a way here: real losses fall, and are neither over 4 nor under 1."""


def run_all(folder, micro, curve=None):
    text = GRAPH.read_text()
    return {
        name: host(text, folder / name, micro=micro, curve=curve).train()
        for name, host in HOSTS.items()
    }


def of(run, kind):
    return [record for record in run.records if record["type"] == kind]


def moves(run):
    kept = ("step", "source", "target", "guard")
    return [tuple(record[key] for key in kept) for record in of(run, "move")]


def comparable(data):
    """Without what a clock or the memory says."""
    if isinstance(data, dict):
        return {k: comparable(v) for k, v in data.items() if k not in OF_THE_MACHINE}
    return [comparable(one) for one in data] if isinstance(data, list) else data


def assert_same(runs):
    """Every record (moves, growths, metrics, verdicts, rates, alphas), and every weight's bits."""
    plain = runs["Plain"]
    expected = [comparable(r) for r in plain.records if r["type"] not in KEEPING]
    for name, run in runs.items():
        found = [comparable(r) for r in run.records if r["type"] not in KEEPING]
        for number, (one, other) in enumerate(zip(expected, found, strict=False)):
            assert other == one, f"{name}: record {number}"
        assert len(found) == len(expected), name
        assert run.updates == plain.updates, name
        assert (run.ended, run.trained) == (plain.ended, plain.trained), name
        assert run.weights.keys() == plain.weights.keys(), name
        for key, value in run.weights.items():
            assert torch.equal(value, plain.weights[key]), f"{name}: {key}"


@pytest.mark.parametrize("micro", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_metrics_have_the_same_decisions(tmp_path, micro):
    runs = run_all(tmp_path, micro, CURVE)
    assert_same(runs)
    for run in runs.values():
        assert moves(run) == TOLD
        assert run.updates == 27  # six of them taken back
        told = [(r["step"], r["value"]) for r in of(run, "metric") if r["name"] == "val_loss"]
        steps = [3, 6, 9, 12, 9, 12, 15, 18, 21]
        assert told == list(zip(steps, CURVE[3:28:3], strict=True))
        assert [r["cohort"] for r in of(run, "growth")] == ["deep", "deep"]
        assert [(r["step"], r["to"]) for r in of(run, "roll_back")] == [(12, 6)]


@pytest.mark.parametrize("micro", [1, 2])
def test_by_the_time_alone_the_same_stages_come_at_the_same_steps(tmp_path, micro):
    runs = run_all(tmp_path, micro)
    assert_same(runs)
    for run in runs.values():
        assert moves(run) == TIMED
        assert run.updates == 32  # seven of them taken back
        losses = [r["value"] for r in of(run, "metric") if r["name"] == "loss"]
        assert len(losses) == 32  # of an update each: the mean over its micro-batches
        held_out = [r["value"] for r in of(run, "metric") if r["name"] == "val_loss"]
        assert len(held_out) == 10 and 1 < min(held_out) < held_out[0] < 4
