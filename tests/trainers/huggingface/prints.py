"""Fingerprints of a staged Trainer after every update: what must be the same after a resume."""

import hashlib
import json
import random

import numpy as np
import torch
from transformers import TrainerCallback

from tests.actions.models import devices_numbers


def of_tensors(named):
    made = hashlib.sha256()
    for name, value in named:
        tensor = torch.as_tensor(value)
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return made.hexdigest()[:16]


def without_seconds(state):
    """The engine's state without what the clock on the wall says."""
    if isinstance(state, dict):
        return {k: without_seconds(v) for k, v in state.items() if k not in ("seconds", "replay")}
    return [without_seconds(one) for one in state] if isinstance(state, list) else state


def of_optimizer(model, optimizer):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [
        {k: names_of(v, names) if k == "params" else repr(v) for k, v in group.items()}
        for group in optimizer.param_groups
    ]
    moments = [
        (f"{names[id(p)]}.{key}", value)
        for p, entry in optimizer.state.items()
        for key, value in entry.items()
    ]
    return groups, of_tensors(sorted(moments, key=lambda one: one[0]))


def names_of(parameters, names):
    return [names[id(p)] for p in parameters]


class Prints(TrainerCallback):
    """Per update: weights, buffers, moments, schedule, scaler, random numbers, engine."""

    def __init__(self):
        self.seen = {}
        self.trainer = None

    def on_step_end(self, args, state, control, **_):
        trainer = self.trainer
        model = trainer.model
        optimizer = trainer.optimizer.optimizer
        engine, scaler = trainer.engine, trainer.accelerator.scaler
        self.seen[state.global_step] = {
            "weights": of_tensors(model.named_parameters()),
            "buffers": of_tensors(model.named_buffers()),
            "optimizer": of_optimizer(model, optimizer),
            "scheduler": repr(sorted(trainer.lr_scheduler.state_dict().items())),
            "scaler": repr(scaler and scaler.state_dict()),
            "random": (
                of_tensors([("torch", torch.random.get_rng_state())]),
                hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),
                hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
                *devices_numbers(),
            ),
            "trained": [n for n, p in model.named_parameters() if p.requires_grad],
            "engine": json.dumps(without_seconds(engine.state_dict()), sort_keys=True),
            "stages": dict(engine.stages),
            "config": model.config.num_hidden_layers,
        }


def differences(whole, resumed):
    """From which update on which parts of a resumed run are not those of the whole one."""
    for step in sorted(resumed):
        if step not in whole:
            return [f"update {step} is none of the whole run's"]
        wrong = [key for key, value in resumed[step].items() if value != whole[step][key]]
        if wrong:
            return [f"update {step}: {', '.join(wrong)}"]
    return [] if max(resumed) == max(whole) else [f"ends at {max(resumed)}, not {max(whole)}"]
