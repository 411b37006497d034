"""Identities: find for each template what makes its copies the identity, and prove it.

Where a block cannot become the identity by zeros (a norm after the sum, as in BERT), and the graph
blends new blocks in from alpha 0, the gate does it: the copy begins as it is, behind the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.depth.identity import (
    Call,
    NoIdentity,
    Zeroing,
    apply_zeroing,
    declared_zeroing,
    fill,
    find_zeroing,
    hits,
    keeps_shape,
    minus_one_gains,
    why_not,
)
from stagegraph.actions.growth.depth.templates import signature
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.parameters import is_finite
from stagegraph.actions.probes import run_probe
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.sharding.precision import stand_in
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Deepen

__all__ = ["Identity", "make_identities"]


@dataclass(frozen=True, slots=True)
class Identity:
    """How the copies of one template become the identity.

    Attributes:
        zeroing: What is filled, by name in the block.
        gated: Why it is the gate alone, if it is.
    """

    zeroing: Zeroing
    gated: str | None = None


def make_identities(
    site: Site,
    action: Deepen,
    templates: Mapping[str, nn.Module],
    new: Mapping[str, list[nn.Module]],
    *,
    place: str,
    seed: int,
) -> dict[str, Identity]:
    """Zero what makes new blocks the identity, and prove it on what their templates are given.

    Args:
        site: The model; the caller sees to it that no trace is left.
        action: The growth.
        templates: The blocks that are copied, by path.
        new: Their copies, by the template's path; they are written to.
        place: Where the growth is written.
        seed: For the run on the probe.

    Returns:
        What was done, by path of the template.

    Raises:
        UnsupportedError: A block does not become the identity, nor is there a closed gate.
    """
    calls = _calls(site, templates, seed)
    for path in templates:
        if path not in calls:
            raise UnsupportedError(
                f"{place}: block {path!r}, which would be copied, did not run on the probe"
            )
    _refuse_unmatched(action, templates, place)
    found: dict[Any, Zeroing] = {}
    done: dict[str, Identity] = {}
    for path, template in templates.items():
        try:
            trial = stand_in(site.model, new[path][0], template)
            zeroing = _proposed(site, action, path, template, trial, calls[path], found, place)
            zeroing = _proven(action, path, trial, calls[path], zeroing, place)
        except NoIdentity as error:
            if (
                site.alpha != 0.0
                or action.zero
                or not keeps_shape(site.model, template, calls[path])
            ):
                raise
            reason = str(error).removeprefix(f"{place}: ").partition(";")[0]
            done[path] = Identity((), gated=reason)
            continue
        for block in new[path]:
            if block is not trial:  # in that it is, since it was proven there
                apply_zeroing(block, zeroing)
        done[path] = Identity(zeroing)
    return done


def _refuse_unmatched(action: Deepen, templates: Mapping[str, nn.Module], place: str) -> None:
    for glob in action.zero:
        if not any(hits(template, glob) for template in templates.values()):
            declared_zeroing(next(iter(templates.values())), [glob], place=place)


def _proposed(
    site: Site,
    action: Deepen,
    path: str,
    template: nn.Module,
    new: nn.Module,
    call: Call,
    found: dict[Any, Zeroing],
    place: str,
) -> Zeroing:
    """What to zero: as declared, or found by trial, once for templates of one kind."""
    if not all(map(is_finite, template.parameters())):
        raise UnsupportedError(
            f"{place}: the weights of block {path!r} are not finite: training has diverged before "
            "this growth"
        )
    kind = signature(template)
    if kind not in found:
        declared = [glob for glob in action.zero if hits(template, glob)]
        if action.zero:
            found[kind] = declared_zeroing(template, declared, place=place)
        else:
            scratch = None if action.fresh else new  # what begins anew may be zero by chance
            with untouched(*([] if scratch is None else [scratch])):
                found[kind] = find_zeroing(site.model, template, call, place=place, scratch=scratch)
    ours = dict(new.named_parameters())
    shared = [name for name, _ in found[kind] if ours.get(name) is template.get_parameter(name)]
    if shared:
        raise UnsupportedError(
            f"{place}: {', '.join(shared)} of a block would be zeroed, but is shared with the "
            "rest of the model; name other weights in zero:"
        )
    return found[kind]


def _proven(
    action: Deepen,
    path: str,
    block: nn.Module,
    call: Call,
    zeroing: Zeroing,
    place: str,
) -> Zeroing:
    """The zeroing under which a new block is the identity; it stays in the block."""
    reasons: list[str] = []
    for fills in (zeroing, minus_one_gains(block, zeroing)) if action.zero else (zeroing,):
        take_back = fill(block, fills)  # another copy would cost as much as the block
        with untouched(block):
            reason = why_not(block, call, fills)
        if reason is None:
            return fills
        take_back()
        reasons.append(reason)
    zeroed = ", ".join(name for name, _ in zeroing)
    raise NoIdentity(
        f"{place}: a copy of block {path!r} with {zeroed} zeroed is no identity: {reasons[0]}"
    )


def _calls(site: Site, blocks: Mapping[str, nn.Module], seed: int) -> dict[str, Call]:
    """What blocks are really called with, on the probe."""
    calls: dict[str, Call] = {}
    for path, block in blocks.items():

        def record(
            _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], at: str = path
        ) -> None:
            if at not in calls:
                calls[at] = Call.of(args, kwargs)

        block.register_forward_pre_hook(record, with_kwargs=True)
    site.model.eval()
    seed_all(seed)
    assert site.probe is not None
    with torch.no_grad():
        run_probe(site.model, site.probe)
    return calls
