"""Pruning: take modules that growths had added out of a standing model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from stagegraph.actions.changes import Attached, Change, CountChange, Deepened, Pruned
from stagegraph.actions.growth.certificate import Measured, compare, exactness, read
from stagegraph.actions.growth.depth.counts import find_count
from stagegraph.actions.growth.pruned import take_out
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.parameters import is_finite, num_parameters
from stagegraph.actions.standing import Standing
from stagegraph.engine.ports import Deed
from stagegraph.errors import ActionError, UnsupportedError
from stagegraph.schema.actions import Prune

__all__ = ["prune"]


def prune(standing: Standing, deed: Deed, *, step: int) -> dict[str, Any]:
    """Carry out one prune; the caller undoes everything if this raises.

    Args:
        standing: The model and what is held of it.
        deed: The prune.
        step: The boundary.

    Returns:
        What was done and what it changed, as JSON data.

    Raises:
        ActionError: The output changed by more than its author lets it.
        UnsupportedError: It is about what cannot be taken out.
    """
    began = time.perf_counter()
    action, model, probe = deed.action, standing.model, standing.probe
    assert isinstance(action, Prune)
    if probe is None:
        raise UnsupportedError("a prune is measured on a batch; give probe=...")
    wanted = _with_what_they_run(standing, _wanted(standing, deed))
    modules = [module for _, names in wanted for module in names]
    names = [standing.lineage.today(module) for module in modules]
    going = [standing.module(module) for module in modules]
    open_gates = standing.gates.alphas()
    alphas = {module: open_gates.get(module, 1.0) for module in modules}
    params = num_parameters(model)
    before = read(model, probe, seed=deed.seed, aside=going)
    standing.gates.drop([gate for gate in open_gates if _is_inside(gate, modules)])
    for growth, some in wanted:
        _take(standing, Pruned(deed.place, step, _told(standing, growth, some, step)))
    measured = compare(before, read(model, probe, seed=deed.seed))
    _refuse(deed.place, measured, action.tolerance, finite=is_finite(before.eval))
    return {
        "kind": "prune",
        "modules": modules,
        "names": names,
        "cohorts": [one for one in standing.lineage.cohorts() if _is_gone(standing, one, wanted)],
        "alphas": alphas,
        "change": {"eval": _finite(measured.eval), "train": _finite(measured.train)},
        "exactness": exactness(max(measured.eval, measured.train), measured),
        "tolerance": action.tolerance,
        "params": {
            "before": params,
            "after": num_parameters(model),
            "removed": params - num_parameters(model),
        },
        "seconds": time.perf_counter() - began,
    }


_Wanted = list[tuple[Deepened | Attached, tuple[str, ...]]]
"""Growths, each with those of its modules that are to go."""


def _wanted(standing: Standing, deed: Deed) -> _Wanted:
    """What is to go, growth by growth, the newest first."""
    assert deed.of is not None
    lineage = standing.lineage
    if deed.of.modules:
        chosen = [
            (change, tuple(name for name in lineage.alive(change) if name in deed.of.modules))
            for change in lineage.changes
        ]
    else:
        cohorts = [change for name in deed.of.cohorts for change in lineage.cohort(name)]
        chosen = [(change, lineage.alive(change)) for change in cohorts]
        _refuse_unprunable(cohorts)
    chosen = [(change, names) for change, names in chosen if names]
    _refuse_unprunable([change for change, _ in chosen])
    order = {id(change): place for place, change in enumerate(lineage.changes)}
    found = [(change, names) for change, names in chosen if isinstance(change, Deepened | Attached)]
    if not found:
        raise UnsupportedError("nothing of what is to be pruned is in the model")
    return sorted(found, key=lambda one: -order[id(one[0])])


def _refuse_unprunable(changes: Sequence[Change]) -> None:
    wrong = [change for change in changes if not isinstance(change, Deepened | Attached)]
    if wrong:
        raise UnsupportedError(
            f"{wrong[0].cohort!r} cannot be pruned: it is a {wrong[0].kind}, whose additions are "
            "no parts that can be taken out; return to a snapshot taken before it with roll_back"
        )


def _with_what_they_run(standing: Standing, wanted: _Wanted) -> _Wanted:
    """The same, and branches whose host goes though they themselves lie outside of it."""
    gone = [name for _, names in wanted for name in names]
    outside: _Wanted = []
    for change in standing.lineage.changes:
        if isinstance(change, Attached):
            alive = standing.lineage.alive(change)
            hosted = tuple(
                branch.path
                for branch in change.branches
                if branch.path in alive
                and branch.path not in gone
                and _is_inside(branch.host, gone)
                and not _is_inside(branch.path, gone)
            )
            outside += [(change, hosted)] if hosted else []
    return [*reversed(outside), *wanted]


def _is_inside(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _told(
    standing: Standing, growth: Deepened | Attached, names: Sequence[str], step: int
) -> Deepened | Attached:
    """What goes, as the growth that would put it in again as the model is now."""
    if isinstance(growth, Attached):
        gone = tuple(branch for branch in growth.branches if branch.path in names)
        return replace(growth, step=step, branches=gone)
    stack = standing.model.get_submodule(standing.lineage.today(growth.stack))
    size = len(list(stack.children()))
    order = standing.lineage.order(growth.stack, size)
    blocks = tuple(
        replace(block, at=order.index(block.label))
        for block in growth.blocks
        if f"{growth.stack}.{block.label}" in names
    )
    return replace(
        growth,
        step=step,
        before=size - len(blocks),
        blocks=tuple(sorted(blocks, key=lambda block: block.at)),
        counts=tuple(_counts(standing.model, growth, len(blocks))),
    )


def _counts(model: nn.Module, growth: Deepened, fewer: int) -> Iterator[CountChange]:
    for recorded in growth.counts:
        size = find_count(model, recorded.path, size=None, place=f"prune {growth.cohort!r}").size
        yield CountChange(recorded.path, size - fewer, size)


def _take(standing: Standing, change: Pruned) -> None:
    lineage = standing.lineage
    take_out(standing.model, change, optimizers=standing.optimizers, lineage=lineage)
    if standing.averaged is not None:
        take_out(standing.averaged, change, optimizers=(), lineage=lineage)
    standing.lineage = Lineage([*lineage.changes, change])


def _is_gone(standing: Standing, cohort: str, wanted: _Wanted) -> bool:
    """Whether nothing is left of a growth of which something went."""
    changes = standing.lineage.cohort(cohort)
    touched = any(change is growth for change in changes for growth, _ in wanted)
    return touched and not standing.modules_of(changes)


def _refuse(place: str, measured: Measured, tolerance: float | None, *, finite: bool) -> None:
    for mode, change in (("eval", measured.eval), ("train", measured.train)):
        if finite and not math.isfinite(change):
            raise ActionError(
                place,
                f"in {mode} mode the pruned model's output on the probe is not finite, or has "
                "another shape than before",
            )
        if tolerance is not None and not change <= tolerance:
            raise ActionError(
                place,
                f"in {mode} mode the output on the probe changed by {change:.3g}, and the prune's "
                f"tolerance is {tolerance:g}; the largest output was {measured.scale:.3g} before",
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
