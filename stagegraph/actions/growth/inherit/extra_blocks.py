"""Extra blocks: blocks that a smaller model does not have, made the identity where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.depth.identity import (
    Call,
    Zeroing,
    apply_zeroing,
    declared_zeroing,
    find_zeroing,
    why_not,
)
from stagegraph.actions.growth.depth.stacks import copy_block, own_parameters
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.randomness import preserved_randomness
from stagegraph.errors import UnsupportedError

__all__ = ["silence"]


def silence(
    model: nn.Module, blocks: Sequence[str], probe: Probe, zero: Sequence[str], *, place: str
) -> dict[str, tuple[str, ...]]:
    """Make blocks the identity, in place, and prove it on what they are called with.

    Args:
        model: A model without hooks that may be changed.
        blocks: Today's paths of the blocks.
        probe: The model's probe.
        zero: The modules inside a block whose output to zero; found by trial if there are none.
        place: Where it is written, for messages.

    Returns:
        Per block the names of its parameters that were zeroed.

    Raises:
        SelectorError: What is to be zeroed is not there.
        UnsupportedError: A block did not run, or does not become the identity.
    """
    calls = _calls(model, blocks, probe)
    found: dict[str, Zeroing] = {}
    done: dict[str, tuple[str, ...]] = {}
    for path in blocks:
        block, stack = model.get_submodule(path), path.rpartition(".")[0]
        if path not in calls:
            raise UnsupportedError(
                f"{place}: block {path!r}, which is not in the weights and is to be the identity, "
                "did not run as a module on the probe; take stacks: stack, interleave or leave"
            )
        if stack not in found:
            found[stack] = (
                declared_zeroing(block, zero, place=place)
                if zero
                else find_zeroing(model, block, calls[path], place=place)
            )
        zeroing = found[stack]
        _refuse_shared(model, path, block, zeroing, place)
        trial = copy_block(model, block, path=path)
        apply_zeroing(trial, zeroing)
        reason = why_not(trial, calls[path], zeroing)
        if reason is not None:
            zeroed = ", ".join(name for name, _ in zeroing)
            raise UnsupportedError(
                f"{place}: block {path!r} with {zeroed} zeroed is no identity: {reason}"
            )
        apply_zeroing(block, zeroing)
        done[path] = tuple(name for name, _ in zeroing)
    return done


def _refuse_shared(
    model: nn.Module, path: str, block: nn.Module, zeroing: Zeroing, place: str
) -> None:
    own = own_parameters(model, block)
    shared = [name for name, _ in zeroing if name not in own]
    if shared:
        raise UnsupportedError(
            f"{place}: {', '.join(shared)} of block {path!r} would be zeroed, but is shared with "
            "the rest of the model; name other weights in zero:"
        )


def _calls(model: nn.Module, blocks: Sequence[str], probe: Probe) -> Mapping[str, Call]:
    """What the blocks are called with, on the probe."""
    calls: dict[str, Call] = {}
    handles = []
    for path in blocks:

        def record(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = path
        ) -> None:
            if path not in calls:
                calls[path] = Call.of(args, kwargs)

        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(record, with_kwargs=True))
    model.eval()
    with preserved_randomness(), torch.no_grad():
        run_probe(model, probe)
    for handle in handles:
        handle.remove()
    return calls
