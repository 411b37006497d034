"""What torch compiles: left out where a model is looked at, and forgotten where it has changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["as_written", "forget_compiled"]


@contextmanager
def as_written() -> Iterator[None]:
    """Run models as they are written inside: compiled code passes over hooks that came later."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def forget_compiled() -> None:
    """After eight shapes, or sets of what is trained, code runs uncompiled, silently; count anew.

    Nor does torch see that hooks have come or gone: code that an earlier run in this process has
    compiled for the same modules without gates would be taken for a model that has some. Nor does
    every torch see what is trained again: :attr:`~.Standing.compiled_in`.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    compiled = getattr(dynamo.convert_frame, "input_codes", None)
    if compiled is None or compiled.seen:  # where there is CUDA, a reset loads all of inductor
        dynamo.reset()
