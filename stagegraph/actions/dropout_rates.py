"""Dropout rates: numbers that torch's own modules take only between 0 and 1.

Their constructors check that, and nobody checks what is written later: ``forward`` raises then,
in the middle of the run.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from stagegraph.actions.growth.attributes import Attribute
from stagegraph.errors import UnsupportedError

__all__ = ["refuse_no_rate"]

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_INSIDE = (nn.MultiheadAttention, nn.RNNBase)
"""Modules with a dropout inside, the rate of which they keep as ``dropout``."""


def refuse_no_rate(attribute: Attribute, numbers: Iterable[float], *, place: str) -> None:
    """Refuse what no dropout of torch takes as its rate.

    Args:
        attribute: The attribute that is to hold a number.
        numbers: Every number that it is to hold; of a ramp both ends.
        place: Where that is written.

    Raises:
        UnsupportedError: The attribute is a rate, and one of the numbers is none.
    """
    if not _is_rate(attribute):
        return
    for number in numbers:
        if not 0 <= number <= 1:
            raise UnsupportedError(
                f"{place}: {attribute.path!r} would be {number:g}, and a "
                f"{type(attribute.owner).__name__} takes a rate between 0 and 1; give one"
            )


def _is_rate(attribute: Attribute) -> bool:
    return (isinstance(attribute.owner, _DROPOUTS) and attribute.name == "p") or (
        isinstance(attribute.owner, _INSIDE) and attribute.name == "dropout"
    )
