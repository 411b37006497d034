"""Lookups by integers: embeddings, indexing, gathering."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stagegraph.actions.growth.width.tracing.axes import Refs, plain
from stagegraph.actions.growth.width.tracing.book import Call, Seen, Source
from stagegraph.actions.growth.width.tracing.rules_pointwise import align

__all__ = ["LOOKUPS"]


def _looked_up(call: Call, seen: Seen, gone: Refs, kept: tuple[Refs, ...], by: Seen) -> None:
    """Mark a table; positions are looked up by what is not in the model's input."""
    if seen.sort == "weight":
        call.mark((gone,), "index")
        call.mark(kept, "out")
        call.axes.flag(gone, "lookup" if by.raw else "positions")
    else:
        call.unless_data(gone)


def _embedding(call: Call) -> bool:
    weight, indices = call.seen(call["weight"]), call.seen(call["indices"])
    _looked_up(call, weight, weight.dims[0], weight.dims[1:], indices)
    call.give((*(plain(refs) for refs in indices.dims), plain(weight.dims[1])))
    call.seen(call.outs()[0]).source = Source("activation")
    return True


def _index_select(call: Call) -> bool:
    seen, by, dim = call.seen(call["self"]), call.seen(call["index"]), call.dim()
    kept = (*seen.dims[:dim], *seen.dims[dim + 1 :])
    _looked_up(call, seen, seen.dims[dim], kept, by)
    size = call.outs()[0].shape[dim]
    new = by.dims[0] if by.dims and call.axes.size(by.dims[0]) == size else call.axes.fresh(size)
    call.give(plain(refs) for refs in (*seen.dims[:dim], new, *seen.dims[dim + 1 :]))
    return True


def _index(call: Call) -> bool:
    """``x[i, :, j]``: integers come where the first was, or first of all if they are apart."""
    seen, indices = call.seen(call["self"]), list(call["indices"])
    used = [dim for dim, index in enumerate(indices) if index is not None]
    by: list[Tensor] = [indices[dim] for dim in used]
    if any(index.dtype.is_floating_point or not index.dtype.is_signed for index in by):
        return _masked(call, seen)  # of booleans, the result's size goes by their values
    kept = [refs for dim, refs in enumerate(seen.dims) if dim not in used]
    together = used == list(range(used[0], used[-1] + 1))
    place = used[0] if together else 0
    count = len(call.outs()[0].shape) - len(kept)
    sizes = tuple(call.outs()[0].shape[place : place + count])
    new = align(call, [call.seen(index) for index in by], sizes)
    if new is None:
        return False
    for dim, index in zip(used, by, strict=True):
        _looked_up(call, seen, seen.dims[dim], tuple(kept), call.seen(index))
    call.give(plain(refs) for refs in (*kept[:place], *new, *kept[place:]))
    return True


def _masked(call: Call, seen: Seen) -> bool:
    indices = list(call["indices"])
    if any(index is not None for index in indices[1:]) or indices[0].dtype.is_signed:
        return False
    gone = indices[0].dim()
    if not all(index is None or not index.dtype.is_signed for index in indices):
        return False
    call.unless_data(*seen.dims[:gone])
    size = call.outs()[0].shape[0]
    call.give((call.axes.fresh(size, "data"), *(plain(refs) for refs in seen.dims[gone:])))
    return True


def _gather(call: Call) -> bool:
    seen, by, dim = call.seen(call["self"]), call.seen(call["index"]), call.dim()
    call.unless_data(seen.dims[dim])
    dims = []
    for place, (mine, theirs) in enumerate(zip(seen.dims, by.dims, strict=True)):
        if place != dim and call.axes.size(mine) == call.axes.size(theirs):
            call.axes.unify(mine, theirs)
        dims.append(plain(theirs))
    call.give(dims)
    return True


def _written(call: Call) -> bool:
    """Written into at integer places: the axes stay what they were."""
    seen = call.seen(call["self"])
    call.give(plain(refs) for refs in seen.dims)
    return True


LOOKUPS: dict[str, Callable[[Call], bool]] = {
    "embedding": _embedding,
    "index_select": _index_select,
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "gather": _gather,
    **dict.fromkeys(("index_fill", "index_put", "_index_put_impl", "scatter"), _written),
}
"""Operators by name."""
