"""Gradients for a look: of chosen parameters, without leaving any behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from stagegraph.actions.sharding.tensors import any_shard, whole

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
    if any_shard(wanted):
        return _of_shards(make_loss, wanted, others)
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


def _of_shards(
    make_loss: Callable[[], Tensor | None],
    wanted: Sequence[nn.Parameter],
    others: Iterable[nn.Parameter],
) -> list[Tensor | None]:
    """The same for parameters that are sharded over ranks; all ranks must ask.

    A shard is no part of the graph: it gets its gradient when a backward pass has been reduced over
    the ranks. Whoever steps in that pass is set aside for its time.

    Returns:
        The whole gradients.
    """
    leaves = list({id(p): p for p in (*wanted, *others)}.values())
    kept = [(p, p.grad, getattr(p, "_post_accumulate_grad_hooks", None)) for p in leaves]
    acting = [(hooks, dict(hooks)) for _, _, hooks in kept if hooks]
    try:
        for parameter in leaves:
            parameter.grad = None
        for hooks, _ in acting:
            hooks.clear()
        loss = make_loss()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        return [None if p.grad is None else whole(p.grad) for p in wanted]
    finally:
        for parameter, grad, _ in kept:
            parameter.grad = grad
        for hooks, before in acting:
            hooks.update(before)


def _acts_on_gradients(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))
