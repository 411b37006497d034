"""The verdict: whether a growth that has been measured may stand."""

from __future__ import annotations

import math
from collections.abc import Collection

from stagegraph.actions.growth.certificate import Measured, exactness
from stagegraph.actions.growth.operation import Committed
from stagegraph.errors import ActionError

__all__ = ["refuse"]


def refuse(
    place: str,
    measured: Measured,
    committed: Committed,
    *,
    gated: bool,
    tolerance: float | None = None,
    grown: Collection[str] = (),
) -> None:
    """Refuse a growth that did not do what it promises.

    Args:
        place: Where it is written.
        measured: What it did.
        committed: What it promised.
        gated: Whether the new blocks are to be blended in.
        tolerance: How far its author lets the output change, if that is declared.
        grown: Stable ids of blocks that earlier growths have brought.

    Raises:
        ActionError: New blocks do not run, or get no gradient; the output is not finite, has
            another shape, changes with alpha 0, or changes by more than it may.
    """
    _refuse_idle(place, measured)
    _refuse_broken(place, measured)
    if committed.learns:
        _refuse_unlearnable(place, measured, grown)
    if gated and not committed.marks and measured.closed != 0.0:  # else not the blocks alone
        raise ActionError(
            place,
            f"with alpha 0 the new blocks still change the output on the probe by "
            f"{measured.closed:.3g}, so that they cannot be blended in: a block changes its input "
            "in place, or the model takes more from it than its first output",
        )
    if tolerance is not None:
        _refuse_beyond(place, measured, tolerance)
    elif committed.exact:
        _refuse_inexact(place, measured, committed.remedy)


def _changes(measured: Measured) -> dict[str, float]:
    """Each change by the words for the mode it was measured in."""
    modes = {"eval mode": measured.eval, "train mode": measured.train}
    return modes | {"eval mode, with alpha 1,": measured.open}


def _refuse_idle(place: str, measured: Measured) -> None:
    if measured.idle:
        raise ActionError(
            place,
            f"the new blocks {', '.join(measured.idle)} did not run on the probe: the model's own "
            "loop passes them by; name the attribute that says how many blocks there are in count:",
        )


def _refuse_broken(place: str, measured: Measured) -> None:
    now = {"eval": measured.eval, "train": measured.train}
    broken = [mode for mode, change in now.items() if not math.isfinite(change)]
    if broken or not math.isfinite(measured.open):
        when = f"in {' and '.join(broken)} mode" if broken else "with alpha 1"
        raise ActionError(
            place,
            f"{when} the grown model's output on the probe is not finite, or has another shape "
            "than before",
        )


def _refuse_inexact(place: str, measured: Measured, remedy: str) -> None:
    for mode, change in _changes(measured).items():
        if not exactness(change, measured).startswith("exact"):
            raise ActionError(
                place,
                f"the growth was to keep the function, and in {mode} the output on the probe "
                f"changed by {change:.3g} {remedy}",
            )


def _refuse_beyond(place: str, measured: Measured, tolerance: float) -> None:
    for mode, change in _changes(measured).items():
        if change > tolerance:
            raise ActionError(
                place,
                f"in {mode} the output on the probe changed by {change:.3g}, and its tolerance is "
                f"{tolerance:g}; the largest output was {measured.scale:.3g} before",
            )


def _refuse_unlearnable(place: str, measured: Measured, grown: Collection[str]) -> None:
    if measured.trained == 0:
        raise ActionError(
            place,
            "what would grow is frozen by its owner, and so would be what is new: it would never "
            "be trained; let what is grown or copied require a gradient",
        )
    if measured.without_gradient:
        resting = [
            block
            for block in grown
            if all(name.startswith(f"{block}.") for name in measured.without_gradient)
        ]
        why = (
            f"they are inside {resting[-1]}, which was grown before and whose output rests at zero "
            "until it has been trained; grow in it later (keep max_overlap at 1, or let this "
            "region wait for the other's consolidation), or leave it out"
            if resting
            else "so that they would never learn"
        )
        raise ActionError(
            place,
            f"the new blocks {', '.join(measured.without_gradient)} get no gradient on the probe, "
            f"{why}",
        )
    if not measured.num_with_gradient:
        raise ActionError(
            place,
            "nothing that is new gets a gradient on the probe, so that it would never learn; where "
            "new units begin at zero before a ReLU, let them be read with zero instead (how: "
            "zero_out)",
        )
