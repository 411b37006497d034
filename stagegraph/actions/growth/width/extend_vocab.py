"""Extend a vocabulary: new rows of the embedding and of the head, in place.

What the model says of the old entries does not change. The loss does, as the new ones take a share
of the probability; where the head has a bias, it can be so low for them that they take none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute, named_owners
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, bind
from stagegraph.actions.growth.width.filling import Fill
from stagegraph.actions.growth.width.resize import ResizePlan, Writing
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.growth.width.widen import Widening, resizing, size_after
from stagegraph.actions.probes import run_probe
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import ExtendVocab

__all__ = ["plan"]

_QUIET = -1e9
"""So low a logit that its entry has no probability."""


def plan(site: Site, action: ExtendVocab, *, place: str) -> ResizePlan:
    """What more entries of a vocabulary would do to this model; nothing is changed.

    Raises:
        SelectorError: The space, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    bounds = bind(site.model, site.spaces, place=place)
    space = action.space
    bounds.of(space)
    before, after = bounds.sizes[space], size_after(bounds, action, space)
    biases = _biases(bounds, space)
    if action.quiet and not biases:
        raise UnsupportedError(
            f"{place}: quiet: true sets the bias of new entries of {space!r} very low, and no bias "
            "is in that space; give the head one and name it under spaces: tensors:, or leave "
            "quiet: out (the loss then changes a little)"
        )
    widening = Widening(place, {space: after}, "zero_out", policy=StatePolicy(action.state))
    planned = resizing(site, bounds, widening)
    shape = _output_shape(site)
    seen = shape is None or before in shape
    return replace(
        planned,
        tensors=tuple(_filled(growth, action, biases) for growth in planned.tensors),
        writings=(*planned.writings, *_told(site.model, before, after, planned.writings)),
        how=f"extend_vocab {space}: {before} to {after}, {action.init}",
        exact=seen or action.quiet,
        reached=seen or not action.quiet,  # a loss has no slope where there is no probability
        narrowed=_narrowed(shape, before, after),
        remedy="; something else than a row of its own depends on the vocabulary's size",
        evidence={
            **planned.evidence,
            "how": action.init,
            "quiet": sorted(biases) if action.quiet else [],
            "compared": "old logits" if seen else "the whole output",
        },
    )


def _biases(bounds: Bounds, space: str) -> set[str]:
    return {
        bound.name
        for bound in bounds.of(space)
        if bound.tensor.dim() == 1 and bound.tensor.is_floating_point()
    }


def _filled(growth: TensorGrowth, action: ExtendVocab, biases: set[str]) -> TensorGrowth:
    if growth.name not in biases:
        return replace(growth, fill=Fill(out=action.init, read="zero"))
    if not action.quiet:
        return replace(growth, fill=Fill(out="mean" if action.init != "random" else "zero"))
    # a quarter of the lowest number: whatever is added to it does not overflow
    lowest = torch.finfo(growth.tensor.dtype).min / 4
    return replace(growth, fill=Fill(out="zero"), added=max(_QUIET, lowest))


def _told(
    model: nn.Module, before: int, after: int, written: tuple[Writing, ...]
) -> Iterator[Writing]:
    """Attributes called ``vocab_size`` that state the old size and that nobody declared.

    A loss reads it, and would first fail on a batch with labels.
    """
    known = {(id(one.attribute.owner), one.attribute.name) for one in written}
    owners: list[tuple[str, Any]] = [*model.named_modules(), *named_owners(model)]
    for path, owner in owners:
        if vars(owner).get("vocab_size") == before and (id(owner), "vocab_size") not in known:
            yield Writing(Attribute(f"{path}.vocab_size".lstrip("."), owner, "vocab_size"), after)


def _output_shape(site: Site) -> torch.Size | None:
    """The shape of the output on the probe; ``None`` where only the cost is asked for."""
    if site.probe is None or any(p.is_meta for p in site.model.parameters()):
        return None
    with untouched(site.model), torch.no_grad():
        site.model.eval()
        return run_probe(site.model, site.probe).shape


def _narrowed(
    shape: torch.Size | None, before: int, after: int
) -> Callable[[Tensor], Tensor] | None:
    """Leave of a grown output what was there before, along the axes that grew."""
    if shape is None:
        return None

    def narrowed(output: Tensor) -> Tensor:
        if output.dim() != len(shape):
            return output
        for dim, (now, was) in enumerate(zip(output.shape, shape, strict=True)):
            if (was, now) == (before, after):
                output = output.narrow(dim, 0, before)
        return output

    return narrowed
