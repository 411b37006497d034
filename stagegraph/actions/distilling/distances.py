"""Distances: how far a student is from the targets that its teachers set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cosine", "divergence", "mean_of", "squared"]


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision has too few digits for probabilities and sums."""
    return x if x.dtype == torch.float64 else x.float()


def divergence(
    student: Tensor,
    teachers: Sequence[Tensor],
    shares: Sequence[float],
    temperature: float,
    axis: int,
) -> Tensor:
    """Temperature squared times KL(p ‖ q), averaged over all places.

    With shares s that add up to 1, p = Σ sᵢ softmax(tᵢ/T) and q = softmax(z/T). The factor T²
    keeps the size of the gradient when T changes (Hinton, Vinyals and Dean, 1503.02531, section
    2). A class that no teacher gives any probability to, such as a masked one, counts nothing.

    Args:
        student: Logits z, any shape.
        teachers: Logits tᵢ, each of the same shape.
        shares: Share of each teacher; those of 0 are left out.
        temperature: T, over 0.
        axis: The axis of the classes.

    Returns:
        A scalar.

    >>> z = torch.tensor([[0.0, 0.0]])
    >>> t = torch.tensor([[1.0, -1.0]]).log_softmax(-1)
    >>> round(float(divergence(z, [t], [1.0], 1.0, -1)), 4)
    0.3278
    """
    logs = [
        F.log_softmax(_wide(t) / temperature, dim=axis) + math.log(share)
        for t, share in zip(teachers, shares, strict=True)
        if share > 0
    ]
    log_p = logs[0] if len(logs) == 1 else torch.logsumexp(torch.stack(logs), dim=0)
    log_q = F.log_softmax(_wide(student) / temperature, dim=axis)
    p = log_p.exp()
    terms = torch.where(p > 0, p * (log_p - log_q), torch.zeros((), device=p.device, dtype=p.dtype))
    return terms.sum(axis).mean() * temperature**2


def mean_of(teachers: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The mean of the teachers' values, by their shares."""
    parts = [_wide(t) * share for t, share in zip(teachers, shares, strict=True) if share > 0]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def squared(student: Tensor, target: Tensor) -> Tensor:
    """The mean squared difference."""
    return (_wide(student) - target).square().mean()


def cosine(student: Tensor, target: Tensor, axis: int) -> Tensor:
    """One minus the cosine of the angle along an axis, averaged over all places."""
    return 1 - F.cosine_similarity(_wide(student), target, dim=axis).mean()
