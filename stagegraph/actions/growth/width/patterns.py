"""Patterns: buffers whose content follows from their size, and goes on when that grows.

A causal mask, the numbers of the positions, the frequencies of rotary positions: no training
changed them, and a checkpoint often does not have them. They are known by their content, so that
what a model calls them does not matter, and made anew from it, so that a resumed run has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "FREQUENCIES",
    "MORE_FREQUENCIES",
    "base_of",
    "continued",
    "frequencies",
    "over_positions",
    "rescaled",
]

MASK = "mask"
"""Entry (i, j) depends on i - j alone, has one of two values, and one of them for all i < j."""

NUMBERS = "numbers"
"""Whole numbers that rise by 1 along the axis that grows."""

CONSTANT = "constant"
"""The same whole number, or truth value, everywhere."""

FREQUENCIES = "frequencies"
"""base^(-i/n), for the n that there will be; the old ones are among the new ones where their number
is multiplied by a whole number."""

MORE_FREQUENCIES = "more frequencies"
"""The old frequencies, followed by lower ones."""

_RESCALED = "base times "


def rescaled(times: float) -> str:
    """The pattern of frequencies whose base is multiplied by a number."""
    return f"{_RESCALED}{times!r}"


def over_positions(buffer: Tensor, axes: Sequence[int]) -> str | None:
    """How a buffer goes on that has the positions of a sequence along some axes; ``None``: unknown.

    Args:
        buffer: The buffer; one without memory (``meta``) is taken for whatever fits its shape.
        axes: Its axes that are as long as a sequence.
    """
    if buffer.is_meta:
        return MASK if len(axes) == 2 else NUMBERS
    if len(axes) == 2 and sorted(axes) == [buffer.dim() - 2, buffer.dim() - 1]:
        return MASK if _is_mask(buffer) else None
    if len(axes) != 1 or buffer.is_floating_point() or buffer.is_complex():
        return None
    if bool((buffer == buffer.flatten()[0]).all()):
        return CONSTANT
    return NUMBERS if _is_numbers(buffer, axes[0]) else None


def _is_mask(buffer: Tensor) -> bool:
    length = buffer.shape[-1]
    if length < 2:
        return False
    first = buffer.reshape(-1, length, length)[0]
    of_difference = _by_difference(first)
    again = _toeplitz(of_difference, length)
    future = of_difference[: length - 1]
    return bool(
        torch.equal(again.expand_as(buffer), buffer)
        and (future == future[0]).all()
        and of_difference[length - 1] != future[0]
        and len(torch.unique(of_difference.double())) == 2
    )


def _by_difference(square_TT: Tensor) -> Tensor:
    """Its values by i - j, from -(T - 1) to T - 1."""
    return torch.cat([square_TT[0].flip(0), square_TT[1:, 0]])


def _toeplitz(of_difference: Tensor, length: int) -> Tensor:
    place = torch.arange(length, device=of_difference.device)
    middle = (len(of_difference) - 1) // 2
    return of_difference[place[:, None] - place[None, :] + middle]


def _is_numbers(buffer: Tensor, axis: int) -> bool:
    numbers = _numbers(buffer, axis, buffer.shape[axis])
    return torch.equal(numbers.expand_as(buffer), buffer)


def _numbers(buffer: Tensor, axis: int, length: int) -> Tensor:
    first = buffer.flatten()[0]
    numbers = torch.arange(length, device=buffer.device, dtype=buffer.dtype) + first
    return numbers.view([-1 if dim == axis else 1 for dim in range(buffer.dim())])


def base_of(buffer: Tensor) -> float | None:
    """The base of frequencies base^(-i/n); ``None`` if they are something else.

    Args:
        buffer: The frequencies. Shape (n,), n at least 2, as one alone tells no base.
    """
    if buffer.dim() != 1 or len(buffer) < 2 or not buffer.is_floating_point():
        return None
    num = len(buffer)
    last = float(buffer[-1].double())
    if not 0 < last < 1:
        return None
    found = last ** (-num / (num - 1))
    for base in (float(f"{found:.4g}"), float(f"{found:.6g}"), found):
        expected = frequencies(base, num, like=buffer)
        tolerance = 4 * torch.finfo(buffer.dtype).eps
        if torch.allclose(expected, buffer, rtol=max(tolerance, 1e-6), atol=0):
            return base
    return None


def frequencies(base: float, num: int, *, like: Tensor) -> Tensor:
    """base^(-i/n) for all i < n, in the order of operations that is usual. Shape (n,)."""
    exponents = torch.arange(0, 2 * num, 2, dtype=torch.float32, device=like.device) / (2 * num)
    return (1.0 / (base**exponents)).to(like.dtype)


def continued(old: Tensor, pattern: str, shape: Sequence[int]) -> Tensor:
    """A buffer of this shape with what follows from an old one.

    Args:
        old: The buffer before.
        pattern: How it goes on.
        shape: Its shape afterwards.
    """
    if old.is_meta:
        return old.new_empty(tuple(shape))
    if pattern == MASK:
        return _longer_mask(old, shape)
    if pattern == CONSTANT:
        return old.flatten()[0].expand(tuple(shape)).clone()
    if pattern == NUMBERS:
        axis = next(dim for dim, size in enumerate(shape) if size != old.shape[dim])
        return _numbers(old, axis, shape[axis]).expand(tuple(shape)).contiguous()
    base = base_of(old)
    if pattern == MORE_FREQUENCIES:
        ratio = float(old[-1].double() / old[-2].double()) if len(old) > 1 else 1.0
        more = torch.arange(1, shape[0] - len(old) + 1, device=old.device)
        return torch.cat([old, (float(old[-1]) * ratio**more).to(old.dtype)])
    assert base is not None, "seen when it was planned"
    times = float(pattern.removeprefix(_RESCALED)) if pattern.startswith(_RESCALED) else 1.0
    made = frequencies(base * times, shape[0], like=old)
    if pattern == FREQUENCIES:
        made[:: shape[0] // len(old)] = old  # as it was rounded
    return made


def _longer_mask(old: Tensor, shape: Sequence[int]) -> Tensor:
    length = old.shape[-1]
    of_difference = _by_difference(old.reshape(-1, length, length)[0])
    more = shape[-1] - length
    longer = torch.cat(
        [of_difference[:1].expand(more), of_difference, of_difference[-1:].expand(more)]
    )
    return _toeplitz(longer, shape[-1]).expand(tuple(shape)).contiguous()
