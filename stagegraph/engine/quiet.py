"""Quiet: updates after which nothing is due, counted in one place that is small and near at hand.

Most updates are like the one before and change nothing but counts. Between two of them a model was
trained, and nothing of ours is in the processor's caches any more: what an update costs is less
what is computed than how many things are touched. So all that such an update needs is here, and
the meter takes it in when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

__all__ = ["Quiet"]


class Quiet:
    """So many updates that may be counted here, most of them like the last.

    Args:
        mail: Where mail from outside arrives; an update that finds some is not quiet.
        clock: Monotonic seconds, if any.

    Attributes:
        left: How many more updates may be counted here.
        armed: How many there were when what was counted was last taken in.
        samples: Samples of the last that was not counted here, and of most of these.
        tokens: The same in tokens.
        more_samples: Samples beyond that, of those that were counted and not taken in.
        more_tokens: The same in tokens.
        spare_samples: So many samples more they may have together before something may be due.
        spare_tokens: The same in tokens.
        at: Where the host is in its data once the update of the batch in hand is over, in units of
            which a pass has :attr:`of`.
        of: So many; 0: nobody says where the host is.
        was: Where it was after the last update that was counted; -1: not known in this unit. What
            is :attr:`at` besides is announced for the update to come.
        until: From here on in the data something may be due.
        rings: From this reading of the clock on something may be due; ``None``: it is not asked.
        shows: Whether anybody is shown the loss; else it is not looked at here.
        loss: The training loss of the last update, as it was given, but for its graph; ``None`` if
            nobody was shown it.
        kind: The type of tensors that may be a loss, as :meth:`counts` has no time to look closer.
        dtype: Their dtype.
    """

    __slots__ = (
        *("_clock", "_mail", "armed", "at", "dtype", "kind", "left", "loss", "more_samples"),
        *("more_tokens", "of", "rings", "samples", "shows", "spare_samples", "spare_tokens"),
        *("tokens", "until", "was"),
    )

    def __init__(self, mail: Sized, clock: Callable[[], float] | None) -> None:
        self.left = self.armed = self.samples = self.tokens = self.at = self.of = self.was = 0
        self.more_samples = self.more_tokens = 0
        self.until = self.spare_samples = self.spare_tokens = 0.0
        self.rings: float | None = None
        self.shows = True
        self.loss: Any = None
        self.kind: Any = None
        self.dtype: Any = None
        self._mail, self._clock = mail, clock

    @property
    def count(self) -> int:
        """How many were counted that nobody has taken in."""
        return self.armed - self.left

    def counts(self, loss: Any, samples: int, tokens: int) -> bool:
        """Count an update, if it is sure that nothing is due after it.

        Args:
            loss: As for :meth:`Core.step`.
            samples: Samples in it, over all ranks.
            tokens: Tokens in it, over all ranks.

        Returns:
            Whether it was counted; if not, nothing was, and :meth:`Core.step` does what is to be
            done.
        """
        if (
            not self.left
            or not self.was <= self.at < self.until
            or self._mail
            or (self.rings is not None and self._rings())
        ):
            return False
        if not self.shows:
            loss = None
        elif loss is None:
            loss = self.loss
        elif type(loss) is self.kind:
            if loss.dtype is not self.dtype or loss.ndim:
                return False
            if loss.requires_grad:
                loss = loss.data
        elif type(loss) is not float:
            return False
        # Not the same objects: another number, or one that is to be looked at.
        if samples is not self.samples or tokens is not self.tokens:
            if not self.holds(samples, tokens):
                return False
            more, many = samples - self.samples, tokens - self.tokens
            self.more_samples, self.more_tokens = self.more_samples + more, self.more_tokens + many
            self.spare_samples -= more
            self.spare_tokens -= many
        self.loss, self.was = loss, self.at
        self.left -= 1
        return True

    def holds(self, samples: int, tokens: int) -> bool:
        """Whether an update that takes so much may be counted here, if one like the last may be."""
        return (
            type(samples) is int
            and type(tokens) is int
            and 0 <= samples <= self.samples + self.spare_samples
            and 0 <= tokens <= self.tokens + self.spare_tokens
        )

    def rest(self) -> None:
        """Count no more here; what was counted is taken in already."""
        self.left = self.armed = 0

    def _rings(self) -> bool:
        return self._clock is not None and self._clock() >= self.rings  # type: ignore[operator]
