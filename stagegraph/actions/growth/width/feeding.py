"""Feeding: which norm a module gets its input from, seen on the probe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.growth.width.norms import norm_of
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.stream import main_input
from stagegraph.actions.undo import untouched

__all__ = ["feeding_norm"]


def feeding_norm(model: nn.Module, probe: Probe | None, reader: str) -> str | None:
    """The path of the norm whose output a module reads, or a part of it; ``None`` if none is seen.

    Args:
        model: The model.
        probe: Its probe.
        reader: The path of the module that reads.
    """
    if probe is None:
        return None
    written: list[tuple[str, Tensor]] = []
    found: list[str] = []

    def look(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = main_input(args, kwargs)
        if x is None:
            return
        storage = x.untyped_storage().data_ptr()
        found.extend(p for p, out in written if out.untyped_storage().data_ptr() == storage)

    with untouched(model), torch.no_grad():
        for path, module in model.named_modules():
            if norm_of(module) is not None:

                def keep(_module: nn.Module, _args: Any, out: Any, path: str = path) -> None:
                    if isinstance(out, Tensor):
                        written.append((path, out))  # held, so that its memory is not used again

                module.register_forward_hook(keep)
        model.get_submodule(reader).register_forward_pre_hook(look, with_kwargs=True)
        model.eval()
        run_probe(model, probe)
    return found[-1] if found else None
