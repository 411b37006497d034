"""Rehearsal: one real update of a grown model, tried and taken back.

Memory runs out in the first step after a growth, not in the growth. So a step is made before the
growth holds: forward in train mode, backward, and each optimizer's own ``step`` under the factors
and freezes that will be in force. Then all is as it was, bit for bit: what tensors held is copied
to the host's memory first, so that no more of an accelerator's is taken than training takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from stagegraph.actions.contents import Contents, state_tensors
from stagegraph.actions.memory import Height
from stagegraph.actions.probes import Probe, probe_loss
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.sharding.units import reducing
from stagegraph.actions.standing import Standing
from stagegraph.actions.undo import Moment, UndoLog
from stagegraph.errors import ActionError

__all__ = ["rehearse"]

_WHEN = ("pre", "post")


def rehearse(standing: Standing, log: UndoLog, *, place: str, seed: int) -> dict[str, Any]:
    """Try an update on the probe, and take it back.

    Args:
        standing: The grown model, with what will be in force.
        log: The transaction's undo log, for an interrupt while the update is taken back.
        place: The growth that asks for it.
        seed: What the random numbers start from.

    Returns:
        What it took, as JSON data.

    Raises:
        ActionError: The update fails, such as for want of memory; it is taken back.
    """
    began = time.perf_counter()
    assert standing.probe is not None
    kept = Contents(_tensors(standing), host=True)
    take_back = _way_back(standing, kept)
    log.push(take_back)
    height = Height(standing.model.parameters())
    try:
        loss, updated = _update(standing, standing.probe, seed)
        peak = height.as_json()
    except Exception as error:
        raise ActionError(
            place,
            f"the update that was tried on the probe failed: {type(error).__name__}: {error}",
        ) from error
    finally:
        take_back()
    if not math.isfinite(loss):
        raise ActionError(place, f"the loss of the update that was tried on the probe is {loss}")
    return {
        "loss": loss,
        "updated": updated,
        "copied_bytes": kept.num_bytes,
        **peak,
        "seconds": time.perf_counter() - began,
    }


def _tensors(standing: Standing) -> list[Tensor]:
    """All that an update may write into."""
    found = state_tensors(standing.optimizers)
    for model in standing.models:
        found += [*model.parameters(), *model.buffers()]
    for one in standing.optimizers:
        found += [parameter for group in one.param_groups for parameter in group["params"]]
    return found


def _way_back(standing: Standing, kept: Contents) -> Callable[[], None]:
    """Everything as it is now, as often as it is asked for."""
    moment = Moment(standing.models, standing.optimizers)
    companions = standing.companions.remember()

    def way_back() -> None:
        standing.rates.heal()  # before the groups are put back, or it would not know its own
        moment.restore()
        kept.restore()
        companions()

    return way_back


def _update(standing: Standing, probe: Probe, seed: int) -> tuple[float, int]:
    """Make one; the loss, and how many parameters had a gradient."""
    model = standing.model
    closed = [block for block, alpha in standing.gates.alphas().items() if alpha == 0.0]
    if not model.training:
        model.train()
    seed_all(seed)
    # A gate at 0 keeps nothing for the backward pass. Its ramp will, so that is what is tried.
    with standing.gates.held_at(0.5, closed), torch.enable_grad(), reducing(model):
        loss = probe_loss(model, probe)
        loss.backward()  # type: ignore[no-untyped-call]
    with _without_hooks(standing.optimizers):
        for one in standing.optimizers:
            one.step()
    updated = sum(parameter.grad is not None for parameter in model.parameters())
    return float(loss.detach()), updated


@contextmanager
def _without_hooks(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Steps that run no hook but ours: others would count, log or average a step that is none."""
    hooks = [vars(one)[f"_optimizer_step_{when}_hooks"] for one in optimizers for when in _WHEN]
    hooks += [vars(torch_optimizer)[f"_global_optimizer_{when}_hooks"] for when in _WHEN]
    kept = [dict(several) for several in hooks]
    try:
        for several in hooks:
            for key in [key for key, hook in several.items() if not _is_ours(hook)]:
                del several[key]
        yield
    finally:
        for several, before in zip(hooks, kept, strict=True):
            # Ours may have come or gone meanwhile; all are in the order in which they were made.
            ours = {key: hook for key, hook in several.items() if _is_ours(hook)}
            theirs = {key: hook for key, hook in before.items() if not _is_ours(hook)}
            several.clear()
            several.update(sorted((ours | theirs).items()))


def _is_ours(hook: object) -> bool:
    hook = unwrap(hook) if callable(hook) else hook
    owner = hook.__self__ if isinstance(hook, MethodType) else hook
    return type(owner).__module__.startswith("stagegraph.")
