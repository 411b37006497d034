"""Surroundings: what the training function itself holds on to, beside what the engine was given.

Whoever forgets to give the engine an averaged model forgets to tell a test of it as well. So the
variables of the training function are looked through, for the kinds of torch and Python that can
only be part of a run's state. Numbers are noted too: they may explain a difference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Set
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stagegraph.testing.fingerprints import fingerprint
from stagegraph.testing.parts import Kind, Part

__all__ = ["read_surroundings"]

_STATEFUL = (nn.Module, Optimizer, LRScheduler, GradScaler)


def read_surroundings(
    frame: FrameType | None, file: str, known: Set[int]
) -> Iterator[tuple[Part, str]]:
    """The parts among the variables of all functions of one file that are being called.

    Args:
        frame: The innermost call.
        file: The file; calls of functions of other files are passed over.
        known: Ids of objects that are compared anyway.
    """
    seen: set[int] = set(known)
    told: set[str] = set()
    for name, value in _variables(frame, file):
        if name in told:
            continue  # an outer function's variable of the same name
        told.add(name)
        if isinstance(value, bool | int):
            yield Part(Kind.HINT, f"the variable {name}"), repr(value)
        elif id(value) not in seen:
            seen.add(id(value))
            state = _state_of(value)
            if state:
                part = Part(Kind.FOUND, f"{name} ({type(value).__name__})")
                yield part, fingerprint(state)


def _variables(frame: FrameType | None, file: str) -> Iterator[tuple[str, Any]]:
    while frame is not None:
        if frame.f_code.co_filename == file:
            for name, value in list(frame.f_locals.items()):
                yield name, value
                if name == "self" and not isinstance(value, nn.Module):
                    yield from ((f"self.{key}", one) for key, one in _attributes(value).items())
        frame = frame.f_back


def _attributes(value: object) -> Mapping[str, Any]:
    return dict(vars(value)) if type(value).__dictoffset__ else {}


def _state_of(value: object) -> Any:
    """The state of an object that can only be part of a run's; ``None`` of others."""
    if isinstance(value, _STATEFUL):
        return value.state_dict()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    return None
