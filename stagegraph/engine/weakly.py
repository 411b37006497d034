"""Weakly: a method that can be called without keeping its object alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stagegraph.errors import StageGraphError

__all__ = ["weakly"]

P = ParamSpec("P")
R = TypeVar("R")


def weakly(method: Callable[P, R]) -> Callable[P, R]:
    """The method, held so that its object goes, with all it holds, when nobody else holds it.

    An engine that hands its own methods to its parts would else wait, model and all, for the
    garbage collector.
    """
    held = weakref.WeakMethod(method)

    def call(*arguments: P.args, **named: P.kwargs) -> R:
        alive = held()
        if alive is None:
            raise StageGraphError("the engine that this belongs to is gone")
        return alive(*arguments, **named)

    return call
