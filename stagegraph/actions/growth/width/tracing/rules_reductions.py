"""Norms, softmaxes, reductions and pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from stagegraph.actions.growth.width.traced import NormKind
from stagegraph.actions.growth.width.tracing.axes import Refs, plain
from stagegraph.actions.growth.width.tracing.book import Call, Norm, Tag

__all__ = ["REDUCTIONS"]


def _gain(call: Call, weight: Tensor | None, dims: Sequence[Refs]) -> int | None:
    """Tie a gain or bias to the axes that it is for."""
    if weight is None:
        return None
    seen = call.seen(weight)
    for mine, theirs in zip(seen.dims, dims, strict=True):
        call.axes.unify(mine, theirs)
    call.mark(seen.dims, "elem")
    return call.key(weight)


def _normalise(call: Call, over: Sequence[Refs], kind: NormKind, eps: Any, groups: Any) -> None:
    """Note a norm over axes, with gain and bias where it has them."""
    gain = _gain(call, call.args.get("weight"), over)
    bias = _gain(call, call.args.get("bias"), over)
    joined = tuple(ref for refs in over for ref in refs)
    norm = Norm(joined, call.op, call.module, kind, gain, bias, eps, groups)
    call.book.norms.append(norm)


def _layer_norm(call: Call) -> bool:
    seen = call.seen(call["input"])
    over = seen.dims[len(seen.dims) - len(call["normalized_shape"]) :]
    _normalise(call, over, "rms" if "rms" in call.name else "layer", call["eps"], None)
    call.give((plain(refs) for refs in seen.dims), call.outs()[0])
    for other in call.outs()[1:]:
        call.give((refs if n > 1 else () for refs, n in zip(seen.dims, other.shape, strict=True)),
                  other)  # fmt: skip
    return True


def _group_norm(call: Call) -> bool:
    seen = call.seen(call["input"])
    groups = int(call.args.get("group") or call.args["num_groups"])
    _normalise(call, (seen.dims[1],), "group", call["eps"], groups)
    call.give((plain(refs) for refs in seen.dims), call.outs()[0])
    for other in call.outs()[1:]:
        call.give(call.fresh(other), other)
    return True


def _batch_norm(call: Call) -> bool:
    seen = call.seen(call["input"])
    _normalise(call, (seen.dims[1],), "batch", call.args.get("eps"), None)
    for name in ("running_mean", "running_var"):
        _gain(call, call.args.get(name), (seen.dims[1],))
    call.give((plain(refs) for refs in seen.dims), call.outs()[0])
    for other in call.outs()[1:]:
        call.give(call.fresh(other), other)  # saved statistics, which nobody reads
    return True


def _softmax(call: Call) -> bool:
    seen = call.seen(call["self"])
    call.book.softmaxes.append((seen.dims[call.dim()], call.module))
    call.give(plain(refs) for refs in seen.dims)
    if seen.tag is not None and seen.tag.what == "scores":
        if len(seen.dims) > 2:
            call.axes.flag([r for refs in seen.dims[1:-2] for r in refs], "heads")
            call.axes.flag(seen.tag.over, "heads")
        call.axes.flag(seen.tag.inner, "head_dim")
        call.seen(call.outs()[0]).tag = Tag("probs")
    return True


def _chosen(call: Call, count: int) -> set[int]:
    wanted = call.args.get("dim")
    if wanted is None or (isinstance(wanted, list | tuple) and not wanted):
        return set(range(count))
    wanted = [wanted] if isinstance(wanted, int) else wanted
    return {int(dim) % max(count, 1) for dim in wanted}


def _reduce(call: Call) -> bool:
    seen = call.seen(call["self"])
    gone = _chosen(call, len(seen.dims))
    over = tuple(ref for dim in sorted(gone) for ref in seen.dims[dim])
    entry = call.book.calls
    call.book.reductions[entry] = (over, call.op, call.module)
    keep = bool(call.args.get("keepdim"))
    for out in call.outs():
        if keep:
            dims = [() if dim in gone else refs for dim, refs in enumerate(seen.dims)]
        else:
            dims = [refs for dim, refs in enumerate(seen.dims) if dim not in gone]
        call.give(dims, out, like=None)
        call.seen(out).tag = _moment(call, seen.tag, over, entry)
    return True


def _moment(call: Call, tag: Tag | None, over: Refs, entry: int) -> Tag | None:
    """A mean, a mean of squares, a variance, a length: half of a hand-written norm."""
    if call.name in ("mean", "sum"):
        if tag is not None and tag.what == "square":
            parts = (*tag.reductions, entry)
            return Tag("second", over, centered=tag.centered, reductions=parts,
                       length=call.name == "sum")  # fmt: skip
        return Tag("mean", over, reductions=(entry,)) if call.name == "mean" else None
    if call.name in ("var", "std"):
        return Tag("second", over, centered=True, reductions=(entry,))
    if call.name == "linalg_vector_norm":
        return Tag("second", over, reductions=(entry,), length=True)
    return None


def _along(call: Call) -> bool:
    """Running sums: the axis stays, but its order counts."""
    seen = call.seen(call["self"])
    over = seen.dims[call.dim()] if seen.dims else ()
    call.book.reductions[call.book.calls] = (over, call.op, call.module)
    for out in call.outs():
        call.give((plain(refs) for refs in seen.dims), out)
    return True


def _ordered(call: Call) -> bool:
    """Sorting and the largest k: what comes out is another axis."""
    seen = call.seen(call["self"])
    dim = call.dim()
    call.book.reductions[call.book.calls] = (seen.dims[dim], call.op, call.module)
    for out in call.outs():
        dims = [plain(refs) for refs in seen.dims]
        dims[dim] = call.axes.fresh(out.shape[dim])
        call.give(dims, out)
    return True


def _pool(call: Call) -> bool:
    """Pooling and resampling of images: channels stay, places are the data's."""
    seen = call.seen(call["self"])
    for out in call.outs():
        spatial = min(len(out.shape) - 1, int("".join(c for c in call.op if c.isdigit())[:1] or 2))
        kept = len(out.shape) - spatial
        dims = [plain(refs) for refs in seen.dims[:kept]]
        dims += [call.axes.fresh(size, "data") for size in out.shape[kept:]]
        call.unless_data(*seen.dims[kept:])
        call.give(dims, out)
    return True


_POOLS = (
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d"),
    *("mkldnn_max_pool2d", "mkldnn_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d"),
    *("upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_linear1d"),
    *("upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d"),
    *("_upsample_bicubic2d_aa", "upsample_trilinear3d"),
)
REDUCTIONS: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "rms_norm"), _layer_norm),
    "native_group_norm": _group_norm,
    **dict.fromkeys(
        (
            *("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"),
            *("_native_batch_norm_legit", "_batch_norm_no_update", "miopen_batch_norm"),
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "softmax"), _softmax),
    **dict.fromkeys(
        (
            *("mean", "sum", "nansum", "amax", "amin", "max", "min", "argmax", "argmin", "prod"),
            *("var", "std", "var_mean", "std_mean", "logsumexp", "any", "all", "median"),
            *("linalg_vector_norm", "norm", "count_nonzero", "aminmax"),
        ),
        _reduce,
    ),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"), _along),
    **dict.fromkeys(("topk", "sort", "argsort", "kthvalue"), _ordered),
    **dict.fromkeys(_POOLS, _pool),
}
"""Operators by name."""
