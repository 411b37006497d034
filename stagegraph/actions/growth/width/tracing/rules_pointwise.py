"""Elementwise operators: matching dimensions are one axis. Hand-written norms are recognised."""

from __future__ import annotations

import torch
from torch import Tensor

from stagegraph.actions.growth.width.tracing.axes import Dims, Ref, Refs, plain
from stagegraph.actions.growth.width.tracing.book import (
    Call,
    Norm,
    Seen,
    Source,
    Tag,
    operator_name,
)

__all__ = ["CASTS", "align", "is_pointwise", "merged", "pointwise", "weight_norm"]

CASTS = frozenset({"_to_copy", "clone", "detach", "alias", "lift_fresh", "lift", "contiguous"})
"""They change no value, or its precision only."""

_MORE = CASTS | {
    *("where", "masked_fill", "copy", "native_dropout", "tril", "triu", "bernoulli", "fill"),
    *("zero", "clamp", "clamp_min", "clamp_max", "_conj", "_neg_view", "resolve_conj", "polar"),
    *("real", "view_as_real_copy", "nan_to_num", "lerp", "addcmul", "addcdiv", "complex", "silu"),
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "normal"),
    *("uniform", "rrelu_with_noise", "_prelu_kernel", "log_sigmoid_forward", "threshold"),
    *("_fused_dropout", "exponential", "random", "rrelu_with_noise_functional"),
}
_LIKE = frozenset({"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"})


def is_pointwise(func: torch._ops.OpOverload) -> bool:
    """Whether an operator works on each element by itself."""
    name = operator_name(func)
    return torch.Tag.pointwise in func.tags or name in _MORE or name.rstrip("_") in _MORE


def align(call: Call, operands: list[Seen], sizes: tuple[int, ...]) -> Dims | None:
    """The axes of a broadcast; axes that meet become one. ``None`` where they cannot."""
    dims: list[Refs] = []
    for index, size in enumerate(sizes):
        place = index - len(sizes)
        meeting = [
            seen.dims[place]
            for seen in operands
            if -place <= len(seen.dims) and call.axes.size(seen.dims[place]) == size
        ]
        if size == 1:
            dims.append(())
            continue
        if not meeting:
            dims.append(call.axes.fresh(size))
            continue
        for other in meeting[1:]:
            if not call.axes.unify(meeting[0], other):
                return None
        dims.append(merged(meeting))
    return tuple(dims)


def merged(meeting: list[Refs]) -> Refs:
    """The first of several equal axes, with the origins of all."""
    first = meeting[0]
    if len(meeting) == 1 or any(len(one) != len(first) for one in meeting):
        return first
    return tuple(
        Ref(parts[0].node, tuple(dict.fromkeys(o for part in parts for o in part.origins)))
        for parts in zip(*meeting, strict=True)
    )


def pointwise(call: Call) -> bool:
    """The rule of all elementwise operators; false where the axes cannot be one."""
    tensors = [tensor for tensor in call.tensors() if tensor.dim()]
    operands = [call.seen(tensor) for tensor in tensors]
    sort = call.sort()
    tag = _tag(call, tensors)  # before an operator in place overwrites what is known
    _count_add(call, tensors)
    for out in call.outs():
        if out.dim() and not operands:
            call.give(call.fresh(out), out)
            continue
        if sort == "activation":
            if any(seen.sort == "activation" for seen in operands):
                weights = [seen for seen in operands if seen.sort == "weight"]
                for seen in weights:
                    call.mark(seen.dims, "elem")
            operands.sort(key=lambda seen: seen.sort != "activation")
        dims = align(call, operands, tuple(out.shape))
        if dims is None:
            return False
        if sort != "weight":
            dims = tuple(plain(refs) for refs in dims)
        call.give(dims, out)
        seen = call.seen(out)
        if call.name in _LIKE:
            seen.source = Source("constant")
        if call.name in CASTS and operands:
            seen.raw = operands[0].raw
        seen.tag = tag
    return True


def weight_norm(call: Call) -> bool:
    """A direction and a length for each unit, which together are a weight."""
    v, g, out = call.seen(call["v"]), call.seen(call["g"]), call.outs()[0]
    dims = align(call, [v, g], tuple(out.shape))
    if dims is None:
        return False
    call.give(dims, out)
    for other in call.outs()[1:]:
        call.give(call.fresh(other), other)
    return True


def _count_add(call: Call, tensors: list[Tensor]) -> None:
    if call.name != "add" or len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
        return
    if all(call.seen(tensor).sort == "activation" for tensor in tensors):
        call.book.adds += [refs for refs in call.seen(tensors[0]).dims if refs]


def _scalar(call: Call) -> float | None:
    for name in ("other", "exponent", "min"):
        value = call.args.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, Tensor) and value.dim() == 0:
            return float(value)
    return None


def _tag(call: Call, tensors: list[Tensor]) -> Tag | None:
    """What the result is on the way to."""
    tags = [call.seen(tensor).tag for tensor in tensors]
    if len(tensors) == 1 or (len(tensors) == 2 and tensors[0] is tensors[1]):
        return _tag_of_one(call, tensors, tags[0])
    for tag in tags:
        if tag is not None and tag.what == "scores":
            return tag
    if len(tensors) != 2:
        return None
    for mine, other in ((0, 1), (1, 0)):
        tag, over = tags[mine], tensors[other]
        if tag is None:
            continue
        if tag.what == "second" and call.name in ("mul", "div"):
            return _normed(call, tag, over)
        if tag.what == "mean" and call.name in ("sub", "rsub"):
            return Tag("centered", tag.over, reductions=tag.reductions)
        if tag.what == "normed" and tag.norm is not None and call.seen(over).sort == "weight":
            return _affine(call, tag, tag.norm, over)
    return None


def _tag_of_one(call: Call, tensors: list[Tensor], tag: Tag | None) -> Tag | None:
    squared = call.name in ("pow", "square") and _scalar(call) in (2.0, None)
    if squared or (call.name == "mul" and len(tensors) == 2):
        centered = tag is not None and tag.what == "centered"
        reductions = tag.reductions if tag is not None and centered else ()
        return Tag("square", centered=centered, reductions=reductions)
    if tag is None:
        return None
    if tag.what == "second" and call.name in ("add", "clamp_min", "clamp", "maximum"):
        return Tag("second", tag.over, (), tag.centered, _scalar(call), None, tag.length,
                   tag.reductions)  # fmt: skip
    if tag.what in ("second", "mean", "scores"):
        return tag
    return tag if call.name in CASTS else None


def _normed(call: Call, tag: Tag, over: Tensor) -> Tag | None:
    """A tensor times the inverse root of its own second moment: a norm."""
    roots = set(call.axes.roots(tag.over))
    if not roots or not roots <= {
        r for refs in call.seen(over).dims for r in call.axes.roots(refs)
    }:
        return None
    inner = call.seen(over).tag
    centered = tag.centered or (inner is not None and inner.what == "centered")
    norm = Norm(
        tag.over,
        call.op,
        call.module,
        "l2" if tag.length else "layer" if centered else "rms",
        eps=tag.eps,
    )
    call.book.norms.append(norm)
    for entry in tag.reductions + (inner.reductions if inner is not None else ()):
        call.book.reductions.pop(entry, None)
    return Tag("normed", norm=norm)


def _affine(call: Call, tag: Tag, norm: Norm, weight: Tensor) -> Tag | None:
    if call.name == "mul" and norm.gain is None:
        norm.gain = call.key(weight)
        return tag
    if call.name == "add" and norm.bias is None:
        norm.bias = call.key(weight)
    return None
