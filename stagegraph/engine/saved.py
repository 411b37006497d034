"""Saved: what an engine's state dict holds, read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stagegraph.engine.replay import Outside
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError
from stagegraph.progress import read_fraction

__all__ = ["Saved"]


@dataclass(frozen=True, slots=True)
class Saved:
    """The state of an engine.

    Attributes:
        state: The pure part, as JSON data.
        actor: What the actor remembers, as JSON data.
        undecided: Whether a boundary waits for an evaluation.
        reading: The host's reading of the passes.
        outside: What was still to come out of a journal.
    """

    state: Mapping[str, Any]
    actor: Mapping[str, Any]
    undecided: bool
    reading: Fraction
    outside: Outside

    @classmethod
    def read(cls, data: Mapping[str, Any], *, seed: int) -> Saved:
        """Read what a state dict holds.

        Args:
            data: The state dict.
            seed: The engine's seed.

        Raises:
            SnapshotError: It is none, or of a run with another seed.
        """
        try:
            saved = cls(
                data["engine"],
                data["actor"],
                bool(data["undecided"]),
                read_fraction(data["reading"]),
                Outside.from_json(data["replay"]) if "replay" in data else Outside(),
            )
        except DAMAGE as error:
            raise SnapshotError(f"this is no saved state of an engine: {error!r}") from error
        began = data.get("seed", seed)  # states of earlier versions do not tell
        if began != seed:
            raise SnapshotError(
                f"the run began with seed={began}, and this engine has seed={seed}; give it the "
                "run's"
            )
        return saved
