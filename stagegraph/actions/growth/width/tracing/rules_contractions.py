"""Contractions: products of matrices, convolutions, attention."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stagegraph.actions.growth.width.tracing.axes import Dims, Ref, Refs, plain
from stagegraph.actions.growth.width.tracing.book import Call, Seen, Tag
from stagegraph.actions.growth.width.tracing.rules_pointwise import align

__all__ = ["CONTRACTIONS", "attention"]


def _contract(call: Call, one: Seen, other: Seen, spec: str) -> Dims | None:
    """Tie the axes of an einsum of two tensors and mark what they do.

    Args:
        call: The call.
        one: The left operand.
        other: The right one.
        spec: Such as ``"ik,kj->ij"``.

    Returns:
        The axes of the result; ``None`` where the contracted ones cannot be one.
    """
    letters, kept = spec.split("->")
    left, right = letters.split(",")
    of_one = dict(zip(left, one.dims, strict=True))
    of_other = dict(zip(right, other.dims, strict=True))
    for letter in set(left) & set(right):
        if not call.axes.unify(of_one[letter], of_other[letter]):
            return None
    pure = one.sort != "activation" and other.sort != "activation"
    for seen, own, rest in ((one, of_one, of_other), (other, of_other, of_one)):
        if seen.sort != "weight":
            continue
        for letter, refs in own.items():
            if letter not in kept:
                call.mark((refs,), "out" if pure and own is of_other else "in")
            elif letter in rest:
                call.mark((refs,), "elem")
            elif not pure:
                call.mark((refs,), "out")
    for letter in set(left) - set(kept):
        call.axes.flag(of_one[letter], "contracted")
    dims = ({**of_other, **of_one}[letter] for letter in kept)
    return tuple(refs if pure else plain(refs) for refs in dims)


def _scores(call: Call, one: Seen, other: Seen, batch: Refs, inner: Refs, kept: Refs) -> Tag | None:
    """The tag of a product of two activations; what probabilities weigh are values."""
    if one.sort != "activation" or other.sort != "activation":
        return None
    if one.tag is not None and one.tag.what == "probs":
        call.axes.flag(kept, "value_dim")
        return None
    return Tag("scores", batch, inner)


def _matmul(call: Call, one: Tensor, other: Tensor, spec: str) -> Dims | None:
    a, b = call.seen(one), call.seen(other)
    dims = _contract(call, a, b, spec)
    if dims is None:
        return None
    call.give(dims)
    if spec == "bik,bkj->bij":
        tag = _scores(call, a, b, a.dims[0], a.dims[2], b.dims[2])
        call.seen(call.outs()[0]).tag = tag
    return dims


_SPECS = {
    "mm": ("self", "mat2", "ik,kj->ij"),
    "bmm": ("self", "mat2", "bik,bkj->bij"),
    "mv": ("self", "vec", "ik,k->i"),
    "dot": ("self", "tensor", "k,k->"),
    "addmm": ("mat1", "mat2", "ik,kj->ij"),
    "_addmm_activation": ("mat1", "mat2", "ik,kj->ij"),
    "baddbmm": ("batch1", "batch2", "bik,bkj->bij"),
    "addmv": ("mat", "vec", "ik,k->i"),
}


def _product(call: Call) -> bool:
    one, other, spec = _SPECS[call.name]
    dims = _matmul(call, call[one], call[other], spec)
    if dims is None:
        return False
    return "add" not in call.name or _added(call, call["self"])


def _added(call: Call, extra: Tensor) -> bool:
    """A bias, or a matrix, that is added to the result."""
    seen = call.seen(extra)
    out = call.outs()[0]
    tag = call.seen(out).tag
    if seen.sort == "weight" and call.sort() == "activation":
        call.mark(seen.dims, "elem")
    dims = align(call, [call.seen(out), seen], tuple(out.shape))
    if dims is None:
        return False
    call.give(plain(refs) for refs in dims)
    call.seen(out).tag = tag
    return True


def _grouped_product(call: Call) -> bool:
    """One matrix for each expert, whose rows are sorted by expert."""
    if call["self"].dim() != 2 or call["mat2"].dim() != 3:
        return False
    weight = call.seen(call["mat2"])
    if weight.sort == "weight":
        call.mark(weight.dims[:1], "elem")
    x = call.seen(call["self"])
    dims = _contract(call, x, Seen(weight.dims[1:], weight.source), "ik,kj->ij")
    if dims is None:
        return False
    call.give(dims)
    offsets = call.args.get("offs")
    return offsets is None or call.axes.unify(weight.dims[0], call.seen(offsets).dims[0])


def _linear(call: Call) -> bool:
    weight, x = call["weight"], call.seen(call["input"])
    batch = "abcdefgh"[: len(x.dims) - 1]
    dims = _contract(call, x, call.seen(weight), f"{batch}k,ok->{batch}o")
    if dims is None:
        return False
    call.give(dims)
    return call["bias"] is None or _added(call, call["bias"])


def _convolution(call: Call) -> bool:
    x, weight = call.seen(call["input"]), call.seen(call["weight"])
    out, groups = call.outs()[0], int(call.args.get("groups") or 1)
    transposed = bool(call.args.get("transposed"))
    first, second = weight.dims[0], weight.dims[1]
    if call["weight"].dim() == call["input"].dim() - 1 or len(x.dims) != len(weight.dims):
        return False
    in_dim, out_dim = (first, second) if transposed else (second, first)
    channels = x.dims[1]
    batch: Refs = ()
    if groups > 1:
        whole = first  # its first factor is the group
        size = call["weight"].shape[0]
        parts = call.axes.regroup(whole, (groups, size // groups))
        split = call.axes.regroup(channels, (groups, call["input"].shape[1] // groups))
        if parts is None or split is None or not call.axes.unify(parts[0], split[0]):
            return False
        batch, channels = parts[0], split[1]
        call.mark((batch,), "elem")
        in_dim, out_dim = (parts[1], second) if transposed else (second, parts[1])
    if not call.axes.unify(channels, in_dim):
        return False
    call.mark((in_dim,), "in")
    call.mark((out_dim,), "out")
    call.axes.flag(in_dim, "contracted", "channels")
    call.axes.flag((*batch, *out_dim), "channels")
    written = (*plain(batch), *plain(out_dim))
    dims = [x.dims[0], written]
    dims += [call.axes.fresh(size, "data") for size in out.shape[2:]]
    call.unless_data(*x.dims[2:])
    bias = call.args.get("bias")
    if bias is not None:
        if not call.axes.unify(written, call.seen(bias).dims[0]):
            return False
        call.mark(call.seen(bias).dims, "elem")
    call.give(plain(refs) for refs in dims)
    return True


def attention(call: Call) -> bool:
    """Fused attention: of any kind, all have query, key and value with heads before the last two.

    Query heads that are a multiple of the key heads are (key heads, group), as in grouped queries.
    """
    q, k, v = (call.seen(call[name]) for name in ("query", "key", "value"))
    out = call.outs()[0]
    if len(q.dims) != len(k.dims) or len(q.dims) < 3 or "flash_attention_forward" in call.name:
        return False
    unify = call.axes.unify
    fine = unify(q.dims[-1], k.dims[-1]) and unify(k.dims[-2], v.dims[-2])
    for dim in range(len(q.dims) - 2):
        fine = fine and unify(k.dims[dim], v.dims[dim]) and _grouped(call, q, k, dim)
    mask = call.args.get("attn_mask")
    mask = call.args.get("attn_bias") if mask is None else mask
    if isinstance(mask, Tensor):
        scores = (*q.dims[:-1], k.dims[-2])
        fine = fine and _masked(call, Seen(scores), mask)
    if not fine:
        return False
    call.axes.flag([ref for refs in q.dims[1:-2] for ref in refs], "heads")
    call.axes.flag(q.dims[-1], "head_dim", "contracted")
    call.axes.flag(v.dims[-1], "value_dim")
    call.book.softmaxes.append((k.dims[-2], call.module))
    call.give((*(plain(refs) for refs in q.dims[:-1]), plain(v.dims[-1])), out)
    for other in call.outs()[1:]:
        call.give(call.fresh(other), other)
    return True


def _grouped(call: Call, q: Seen, k: Seen, dim: int) -> bool:
    many, few = call.axes.size(q.dims[dim]), call.axes.size(k.dims[dim])
    if many == few or dim == 0:
        return call.axes.unify(q.dims[dim], k.dims[dim])
    if many % few:
        return False
    return call.axes.unify(q.dims[dim], (*k.dims[dim], Ref(call.axes.leaf(many // few))))


def _masked(call: Call, scores: Seen, mask: Tensor) -> bool:
    seen = call.seen(mask)
    if seen.sort == "weight":
        call.mark(seen.dims, "elem")
    sizes = tuple(call.axes.size(refs) for refs in scores.dims)
    return align(call, [scores, seen], sizes) is not None


CONTRACTIONS: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(_SPECS, _product),
    "linear": _linear,
    "_grouped_mm": _grouped_product,
    **dict.fromkeys(("convolution", "_convolution", "mkldnn_convolution"), _convolution),
}
"""Operators by name; those of attention are known by how their name begins."""
