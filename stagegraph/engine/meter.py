"""Meter: what is counted between two looks.

Updates, samples, tokens, operations and seconds are added up. Passes over the data are read like a
meter: the host tells how far it is, and the differences count. Updates like the last one are
counted elsewhere, and taken in when somebody looks: see :class:`Quiet`.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stagegraph.engine.quiet import Quiet
from stagegraph.errors import MissingFact, ProgressError
from stagegraph.progress import Progress, Unit

__all__ = ["LEAP_FACTOR", "LEAP_SECONDS", "MOST", "Jump", "Meter", "Passes", "exact_passes"]

Passes = Fraction | float | tuple[int, int]
"""Passes over the data; a pair is so many batches, of which a pass has so many."""

MOST = 10**18
"""More than one update, or all passes, can be; sums of it stay far from what a float can hold."""

MOST_FLOPS = 10**26
"""The same for operations."""

LEAP_SECONDS, LEAP_FACTOR = 60.0, 10.0
"""Updates that took so long, and so many times as long as usual, are a leap of the clock."""

_ROUNDING = 1e-15
"""More than a sum of two numbers is rounded by, for each of them."""

_EARLY, _EARLY_SECONDS = 1 - 1e-12, 1e-6
"""What is multiplied by the one, less the other, is too small by more than it is rounded by."""

_PACES, _LEAST_PACES = 9, 3
_COUNTED = (
    *("uncounted", "counted", "_samples", "_tokens", "_flops", "_seconds", "_seen", "_told"),
    *("_coming", "_counted_to", "_shift"),
)


@dataclass(frozen=True, slots=True)
class Jump:
    """A leap of the clock.

    Attributes:
        seconds: What has passed.
        updates: With how many updates.
        usual: What so many usually take, in seconds.
    """

    seconds: float
    updates: int
    usual: float


class Meter:
    """Counters since the last look.

    Args:
        facts: What the graph reads, among ``epochs samples tokens flops``; each must be counted.
        clock: Monotonic seconds; ``None``: seconds are told with each step.
        quiet: Where updates like the last one are counted.

    Attributes:
        quiet: The same.
        counted: Updates since the last look that are not counted there.
        uncounted: What the graph reads and nobody has counted yet.
        waits: Whether a reading other than of updates is waited for, by :meth:`wait`.
        late: Whether what is counted now comes after its boundary was decided.
    """

    def __init__(
        self, facts: frozenset[str], clock: Callable[[], float] | None, quiet: Quiet
    ) -> None:
        self.quiet = quiet
        self.uncounted = facts
        self.late = self.waits = self._timed = False
        self._clock = clock
        self._replay: deque[tuple[int, int, float]] = deque()
        self._boundary = 0
        self.counted = self._samples = self._tokens = self._flops = 0
        self._seconds = 0.0
        self._seen: Fraction | tuple[int, int] = Fraction(0)
        self._told = self._shift = 0.0
        self._coming: Fraction | tuple[int, int] | None = None
        self._counted_to = Fraction(0)
        self._began = Progress()
        self._epoch_at = self._samples_at = self._tokens_at = self._seconds_at = math.inf
        self._told_at = self._samples_left = self._tokens_left = math.inf
        self._read_at = self._now()
        self._paces: deque[float] = deque(maxlen=_PACES)

    @property
    def updates(self) -> int:
        """Updates since the last look."""
        return self.counted + self.quiet.count

    @property
    def reading(self) -> Fraction:
        """The host's last reading of the passes; a rollback does not take it back."""
        quiet = self.quiet
        if quiet.count and quiet.of:
            return Fraction(quiet.was, quiet.of)
        if isinstance(self._seen, tuple):
            self._seen = Fraction(*self._seen)
        return self._seen

    @property
    def coming(self) -> Fraction | tuple[int, int] | None:
        """The reading that holds once the update of the batch in hand is over, if it is told."""
        quiet = self.quiet
        if self._coming is None and quiet.of and quiet.at != quiet.was:
            return quiet.at, quiet.of
        return self._coming

    @coming.setter
    def coming(self, reading: Fraction | tuple[int, int] | None) -> None:
        self._coming, self.quiet.at = reading, self.quiet.was
        if reading is not None:
            self.rest()

    def announce(self, at: int, of: int) -> None:
        """The host is there in its data once the update of the batch in hand is over.

        From here on it may write ``quiet.at`` itself, with each batch, as long as ``quiet.of`` is
        still its own.

        Args:
            at: Where, in a unit of the host's.
            of: How many of them a pass has.
        """
        self._coming = None
        if of != self.quiet.of:
            self.rest()
            self.quiet.of, self.quiet.was = of, -1
        self.quiet.at = at

    # Quiet updates

    def arm(self, most: float, samples: int, tokens: int) -> None:
        """So many updates like the last one may be quiet, or fewer, if something is due before.

        Args:
            most: So many; infinity: any number.
            samples: Samples of the last one.
            tokens: Tokens of the last one.
        """
        quiet = self.quiet
        quiet.rest()
        if self.uncounted or self._replay or self._told >= self._told_at:
            return
        if quiet.of and (quiet.of > MOST or quiet.was / quiet.of != self._told):
            return  # passes were told in another way
        room, space = self._samples_left - self._samples, self._tokens_left - self._tokens
        if samples:
            most = min(most, room / samples)
        if tokens:
            most = min(most, space / tokens)
        most = max(0, math.ceil(min(most, MOST) * _EARLY) - 1)
        quiet.samples, quiet.tokens = samples, tokens
        quiet.spare_samples = room * _EARLY - most * samples - 1
        quiet.spare_tokens = space * _EARLY - most * tokens - 1
        quiet.until = self._told_at * max(quiet.of, 1) * _EARLY
        quiet.rings = None
        if self._timed:
            left = self._seconds_at - self._began.seconds - self._seconds
            quiet.rings = self._read_at + left * _EARLY - _EARLY_SECONDS
        quiet.left = quiet.armed = most

    def rest(self) -> None:
        """Take in what quiet updates have counted; there are no more of them, until :meth:`arm`."""
        self._gather()
        self.quiet.rest()

    def _gather(self) -> None:
        quiet = self.quiet
        count, seen, told = quiet.count, self._seen, self._told
        if not count:
            return
        if quiet.of:
            seen, told = (quiet.was, quiet.of), quiet.was / quiet.of
        # At one instant: nothing is called here, so that no interrupt comes between.
        self._seen, self._told = seen, told
        self.counted += count
        self._samples += count * quiet.samples + quiet.more_samples
        self._tokens += count * quiet.tokens + quiet.more_tokens
        quiet.armed = quiet.left
        quiet.more_samples = quiet.more_tokens = 0

    def mark(self) -> tuple[Any, ...]:
        """All that an update counts, to go back to with :meth:`undo` if it is refused."""
        self.rest()
        counted = tuple(getattr(self, name) for name in _COUNTED)
        return self.quiet.at, self.quiet.was, counted

    def undo(self, mark: tuple[Any, ...]) -> None:
        """Count as if the update since the mark had not been."""
        self.quiet.rest()
        self.quiet.at, self.quiet.was, counted = mark
        for name, value in zip(_COUNTED, counted, strict=True):
            setattr(self, name, value)

    def checked(
        self, samples: int, tokens: int, flops: int, seconds: float
    ) -> tuple[int, int, int]:
        """What an update took, in whole numbers; nothing is counted.

        Raises:
            ProgressError: An amount is negative.
        """
        if type(samples) is not int:
            samples = _whole("samples", samples)
        if type(tokens) is not int:
            tokens = _whole("tokens", tokens)
        if type(flops) is not int:
            flops = _whole("flops", flops)
        if seconds and self._clock is not None:
            raise ProgressError("seconds= is for simulations; this engine has a clock of its own")
        if max(abs(samples), abs(tokens)) > MOST or seconds > MOST or abs(flops) > MOST_FLOPS:
            raise ProgressError(
                f"one update takes at most {MOST:.0e} samples, tokens or seconds, and "
                f"{MOST_FLOPS:.0e} flops"
            )
        if samples < 0 or tokens < 0 or flops < 0 or not 0 <= seconds < math.inf:
            raise ProgressError(
                "progress goes backwards: "
                f"step(samples={samples}, tokens={tokens}, flops={flops}, seconds={seconds})"
            )
        return samples, tokens, flops

    def take(
        self, samples: int, tokens: int, flops: int, seconds: float, epoch: Passes | None
    ) -> None:
        """Count an update and what it took, as :meth:`checked` gave it.

        Args:
            samples: Samples.
            tokens: Tokens.
            flops: Operations.
            seconds: Seconds.
            epoch: The passes as told; ``None``: as the batch in hand had announced, if it had.

        Raises:
            ProgressError: As for :meth:`passed`; nothing is counted then.
        """
        reading = self.coming if epoch is None else epoch
        if reading is None:
            self.rest()
        else:
            self.passed(reading)
        if epoch is not None:
            self.quiet.at = -1  # it is not known where that is in the unit of the batches
        self._coming, self.quiet.was = None, self.quiet.at
        self.counted += 1
        self._samples += samples
        self._tokens += tokens
        self._flops += flops
        self._seconds += seconds

    def passed(self, epoch: Passes) -> None:
        """So many passes over the data are over, with the fraction of the running one.

        After a rollback the host may go on from its last reading, or from the clock that was
        restored.

        Raises:
            ProgressError: They go backwards, or are no number of passes.
        """
        self.rest()
        reading: Fraction | tuple[int, int]
        if isinstance(epoch, tuple) and _is_pair(epoch):
            reading, now = epoch, epoch[0] / epoch[1]  # a fraction only when somebody looks
        else:
            reading = exact_passes(epoch)
            now = reading.numerator / reading.denominator
        if now <= self._told and exact_passes(reading) < self.reading:
            if exact_passes(reading) < self._began.epoch:
                raise ProgressError(f"epoch goes backwards: {now:g} after {float(self.reading):g}")
            self._counted_to = self._began.epoch
            self._shift = 0.0
            self.stand(self._began)
        if self.uncounted:
            self.counts("epochs")
        self._seen, self._told = reading, now

    def counts(self, fact: str) -> None:
        """Somebody counts a fact, though it may stay at zero for a while."""
        self.uncounted -= {fact}

    def read_by(self, unit: Unit) -> None:
        """Somebody beside the graph reads this unit; it must be counted too."""
        if unit in (Unit.EPOCHS, Unit.SAMPLES, Unit.TOKENS):
            self.uncounted |= {unit.value}

    def since_look(self) -> Progress:
        """What was added since the last look."""
        return self.added(self._now())

    def take_stock(self, updates: int, now: float) -> None:
        """Count anew, from a look on.

        Args:
            updates: How many updates there were since the last one.
            now: The wall clock at this one, as :meth:`watch` gave it.
        """
        self._boundary += updates
        while self._replay and self._replay[0][:2] <= (self._boundary, self.late):
            self._replay.popleft()
        self._reset(now)

    def jump(self, added: Progress) -> Jump | None:
        """Whether time has made a leap, such as over a night in which the machine slept.

        It is told and not taken back: the time has passed, and a budget of wall time pays for it.
        Time spent on an evaluation that was asked for comes with no update and is no leap.

        Args:
            added: What was added since the last look.
        """
        if self._clock is None or not added.step:
            return None
        pace, paces = added.seconds / added.step, sorted(self._paces)
        self._paces.append(pace)
        if len(paces) < _LEAST_PACES:
            return None
        usual = paces[len(paces) // 2]
        if added.seconds < LEAP_SECONDS or pace <= LEAP_FACTOR * usual:
            return None
        return Jump(added.seconds, added.step, usual * added.step)

    def added(self, now: float) -> Progress:
        """What was added since the last look, by a reading of the wall clock."""
        quiet, updates, passed = self.quiet, self.updates, self.reading - self._counted_to
        samples = self._samples + quiet.count * quiet.samples + quiet.more_samples
        tokens = self._tokens + quiet.count * quiet.tokens + quiet.more_tokens
        return Progress(updates, passed, samples, tokens, self._elapsed(now, updates), self._flops)

    def wait(self, looks: Mapping[Unit, float]) -> None:
        """Wait for one of these readings of the clock; those of updates are the core's."""
        self._epoch_at = looks.get(Unit.EPOCHS, math.inf)
        self._samples_at = looks.get(Unit.SAMPLES, math.inf)
        self._tokens_at = looks.get(Unit.TOKENS, math.inf)
        self._seconds_at = looks.get(Unit.SECONDS, math.inf)
        self.waits, self._timed = bool(looks), Unit.SECONDS in looks
        self.stand(self._began)

    def due(self) -> bool:
        """Whether one of the readings that are waited for is reached.

        Raises:
            MissingFact: As for :meth:`require`.
        """
        if self.uncounted:
            self.require()
        return (
            self._told + self._shift >= self._epoch_at
            or self._samples >= self._samples_left
            or self._tokens >= self._tokens_left
            or (
                self._timed
                and self._began.seconds + self._elapsed(self._now(), 0) >= self._seconds_at
            )
        )

    def reaches(
        self,
        looks: Mapping[Unit, float],
        clock: Progress,
        samples: int,
        tokens: int,
        epoch: Passes | None,
    ) -> bool:
        """Whether one more update may reach one of these readings; a little early does no harm.

        Args:
            looks: Readings of the clock, other than of updates.
            clock: The clock at the last look.
            samples: Samples of this update.
            tokens: Tokens of this update.
            epoch: Passes after it.
        """
        self._gather()
        for unit, at in looks.items():
            now: float
            if unit is Unit.EPOCHS:
                now = self._told + self._shift
                if epoch is not None:
                    given = epoch[0] / epoch[1] if isinstance(epoch, tuple) else float(epoch)
                    now = given + self._shift
            elif unit is Unit.SAMPLES:
                now = clock.samples + self._samples + samples
            elif unit is Unit.TOKENS:
                now = clock.tokens + self._tokens + tokens
            else:
                now = clock.seconds + self._elapsed(self._now(), self.counted + 1)
            if now >= at:
                return True
        return False

    def require(self) -> None:
        """Refuse to wait for something that nobody counts.

        Raises:
            MissingFact: Something the graph reads is still at zero; it says how to give it.
        """
        if not self.uncounted or not self.updates:
            return
        progress = self._began + self.since_look()
        missing = sorted(
            fact
            for fact in self.uncounted
            if not (progress.flops if fact == "flops" else progress.of(Unit(fact)))
        )
        if missing:
            how = {"epochs": "epoch= (or loop over engine.epochs(loader))"}
            arguments = ", ".join(how.get(fact, f"{fact}=") for fact in missing)
            raise MissingFact(f"the graph reads {', '.join(missing)}; give step({arguments})")
        self.uncounted = frozenset()

    def restart(self) -> None:
        """Count from here on; what was counted since the last look is dropped."""
        self._reset(self._now())

    def _reset(self, now: float) -> None:
        self.rest()
        self.counted = self._samples = self._tokens = self._flops = 0
        self._seconds = 0.0
        self._read_at, self._counted_to = now, self.reading

    def stand(self, clock: Progress) -> None:
        """The clock stands here at this look."""
        self._began = clock
        self._samples_left = min(MOST, self._samples_at - clock.samples)
        self._tokens_left = min(MOST, self._tokens_at - clock.tokens)
        self._told_at = self._epoch_at
        if self._shift and self._epoch_at < math.inf:  # early by what may be rounded off
            slack = _ROUNDING * (abs(self._epoch_at) + abs(self._shift))
            self._told_at -= self._shift + slack

    def align(self, clock: Progress) -> None:
        """The clock stands here; it may have gone back, and the host's reading not."""
        self._told = float(self.reading)
        self._shift = float(clock.epoch) - self._told
        self.stand(clock)

    def load(self, reading: Fraction) -> None:
        """Go on from a saved reading."""
        self._coming = None
        self.restart()
        self.quiet.at = self.quiet.was = -1
        self._seen = self._counted_to = reading

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    def _elapsed(self, now: float, updates: int) -> float:
        if self._replay:
            return self._replayed(updates)
        return self._seconds + max(0.0, now - self._read_at)

    # Wall time that does not count, and wall time that has been before

    def watch(self) -> float:
        """The wall clock, for :meth:`leave_out` and :meth:`take_stock`."""
        return self._now()

    def leave_out(self, since: float) -> None:
        """The time since then does not count."""
        self._read_at += max(0.0, self._now() - since)

    def replay(self, readings: Iterable[tuple[int, int, float]], boundary: int) -> None:
        """Read the wall clock out of a journal first; after its last reading it goes on by itself.

        Args:
            readings: A boundary, 0 or 1 for before or after it was decided, and the clock's
                seconds then; in order.
            boundary: The boundary of now.
        """
        self._replay, self._boundary = deque(readings), boundary

    def readings(self) -> tuple[tuple[int, int, float], ...]:
        """Those of a replay that are still to come."""
        return tuple(self._replay)

    def next_reading(self) -> float:
        """The boundary of the next reading of a replay; infinity if none is to come."""
        return self._replay[0][0] if self._replay else math.inf

    def _replayed(self, updates: int) -> float:
        at = (self._boundary + updates, self.late)
        began = reading = self._began.seconds
        for boundary, late, seconds in self._replay:
            if (boundary, late) > at:
                break
            reading = seconds
        passed = max(0.0, reading - began)
        while began + passed < reading:  # the clock shall show it to the last bit
            passed = math.nextafter(passed, math.inf)
        return passed


def _whole(name: str, count: object) -> int:
    """A count from a host, such as a number of NumPy's."""
    try:
        return operator.index(count)  # type: ignore[arg-type]
    except TypeError as error:
        raise ProgressError(
            f"step({name}={count!r}): {name} are counted in whole numbers, got a "
            f"{type(count).__name__}"
        ) from error


def exact_passes(epoch: Passes) -> Fraction:
    """Passes over the data as an exact number.

    Raises:
        ProgressError: They are no number of passes.
    """
    if isinstance(epoch, Fraction):
        return epoch
    try:
        if isinstance(epoch, tuple) and _is_pair(epoch):
            return Fraction(*epoch)
        if isinstance(epoch, str):
            raise TypeError("text is not read as a number")
        exact = Fraction(epoch).limit_denominator(10**9)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ProgressError(f"{epoch!r} is no number of passes over the data") from error
    if not 0 <= exact <= MOST:
        raise ProgressError(f"{float(exact):g} is no number of passes: it lies from 0 to {MOST:g}")
    return exact


def _is_pair(pair: tuple[Any, ...]) -> bool:
    """Whether it is batches, and of how many, in whole numbers."""
    if len(pair) != 2:
        return False
    batches, size = pair
    return type(batches) is int and type(size) is int and 0 <= batches <= MOST * size and size > 0
