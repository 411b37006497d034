"""Desk: where mail from outside lies until a boundary takes it, and who is asked about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from stagegraph.engine.commands import Message
from stagegraph.engine.ranks import Parted
from stagegraph.engine.replay import Coming
from stagegraph.engine.taking import Verdict
from stagegraph.errors import StageGraphError

__all__ = ["Desk"]

_NUDGE = Message("", "event", "")
"""No mail, but a wish that the next boundary be looked at."""


class Desk:
    """The mail of one engine.

    Attributes:
        mail: What was sent from outside. The next boundary takes it.
        arrived: Where another thread puts what has come: into ``mail``, unless the ranks of a run
            must be told of it first.
        coming: What comes again, out of a journal.
        answer: Called with what became of each message, once the journal tells of it.
        checkpoint: Called when a checkpoint is wanted, at a boundary that has been decided. It
            keeps all that is needed to go on from there and returns, in a few words, where; it
            raises ``StageGraphError`` or ``OSError`` if it could not. ``None``: nobody keeps any.
        idle: Called over and over while the run is paused: it waits a little, and fills ``mail``.
            ``None``: nobody could continue a paused run, so it cannot be paused.
        nudged: Called when somebody nudges a paused run.
    """

    def __init__(self) -> None:
        self.mail: deque[Message] = deque()
        self.arrived = self.mail
        self.coming = Coming()
        self.answer: Callable[[Verdict], None] | None = None
        self.checkpoint: Callable[[], str] | None = None
        self.idle: Callable[[], None] | None = None
        self.nudged: Callable[[], None] | None = None

    @property
    def able(self) -> tuple[str, ...]:
        """The commands that somebody must carry out, and can."""
        hooks = {"pause": self.idle, "checkpoint": self.checkpoint}
        return tuple(name for name, hook in hooks.items() if hook is not None)

    def waits(self, boundary: int) -> bool:
        """Whether there is mail for a boundary."""
        return bool(self.mail) or self.coming.next <= boundary

    def take(self, boundary: int) -> list[Message]:
        """The mail of a boundary: what comes out of a journal, then what has just come."""
        messages = self.coming.take(boundary)
        while self.mail:
            messages.append(self.mail.popleft())
        return [message for message in messages if message is not _NUDGE]

    def nudge(self) -> None:
        """Have the next boundary looked at, whatever is due; from a signal or another thread."""
        self.mail.append(_NUDGE)

    def next_while_paused(self) -> Message | None:
        """The next message, or ``None`` if it was but a nudge."""
        message = self.mail.popleft()
        if message is not _NUDGE:
            return message
        if self.nudged is not None:
            self.nudged()
        return None

    def put_back(self, boundary: int, messages: Sequence[Message]) -> None:
        """A boundary did not hold: its mail is taken next, before all other."""
        self.mail.extendleft(m for m in reversed(messages) if not m.replayed)
        self.coming.put_back(boundary, [m for m in messages if m.replayed])

    def tell(self, verdicts: Iterable[Verdict]) -> None:
        """Answer; who sent what comes out of a journal has had an answer."""
        if self.answer is not None:
            for verdict in verdicts:
                if not verdict.message.replayed:
                    self.answer(verdict)

    def keep(self, message: Message) -> Verdict:
        """Keep a checkpoint, and say where."""
        if self.checkpoint is None:
            return Verdict(message, "refused", "this engine keeps no checkpoints")
        try:
            return Verdict(message, "taken", self.checkpoint())
        except Parted:
            raise
        except (StageGraphError, OSError) as error:
            return Verdict(message, "refused", f"no checkpoint was kept: {error}")
