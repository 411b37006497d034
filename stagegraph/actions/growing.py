"""Growing: plan, prepare, commit and certify one growth of a standing model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, UntypedStorage

from stagegraph.actions.changes import Change
from stagegraph.actions.contents import state_tensors, storages
from stagegraph.actions.growth.certificate import Measured, exactness, measure, read
from stagegraph.actions.growth.operation import Committed, Planned, Site
from stagegraph.actions.growth.operations import plan, word
from stagegraph.actions.growth.verdict import refuse
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.memory import Height
from stagegraph.actions.optimizing.optimizers import check_state_shapes, state_shapes
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
    height, owned = Height(model.parameters()), _memory_of(standing)
    site = standing.site(alpha=alpha)
    planned = plan(site, action, place=deed.place)
    prepared = planned.prepare(site, seed=deed.seed)
    notes = _notes(planned, site)
    before = read(model, probe, seed=deed.seed)
    params, shapes = num_parameters(model), state_shapes(standing.optimizers)
    earlier, known = standing.lineage.cohort(cohort), standing.lineage.modules()
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
    refuse(
        deed.place,
        measured,
        committed,
        gated=alpha != 1.0,
        tolerance=action.tolerance,
        grown=known,
    )
    return {
        "kind": word(action),
        "cohort": cohort,
        "promise": "exact" if committed.exact else "approximate",
        "symmetry": "none",  # what an operation says of these two counts
        "state": "fresh",
        "notes": list(notes),
        **committed.evidence,
        **_effect(measured, alpha),
        "tolerance": action.tolerance,
        "params": {"before": params, "after": num_parameters(model), "added": planned.cost},
        "memory": {"new_bytes": _new_bytes(standing, owned), **height.as_json()},
        **({"took_over": [old.step for old in earlier]} if _old(earlier, step) else {}),
        "seconds": time.perf_counter() - began,
    }


def _notes(planned: Planned, site: Site) -> tuple[str, ...]:
    """What the author should know; said of the model as it was."""
    return planned.notes(site)


def _memory_of(standing: Standing) -> dict[int, UntypedStorage]:
    """The memory that models and optimizer state lie in, held on to, so that none is reused."""
    held: list[Tensor] = state_tensors(standing.optimizers)
    for model in standing.models:
        held += [*model.parameters(), *model.buffers()]
    return storages(held)


def _new_bytes(standing: Standing, owned: Mapping[int, UntypedStorage]) -> int:
    now = _memory_of(standing)
    return sum(storage.nbytes() for address, storage in now.items() if address not in owned)


def _old(earlier: tuple[Change, ...], step: int) -> bool:
    return any(change.step != step for change in earlier)


def _effect(measured: Measured, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "change": {"eval": measured.eval, "train": measured.train, "alpha_1": measured.open},
        "dropout": "on" if measured.dropout else "off in the comparison: other shapes, other masks",
        "exactness": exactness(max(measured.eval, measured.train), measured),
        "exactness_at_alpha_1": exactness(measured.open, measured),
        "executed": True,
        "gradient": {"reached": measured.num_with_gradient, "of": measured.trained},
    }


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
