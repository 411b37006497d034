"""Agreement: a boundary holds on all ranks or on none, and leaves all with one structure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagegraph.engine.ranks import Group, agreed, lead
from stagegraph.errors import ActionError, RankError

__all__ = ["Agreement", "structure_lines"]

_DIGEST_BYTES = 6
"""So many bytes are a whole number that a double holds exactly."""


class Agreement:
    """The votes of ranks that carry out one boundary.

    Args:
        group: The ranks.
    """

    def __init__(self, group: Group) -> None:
        self._group = group

    def vote(
        self,
        error: Exception | None,
        place: str,
        lines: Callable[[], Sequence[str]],
    ) -> None:
        """Go on if no rank has failed and all hold the same structure.

        Args:
            error: What this rank has failed with, or ``None``.
            place: The boundary, for errors that no action is to blame for.
            lines: Describes the structure that this rank holds now.

        Raises:
            ActionError: A rank has failed, or the ranks differ; the same on every rank.
        """
        mine = [] if error is not None else lines()
        rows = self._group.gather([float(error is not None), _digest(mine)])
        if any(failed for failed, _ in rows):
            self._raise_first(error, place)
        if len({digest for _, digest in rows}) > 1:
            raise ActionError(place, self._difference(mine))

    def _raise_first(self, error: Exception | None, place: str) -> None:
        blamed = error.action if isinstance(error, ActionError) else place
        reason = (
            error.reason if isinstance(error, ActionError) else f"{type(error).__name__}: {error}"
        )
        told = self._group.gather_data(None if error is None else [blamed, reason])
        rank, (at, text) = next((n, one) for n, one in enumerate(told) if one is not None)
        raise ActionError(at, f"rank {rank}: {text}") from error

    def _difference(self, mine: Sequence[str]) -> str:
        others = self._group.gather_data(list(mine))
        for rank, other in enumerate(others):
            for first, second in zip_longest(others[0], other, fillvalue="nothing"):
                if first != second:
                    return (
                        f"the ranks hold different structures: {first} on rank 0, and "
                        f"{second} on rank {rank}; every rank must build the same "
                        "model and optimizer, and change them by the graph alone"
                    )
        return "the ranks hold different structures"

    def confirm(self, confirm: Callable[[], None]) -> str | None:
        """Let rank 0 write what has happened, and the others follow when that has held.

        Returns:
            What has failed on another rank, though it has held on this one: nobody can go on.

        Raises:
            RankError: Rank 0 could not; it is as it was on all.
        """
        if not self._group.rank:
            try:
                confirm()
            except BaseException as error:
                self._group.share(f"{type(error).__name__}: {error}")
                raise
            self._group.share(None)
            return self._failed(None)
        told = self._group.share(None)
        if told is not None:
            raise RankError(f"rank 0: {told}")
        try:
            confirm()
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            raise
        return self._failed(None)

    def _failed(self, mine: str | None) -> str | None:
        told = enumerate(self._group.gather_data(mine))
        return next((f"rank {rank}: {text}" for rank, text in told if text is not None), None)

    def of_first(self, call: Callable[[], Any], *, by_all: bool) -> Any:
        """What a function returns on rank 0, as JSON data on every rank.

        Args:
            call: The function.
            by_all: Whether all must call it, because ranks wait for each other inside.

        Raises:
            RankError: It has failed on rank 0, or, called by all, on any.
        """
        if not by_all:
            return lead(self._group, call)
        found = agreed(self._group, call)
        return self._group.share(found)


def _digest(lines: Sequence[str]) -> float:
    found = hashlib.sha256("\n".join(lines).encode()).digest()
    return float(int.from_bytes(found[:_DIGEST_BYTES], "big"))


def structure_lines(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[str]:
    """A model's parameters and an optimizer's groups, a line each."""
    names: dict[int, str] = {}
    lines = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
        trained = "trained" if parameter.requires_grad else "not trained"
        lines.append(f"{name} {list(parameter.shape)} {parameter.dtype} {trained}")
    lines += [
        f"{name} {list(buffer.shape)} {buffer.dtype}" for name, buffer in model.named_buffers()
    ]
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            members = [
                names.get(id(one), "a parameter of another model") for one in group["params"]
            ]
            kind = type(optimizer).__name__
            lines.append(f"{kind} group {number} lr {float(group['lr'] or 0.0)!r}: {members}")
    return lines
