"""Cohorts: what a growth added, found again in a model that has grown on since.

New modules are found by their stable ids. New entries of tensors that became larger are found by
what the lineage recorded of their axes, carried through every later growth of the same tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from stagegraph.actions.changes import Change, Deepened, HeadAdded, Resized
from stagegraph.actions.growth.width.embedding import embedded, new_entries
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.scales import Scale

__all__ = ["lasting_scales", "new_parts"]


def new_parts(lineage: Lineage, cohort: Collection[Change]) -> dict[str, Tensor]:
    """The entries that changes added to tensors which were there before.

    Args:
        lineage: All that the model has been through.
        cohort: The changes that are meant.

    Returns:
        Per stable id of a parameter or buffer: booleans of its shape today.
    """
    wanted = {id(change) for change in cohort}
    parts: dict[str, Tensor] = {}
    for change in lineage.changes:
        for name, axes in change.tensors.items():
            carried = embedded(parts[name], axes) if name in parts else None
            if id(change) in wanted:
                own = new_entries(axes)
                parts[name] = own if carried is None else own | carried
            elif carried is not None:
                parts[name] = carried
    return parts


def lasting_scales(lineage: Lineage) -> dict[str, Scale]:
    """The scales that parameters keep for good, by stable id; a copy has its template's."""
    scales: dict[str, Scale] = {}
    for change in lineage.changes:
        if isinstance(change, Resized):
            for name, lr, eps, weight_decay in change.scales:
                old = scales.get(name, Scale())
                scales[name] = Scale(old.lr * lr, old.eps * eps, old.weight_decay * weight_decay)
        elif isinstance(change, Deepened):
            for block in change.blocks:
                template, new = f"{change.stack}.{block.copy_of}.", f"{change.stack}.{block.label}."
                scales |= _copied(scales, template, new)
        elif isinstance(change, HeadAdded):
            scales |= _copied(scales, f"{change.heads}.{change.like}.", f"{change.path}.")
    return scales


def _copied(scales: Mapping[str, Scale], template: str, new: str) -> dict[str, Scale]:
    """What holds of a template holds of its copy."""
    return {
        new + name.removeprefix(template): scale
        for name, scale in scales.items()
        if name.startswith(template)
    }
