"""A budget of FLOPs: counted by torch on the probe, per sample, and again after a growth."""

import pytest
import torch

import stagegraph as sg
from tests.session.training import PROBE, WIDTH, Net, Records

BUDGET = """
stagegraph: 1
name: so many operations
budget: {{flops: {flops}}}
initial: train
stages:
  train: {{kind: train, duration: 3 steps, next: grow}}
  grow: {{kind: grow, actions: [{{type: deepen, stack: blocks, add: 2}}], next: rest}}
  rest: {{kind: consolidate, duration: 3 steps, next: frozen}}
  frozen:
    kind: train
    during: [{{type: freeze, of: "*blocks*"}}]
    duration: 900 steps
    next: done
  done: {{kind: final}}
waive: {{no-monitor: x x x}}
"""
# Per sample: the first layer has no gradient of its input to make, so twice and not thrice.
INP, HEAD, BLOCK = 2 * 4 * WIDTH, 2 * WIDTH, 2 * (WIDTH * 2 * WIDTH) * 2
GROWN = 2 * INP + 3 * HEAD + 4 * 3 * BLOCK
SMALL = 2 * INP + 3 * HEAD + 2 * 3 * BLOCK
FROZEN = 2 * INP + 3 * HEAD + 4 * 2 * BLOCK


def engine(flops=10**9, *, probe=PROBE, **more):
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    made = sg.Engine(
        sg.load(BUDGET.format(flops=flops)), model=model, optimizer=optimizer, probe=probe, **more
    )
    made.listen(records := Records())
    return made, records


def test_what_an_update_takes_is_counted_by_hand_too():
    made, records = engine()
    made.start()
    for _ in range(3):
        made.step(samples=5)
    assert made.progress.flops == 3 * 5 * SMALL
    for _ in range(3):
        made.step(samples=10)
    assert made.progress.flops == 15 * SMALL + 30 * GROWN
    made.step(samples=1)
    assert made.progress.flops == 15 * SMALL + 30 * GROWN + FROZEN, "no gradient of frozen weights"
    assert [r["flops"] for r in records.of("facts")] == [
        [5 * SMALL, 5],
        [5 * GROWN, 5],
        [5 * FROZEN, 5],
    ]


def test_a_block_behind_a_closed_gate_is_counted_as_what_it_takes_when_it_opens():
    ramp = "{type: alpha_ramp, of: grown, over: 3 steps}"
    text = BUDGET.format(flops=10**9).replace(
        "rest: {kind: consolidate, duration: 3 steps, next",
        f"rest: {{kind: warmup, during: [{ramp}], next",
    )
    torch.manual_seed(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    made = sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=PROBE)
    made.start()
    for _ in range(6):
        made.step(samples=5)
    assert made.progress.flops == 15 * SMALL + 15 * GROWN


def test_the_run_ends_when_it_is_spent_and_says_why():
    made, records = engine(15 * SMALL + 1)
    made.start()
    for _ in range(6):
        made.step(samples=5)
    assert made.ended == "budget" and made.progress.step == 4
    (end,) = records.of("end")
    assert end["because"] == (
        f"budget of flops: {15 * SMALL + 5 * GROWN:,} of {15 * SMALL + 1:,} spent"
    )


def test_what_the_host_counts_is_taken_instead():
    made, _ = engine()
    made.start()
    made.step(flops=77)
    assert made.progress.flops == 77


def test_counting_leaves_no_trace():
    made, _ = engine()
    model = made._model
    before = torch.get_rng_state()
    made.start()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_without_the_number_of_samples_the_update_is_refused_and_does_not_count():
    made, _ = engine()
    made.start()
    with pytest.raises(sg.MissingFact, match=r"counted per sample; give step\(samples=\)"):
        made.step()
    made.step(samples=5)
    assert made.progress.step == 1


def test_a_probe_whose_samples_nobody_sees_leaves_it_to_the_host():
    made, _ = engine(probe=lambda model: model(PROBE))
    made.start()
    with pytest.raises(sg.MissingFact, match=r"the graph reads flops; give step\(flops=\)"):
        made.step(samples=5)


def test_it_resumes_with_the_same_count(tmp_path):
    made, _ = engine(run=tmp_path / "r", checkpoints=sg.Checkpoints(every="1 step"))
    made.resume()
    for _ in range(4):
        made.step(samples=5)
    made.finish()
    made.close()
    again, _ = engine(run=tmp_path / "r")
    assert again.resume()
    again.step(samples=5)
    assert again.progress.flops == 15 * SMALL + 10 * GROWN
