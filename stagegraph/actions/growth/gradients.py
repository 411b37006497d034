"""Gradients for a look: of chosen parameters, without leaving any behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["look_at_gradients"]


def look_at_gradients(
    make_loss: Callable[[], Tensor | None],
    wanted: Sequence[nn.Parameter],
    others: Iterable[nn.Parameter],
) -> list[Tensor | None]:
    """The gradient of each parameter; ``None`` where it gets none.

    What is recomputed in the backward pass by reentrant checkpointing hides its parameters from a
    question for some gradients alone. Where one seems to get none, all are therefore computed as in
    an update, and put away again.

    Args:
        make_loss: Runs the model; alike each time it is called. ``None``: nothing can be learnt.
        wanted: The parameters.
        others: All that a backward pass may give a gradient to.
    """
    loss = make_loss() if wanted else None
    if loss is None:
        return [None] * len(wanted)
    grads: list[Tensor | None] = [*torch.autograd.grad(loss, wanted, allow_unused=True)]
    leaves = list({id(p): p for p in (*wanted, *others)}.values())
    # whoever steps in the backward pass must not step now
    if all(grad is not None for grad in grads) or any(map(_acts_on_gradients, leaves)):
        return grads
    loss = make_loss()
    assert loss is not None
    kept = [parameter.grad for parameter in leaves]
    try:
        for parameter in leaves:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in wanted]
    finally:
        for parameter, grad in zip(leaves, kept, strict=True):
            parameter.grad = grad


def _acts_on_gradients(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))
