"""Templates: which blocks of a stack are copied, and which are of one kind.

A new block must take what it hands on. The first block of a stack often does not: that of a ResNet
stage halves the image; or it holds what the others share, as T5's position bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["copyable", "signature"]


def signature(block: nn.Module) -> tuple[Any, ...]:
    """What a block is made of: its parameters' names and shapes, and its modules' classes."""
    return (
        tuple((name, tuple(p.shape)) for name, p in block.named_parameters()),
        tuple((name, type(module)) for name, module in block.named_modules()),
    )


def copyable(blocks: Sequence[nn.Module]) -> tuple[bool, ...]:
    """Which blocks of a stack may be copied: all but a first one with tensors that no other has.

    Returns:
        One answer per block.
    """
    tensors = [signature(block)[0] for block in blocks]
    alone = len(blocks) > 1 and tensors[0] not in tensors[1:]
    return (not alone, *[True] * (len(blocks) - 1))
