"""Growing: plan, prepare, commit and certify one growth of a standing model."""

from __future__ import annotations

import math
import time
from typing import Any

from stagegraph.actions.changes import Change
from stagegraph.actions.growth.certificate import Measured, exactness, measure, read
from stagegraph.actions.growth.operation import Committed
from stagegraph.actions.growth.operations import plan, word
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizers import check_state_shapes, state_shapes
from stagegraph.actions.parameters import num_parameters
from stagegraph.actions.standing import Standing
from stagegraph.engine.ports import Deed
from stagegraph.errors import ActionError, UnsupportedError
from stagegraph.schema.actions import GrowthAction

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
    assert isinstance(action, GrowthAction)
    if probe is None:
        raise UnsupportedError("a growth is measured on a batch; give probe=...")
    cohort = deed.cohort or deed.place
    site = standing.site()
    planned = plan(site, action, place=deed.place)
    prepared = planned.prepare(site, seed=deed.seed)
    before = read(model, probe, seed=deed.seed)
    params, shapes = num_parameters(model), state_shapes(standing.optimizers)
    earlier = standing.lineage.cohort(cohort)
    change = planned.change(site.lineage, cohort=cohort, step=step)
    committed = prepared.commit(site, change)
    _refuse_untrained(standing, committed, deed.place)
    check_state_shapes(standing.optimizers, shapes)
    if standing.averaged is not None:
        prepared.follow(standing.averaged, site, change)
    standing.lineage = Lineage([*standing.lineage.changes, change])
    blocks = {name: standing.module(name) for name in change.modules}
    standing.gates.set(dict.fromkeys(blocks, alpha), standing.module)
    measured = measure(
        model,
        probe,
        before=before,
        blocks=blocks,
        committed=committed,
        gates=standing.gates,
        seed=deed.seed,
    )
    _refuse(deed.place, measured, committed, gated=alpha != 1.0)
    return {
        "kind": word(action),
        "cohort": cohort,
        **committed.evidence,
        **_effect(measured, alpha),
        "params": {"before": params, "after": num_parameters(model), "added": planned.cost},
        "optimizer_state": "fresh",
        **({"took_over": [old.step for old in earlier]} if _old(earlier, step) else {}),
        "seconds": time.perf_counter() - began,
    }


def _old(earlier: tuple[Change, ...], step: int) -> bool:
    return any(change.step != step for change in earlier)


def _effect(measured: Measured, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "change": {"eval": measured.eval, "train": measured.train, "alpha_1": measured.open},
        "exactness": exactness(max(measured.eval, measured.train), measured),
        "exactness_at_alpha_1": exactness(measured.open, measured),
        "executed": True,
        "gradient": {"reached": measured.num_with_gradient, "of": measured.trained},
    }


def _refuse(place: str, measured: Measured, committed: Committed, *, gated: bool) -> None:
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
    if committed.learns:
        _refuse_unlearnable(place, measured)
    if gated and not committed.marks and measured.closed != 0.0:  # else not the blocks alone
        raise ActionError(
            place,
            f"with alpha 0 the new blocks still change the output on the probe by "
            f"{measured.closed:.3g}, so that they cannot be blended in: a block changes its input "
            "in place, or the model takes more from it than its first output",
        )
    if not committed.exact:
        return
    for mode, change in (*changes.items(), ("eval, with alpha 1,", measured.open)):
        if not exactness(change, measured).startswith("exact"):
            raise ActionError(
                place,
                f"the growth was to keep the function, and in {mode} mode the output on the probe "
                f"changed by {change:.3g} {committed.remedy}",
            )


def _refuse_unlearnable(place: str, measured: Measured) -> None:
    if measured.trained == 0:
        raise ActionError(
            place,
            "what would grow is frozen by its owner, and so would be what is new: it would never "
            "be trained; let what is grown or copied require a gradient",
        )
    if measured.without_gradient:
        raise ActionError(
            place,
            f"the new blocks {', '.join(measured.without_gradient)} get no gradient on the probe, "
            "so that they would never learn",
        )
    if not measured.num_with_gradient:
        raise ActionError(
            place,
            "nothing that is new gets a gradient on the probe, so that it would never learn; where "
            "new units begin at zero before a ReLU, let them be read with zero instead (how: "
            "zero_out)",
        )


def _refuse_untrained(standing: Standing, committed: Committed, place: str) -> None:
    trained = {
        id(parameter)
        for optimizer in standing.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    lost = [p for p in committed.templates if p.requires_grad and id(p) not in trained]
    if lost:
        raise ActionError(
            place,
            f"{len(lost)} new parameters would never be trained: they are made from parameters "
            "that are in no group of the optimizer; give stagegraph the optimizer that trains "
            "them, or set their requires_grad to False",
        )
