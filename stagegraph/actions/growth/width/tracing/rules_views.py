"""Views and rearrangements: products, slices, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from stagegraph.actions.growth.width.tracing.axes import Ref, Refs, plain
from stagegraph.actions.growth.width.tracing.book import Call, Seen
from stagegraph.actions.growth.width.tracing.rules_pointwise import align, merged

__all__ = ["VIEWS"]


def _view(call: Call) -> bool:
    seen = call.seen(call["self"])
    out = call.outs()[0]
    dims = call.axes.regroup([ref for refs in seen.dims for ref in refs], tuple(out.shape))
    if dims is None:
        call.give(call.fresh(out))
        call.unless_data(*seen.dims)
        return True
    call.give(dims, like=seen)
    return True


def _permute(call: Call) -> bool:
    seen = call.seen(call["self"])
    order = list(range(len(seen.dims)))
    if call.name == "permute":
        order = [int(dim) % len(order) for dim in call["dims"]]
    elif order:
        one, other = (0, -1) if call.name == "t" else (call["dim0"], call["dim1"])
        order[one], order[other] = order[other], order[one]
    call.give((seen.dims[dim] for dim in order), like=seen)
    return True


def _unsqueeze(call: Call) -> bool:
    seen = call.seen(call["self"])
    dim = call.dim(of=len(seen.dims) + 1)
    call.give((*seen.dims[:dim], (), *seen.dims[dim:]), like=seen)
    return True


def _squeeze(call: Call) -> bool:
    seen = call.seen(call["self"])
    wanted = call.args.get("dim")
    chosen = range(len(seen.dims)) if wanted is None else wanted
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    gone = {dim % len(seen.dims) for dim in chosen if not seen.dims[dim]} if seen.dims else set()
    call.give((refs for dim, refs in enumerate(seen.dims) if dim not in gone), like=seen)
    return True


def _expand(call: Call) -> bool:
    seen = call.seen(call["self"])
    sizes = call.outs()[0].shape
    old: list[Refs] = [(), *[()] * (len(sizes) - len(seen.dims) - 1), *seen.dims]
    old = old[-len(sizes) :] if sizes else []
    dims = (
        refs if refs or size == 1 else call.axes.fresh(size)
        for refs, size in zip(old, sizes, strict=True)
    )
    call.give(dims, like=seen)
    return True


def _repeat(call: Call) -> bool:
    seen = call.seen(call["self"])
    times: Sequence[int] = call["repeats"]
    old = [*[()] * (len(times) - len(seen.dims)), *seen.dims]
    call.give((*call.axes.fresh(n), *refs) for n, refs in zip(times, old, strict=True))
    return True


def _select(call: Call) -> bool:
    seen = call.seen(call["self"])
    dim = call.dim()
    if seen.dims[dim]:
        index = int(call["index"]) % call["self"].shape[dim]
        call.axes.cut(seen.dims[dim], index, index + 1)
        call.book.slices.append((seen.dims[dim], call.module))
    call.give((*seen.dims[:dim], *seen.dims[dim + 1 :]), like=seen)
    return True


def _unbind(call: Call) -> bool:
    seen = call.seen(call["self"])
    dim = call.dim()
    call.axes.flag(seen.dims[dim], "counted")
    for out in call.outs():
        call.give((*seen.dims[:dim], *seen.dims[dim + 1 :]), out, like=seen)
    return True


def _slice(call: Call) -> bool:
    seen = call.seen(call["self"])
    dim, out = call.dim(), call.outs()[0]
    size, kept, step = call["self"].shape[dim], out.shape[dim], call["step"]
    start = call["start"] or 0
    start = max(start + size, 0) if start < 0 else min(start, size)
    if kept in (0, size):
        call.give(seen.dims if kept else call.fresh(out), like=seen)
        return True
    call.book.slices.append((seen.dims[dim], call.module))
    if step == 1:
        _give_cut(call, seen, dim, out, start)
        return True
    split = None
    if size % step == 0 and start < step:
        split = call.axes.regroup(seen.dims[dim], (size // step, step))
    if split is None:
        call.unless_data(seen.dims[dim])
        part = call.axes.fresh(kept)
    else:
        call.axes.flag(split[1], "counted")
        part = split[0]
    call.give((*seen.dims[:dim], part, *seen.dims[dim + 1 :]), out, like=seen)
    return True


def _give_cut(call: Call, seen: Seen, dim: int, out: Tensor, start: int) -> None:
    """Enter the axes of an interval."""
    part = call.axes.cut(seen.dims[dim], start, start + out.shape[dim])
    if part is None:
        call.unless_data(seen.dims[dim])
        part = call.axes.fresh(out.shape[dim])
    call.give((*seen.dims[:dim], part, *seen.dims[dim + 1 :]), out, like=seen)


def _split(call: Call) -> bool:
    seen = call.seen(call["self"])
    dim, outs = call.dim(), call.outs()
    sizes = [out.shape[dim] for out in outs]
    if 0 in sizes:
        return False
    if len(outs) > 1:
        call.book.slices.append((seen.dims[dim], call.module))
        if call.name != "split_with_sizes" and len(set(sizes)) == 1:
            call.axes.chunk(seen.dims[dim], len(outs))
    start = 0
    for out in outs:
        _give_cut(call, seen, dim, out, start)
        start += out.shape[dim]
    return True


def _cat(call: Call) -> bool:
    tensors = [tensor for tensor in call["tensors"] if tensor.numel() or tensor.dim() > 1]
    tensors = [tensor for tensor in tensors if tensor.shape[call["dim"]]]
    if not tensors:
        return False
    out = call.outs()[0]
    dim = int(call["dim"]) % out.dim()
    parts = [call.seen(tensor) for tensor in tensors]
    if len(parts) == 1:
        call.give(parts[0].dims, like=parts[0])
        return True
    if call.sort() == "activation":
        for part in parts:
            if part.sort == "weight":
                call.mark(part.dims, "elem")
    dims = list(call.fresh(out))
    for other in range(out.dim()):
        if other == dim or out.shape[other] == 1:
            continue
        dims[other] = merged([part.dims[other] for part in parts])
        for part in parts[1:]:
            if not call.axes.unify(dims[other], part.dims[other]):
                return False
    sizes = [tensor.shape[dim] for tensor in tensors]
    whole = call.axes.cat([plain(part.dims[dim]) for part in parts], sizes)
    origins = dict.fromkeys(o for part in parts for ref in part.dims[dim] for o in ref.origins)
    dims[dim] = tuple(Ref(ref.node, tuple(origins)) for ref in whole)
    call.give(dims if call.sort() == "weight" else [plain(refs) for refs in dims])
    return True


def _stack(call: Call) -> bool:
    out = call.outs()[0]
    dim = int(call["dim"]) % out.dim()
    parts = [call.seen(tensor) for tensor in call["tensors"]]
    if call.sort() == "activation":
        for part in parts:
            if part.sort == "weight":
                call.mark(part.dims, "elem")
    sizes = (*out.shape[:dim], *out.shape[dim + 1 :])
    dims = align(call, parts, sizes)
    if dims is None:
        return False
    if call.sort() != "weight":
        dims = tuple(plain(refs) for refs in dims)
    call.give((*dims[:dim], call.axes.fresh(len(parts), "counted"), *dims[dim:]))
    return True


def _pad(call: Call) -> bool:
    seen, out = call.seen(call["self"]), call.outs()[0]
    dims = list(seen.dims)
    amounts: Sequence[int] = call.args.get("pad") or call["padding"]
    for place in range(len(amounts) // 2):
        dim = len(dims) - 1 - place
        before, after = amounts[2 * place], amounts[2 * place + 1]
        if before == 0 and after == 0:
            continue
        if before < 0 or after < 0:
            call.unless_data(dims[dim])
            dims[dim] = call.axes.fresh(out.shape[dim])
            continue
        size = out.shape[dim] - before - after
        pieces = [(n, call.axes.fresh(n)) for n in (before,) if n]
        pieces.append((size, dims[dim]))
        pieces += [(n, call.axes.fresh(n)) for n in (after,) if n]
        origins = tuple(dict.fromkeys(o for ref in dims[dim] for o in ref.origins))
        whole = call.axes.cat([plain(part) for _, part in pieces], [n for n, _ in pieces])
        dims[dim] = tuple(Ref(ref.node, origins) for ref in whole)
    call.give(dims)
    return True


def _shifted(call: Call) -> bool:
    """Units change places within their axis: it stays one, but growing it needs care."""
    seen = call.seen(call["self"])
    moved = call["dims"] or range(len(seen.dims))
    call.book.slices += [(seen.dims[dim], call.module) for dim in moved]
    call.give(seen.dims, like=seen)
    return True


def _complex(call: Call) -> bool:
    seen = call.seen(call["self"])
    call.axes.flag(seen.dims[-1], "counted")
    call.give(seen.dims[:-1])
    return True


def _real(call: Call) -> bool:
    seen = call.seen(call["self"])
    call.give((*seen.dims, call.axes.fresh(2, "counted")))
    return True


def _same(call: Call) -> bool:
    seen = call.seen(call["self"])
    if tuple(call.outs()[0].shape) != tuple(call["self"].shape):
        return False
    call.give(seen.dims, like=seen)
    return True


VIEWS: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy"), _view),
    **dict.fromkeys(("t", "transpose", "permute"), _permute),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "repeat": _repeat,
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), _split),
    "cat": _cat,
    "stack": _stack,
    **dict.fromkeys(
        (
            *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
            *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
        ),
        _pad,
    ),
    **dict.fromkeys(("roll", "flip"), _shifted),
    "view_as_complex": _complex,
    "view_as_real": _real,
    "as_strided": _same,
}
"""Operators by name."""
