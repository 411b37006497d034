"""Growing: plan, prepare, commit and certify one growth of a standing model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.certificate import Measured, exactness, measure, read
from stagegraph.actions.growth.deepen import Prepared, commit, plan, prepare, rebuild
from stagegraph.actions.growth.stacks import own_parameters
from stagegraph.actions.lineage import Change, Lineage
from stagegraph.actions.optimizers import check_state_shapes, state_shapes
from stagegraph.actions.parameters import num_parameters
from stagegraph.actions.standing import Standing
from stagegraph.engine.ports import Deed
from stagegraph.errors import ActionError, UnsupportedError
from stagegraph.schema.actions import Deepen

__all__ = ["grow"]


def grow(standing: Standing, deed: Deed, *, step: int, alpha: float) -> dict[str, Any]:
    """Carry out one growth; the caller undoes everything if this raises.

    Args:
        standing: The model and what is held of it.
        deed: The growth.
        step: The boundary.
        alpha: Alpha of the new blocks from now on.

    Returns:
        The certificate, as JSON data.

    Raises:
        ActionError: The growth did not do what it promises.
        SelectorError: It names something that is not there.
        UnsupportedError: This model, or this version, cannot grow so.
    """
    began = time.perf_counter()
    action, model, probe = deed.action, standing.model, standing.probe
    if not isinstance(action, Deepen):
        raise UnsupportedError(f"this version cannot {action.type}; it can deepen")
    if probe is None:
        raise UnsupportedError("a growth is measured on a batch; give probe=...")
    cohort = deed.cohort or deed.place
    trains = standing.freezing.original
    planned = plan(model, action, place=deed.place)
    prepared = prepare(model, planned, probe=probe, seed=deed.seed, trains=trains)
    before = read(model, probe, seed=deed.seed)
    params, shapes = num_parameters(model), state_shapes(standing.optimizers)
    earlier = standing.lineage.cohort(cohort)
    change, untrained = commit(
        model,
        prepared,
        optimizers=standing.optimizers,
        lineage=standing.lineage,
        cohort=cohort,
        step=step,
    )
    _refuse_untrained(prepared, untrained, deed.place)
    check_state_shapes(standing.optimizers, shapes)
    standing.lineage = Lineage([*standing.lineage.changes, change])
    _grow_average(standing, change, prepared.blocks)
    blocks = {name: standing.block(name) for name in standing.blocks_of([change])}
    standing.gates.set(dict.fromkeys(blocks, alpha), standing.block)
    measured = measure(
        model,
        probe,
        before=before,
        blocks=blocks,
        new=list(prepared.templates),
        gates=standing.gates,
        seed=deed.seed,
    )
    _refuse(deed.place, action, measured, prepared, gated=alpha != 1.0)
    return {
        "kind": action.type,
        **_what(prepared, change),
        **_effect(measured, alpha),
        "params": {"before": params, "after": num_parameters(model), "added": planned.cost},
        "optimizer_state": "fresh",
        **({"took_over": [old.step for old in earlier]} if _old(earlier, step) else {}),
        "seconds": time.perf_counter() - began,
    }


def _old(earlier: tuple[Change, ...], step: int) -> bool:
    return any(change.step != step for change in earlier)


def _what(prepared: Prepared, change: Change) -> dict[str, Any]:
    planned = prepared.plan
    return {
        "how": planned.action.how,
        "stack": planned.path,
        "cohort": change.cohort,
        "blocks": {"before": planned.before, "after": planned.after},
        "inserted": [
            {"at": block.at, "copy_of": block.copy_of, "label": block.label}
            for block in change.blocks
        ],
        "zeroed": [name for name, _ in prepared.zeroing],
        "counts": {count.path: [count.before, count.after] for count in change.counts},
        "left_alone": list(planned.left_alone),
        "renumbered": list(change.numbered),
        "shared": list(prepared.shared),
        "hooks_left_out": list(prepared.left_out),
    }


def _effect(measured: Measured, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "change": {"eval": measured.eval, "train": measured.train, "alpha_1": measured.open},
        "exactness": exactness(max(measured.eval, measured.train), measured),
        "exactness_at_alpha_1": exactness(measured.open, measured),
        "executed": True,
        "gradient": {"reached": measured.num_with_gradient, "of": measured.trained},
    }


def _refuse(
    place: str, action: Deepen, measured: Measured, prepared: Prepared, *, gated: bool
) -> None:
    if measured.idle:
        raise ActionError(
            place,
            f"the new blocks {', '.join(measured.idle)} did not run on the probe: the model's own "
            "loop passes them by; name the attribute that says how many blocks there are in count:",
        )
    changes = {"eval": measured.eval, "train": measured.train}
    broken = [mode for mode, change in changes.items() if not math.isfinite(change)]
    if broken:
        raise ActionError(
            place,
            f"in {' and '.join(broken)} mode the grown model's output on the probe is not "
            "finite, or has another shape than before",
        )
    if measured.trained == 0:
        raise ActionError(
            place,
            f"the blocks of {action.stack!r} are frozen by their owner, and so would the new ones "
            "be: they would never be trained; let what is copied require a gradient",
        )
    if measured.without_gradient:
        raise ActionError(
            place,
            f"the new blocks {', '.join(measured.without_gradient)} get no gradient on the probe, "
            "so that they would never learn",
        )
    if gated and measured.closed != 0.0:
        raise ActionError(
            place,
            f"with alpha 0 the new blocks still change the output on the probe by "
            f"{measured.closed:.3g}, so that they cannot be blended in: a block changes its input "
            "in place, or the model takes more from it than its first output",
        )
    if action.how != "identity":
        return
    for mode, change in (*changes.items(), ("eval, with alpha 1,", measured.open)):
        if not exactness(change, measured).startswith("exact"):
            zeroed = ", ".join(name for name, _ in prepared.zeroing)
            raise ActionError(
                place,
                f"the growth was to keep the function, and in {mode} mode the output on the probe "
                f"changed by {change:.3g} (zeroed: {zeroed}); declare what to zero with zero: "
                "[...], or use how: stack with an alpha ramp from 0",
            )


def _refuse_untrained(prepared: Prepared, untrained: list[nn.Parameter], place: str) -> None:
    lost = [parameter for parameter in untrained if parameter.requires_grad]
    if lost:
        raise ActionError(
            place,
            f"{len(lost)} new parameters would never be trained: they are copies of parameters of "
            f"{prepared.plan.path!r} that are in no group of the optimizer; give stagegraph the "
            "optimizer that trains them, or set their requires_grad to False",
        )


def _grow_average(standing: Standing, change: Change, blocks: Mapping[int, nn.Module]) -> None:
    """Grow the averaged copy of the model too; the new blocks' average begins with their value."""
    averaged = standing.averaged
    if averaged is None:
        return
    before = standing.lineage.without_last()
    rebuild(averaged, change, optimizers=(), lineage=before)
    stack = standing.lineage.today(change.stack)
    with torch.no_grad():
        for at, block in blocks.items():
            copied = averaged.get_submodule(f"{stack}.{at}")
            for name in own_parameters(standing.model, block):
                copied.get_parameter(name).copy_(block.get_parameter(name))
            for name, buffer in block.named_buffers():
                copied.get_buffer(name).copy_(buffer)
