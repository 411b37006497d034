"""Ledger: what a backend holds already, so that a resumed run writes nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["Entry", "Ledger"]

Entry = tuple[str, int, float | str]
"""Under which name, at which boundary, and what."""


class Ledger:
    """What is there and has not been told again yet.

    A run that goes on tells again what came after its checkpoint. What a backend got before the
    crash is not written a second time; what it did not get, or got otherwise, is.

    Args:
        present: What is there.
    """

    def __init__(self, present: Iterable[Entry] = ()) -> None:
        self._present = Counter(present)

    def lacks(self, name: str, boundary: int, value: float | str) -> bool:
        """Whether it is to be written; if not, one that is there is taken for it."""
        entry = (name, boundary, value)
        if self._present[entry] > 0:
            self._present[entry] -= 1
            return False
        return True
