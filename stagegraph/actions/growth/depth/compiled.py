"""Compiled: a copy of a module that was compiled in place is compiled in the same way."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

__all__ = ["compile_alike"]

_KEY = "_compiled_call_impl"


def compile_alike(module: nn.Module, new: nn.Module) -> None:
    """Compile a copy where the module was, by ``module.compile(…)``, with the same options.

    torch keeps the options in the context that made the compiled call; where a later torch keeps
    them elsewhere, the copy is compiled with the usual ones.

    Args:
        module: A module; its sub-modules are looked at too.
        new: Its copy.
    """
    for old, copied in zip(module.modules(), new.modules(), strict=True):
        compiled = vars(old).get(_KEY)
        if compiled is not None and copied is not old:
            vars(copied)[_KEY] = _context(compiled)(_call(copied))


def _call(module: nn.Module) -> Any:
    return getattr(module, "_call_impl")  # noqa: B009 - what `Module.compile` compiles


def _context(compiled: Any) -> Callable[[Any], Any]:
    if isinstance(compiled, FunctionType):
        names, cells = compiled.__code__.co_freevars, compiled.__closure__ or ()
        for name, cell in zip(names, cells, strict=True):
            if name == "self" and type(cell.cell_contents).__name__.endswith("Context"):
                context: Callable[[Any], Any] = cell.cell_contents
                return context
    usual: Callable[[Any], Any] = torch.compile
    return usual
