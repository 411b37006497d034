"""A run on a device with a growth and dropout, to be cut and taken up again, by anybody."""

from __future__ import annotations

import warnings

import torch

import stagegraph as sg
from stagegraph.actions.keeping.plain import pack
from stagegraph.testing.fingerprints import fingerprint
from tests.session.test_trials import TAUGHT, TRIAL, Loop

GROWING = """
stagegraph: 1
name: cut anywhere
metrics: {val_loss: {goal: minimize, every: 4 steps}}
budget: {steps: 60, params: 5k}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1, init: fresh}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 4 steps}
    next: rest
  rest: {kind: consolidate, duration: 4 steps, next: done}
  done: {kind: final}
"""
DOCUMENTS = {"growth": GROWING, "trial": TRIAL, "teacher": TAUGHT}


def whole(name, device):
    """The run without a cut."""
    return Loop(DOCUMENTS[name], device=device).go()


def begin(name, device, folder, cut):
    """Its first updates, in a run folder."""
    first = Loop(
        DOCUMENTS[name], device=device, run=folder, checkpoints=sg.Checkpoints(every="1 step")
    )
    first.engine.resume()
    first.go(cut).engine.finish()
    first.engine.close()


def go_on(name, device, folder):
    """The rest of it, by an engine that knows nothing but the folder."""
    again = Loop(DOCUMENTS[name], device=device, run=folder)
    torch.rand(7, device=device)  # what is drawn before does not count
    assert again.engine.resume()
    return again.go()


def shown(loop):
    """A fingerprint of everything."""
    tree, tensors = pack(list(loop.numbers()))
    return fingerprint([tree, tensors])


def main(name, device, folder):
    """What a fresh process has to say at the end."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.use_deterministic_algorithms(True, warn_only=True)
    print(shown(go_on(name, torch.device(device), folder)))
