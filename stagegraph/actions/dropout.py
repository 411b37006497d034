"""Without dropout: run a model in train mode as if every dropout let everything through.

A growth in width draws masks of other shapes, so that no two runs in train mode can agree; without
dropout they can, and all else that differs in train mode (batch statistics, say) is still seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutDropout"]

_DROPOUTS = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.dropout_,
        torch.alpha_dropout,
        torch.alpha_dropout_,
        torch.feature_dropout,
        torch.feature_dropout_,
        torch.feature_alpha_dropout,
        torch.feature_alpha_dropout_,
    }
)
_RATE_PLACE = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}
"""What has a dropout inside, and where its rate stands among positional arguments."""


class WithoutDropout(TorchFunctionMode):
    """While it is active, dropouts return their input; recurrent layers keep theirs.

    >>> with WithoutDropout():
    ...     float(F.dropout(torch.ones(1000)).sum())
    1000.0
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let a function run, without its dropout."""
        given = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else given["input"]
        if func in _RATE_PLACE:
            place = _RATE_PLACE[func]
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            elif "dropout_p" in given:
                given["dropout_p"] = 0.0
        return func(*args, **given)
