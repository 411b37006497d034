"""Tally: what a host's updates take, counted between the engine and a host that has its own loop.

Such a host makes an update, then logs, evaluates and saves, and only then is the boundary decided.
In between lies an update that the optimizer has made and the engine has not been told of: the
tally holds it, and a checkpoint keeps it. At most updates nothing is due; then a few integers are
added, and no fraction is made and no loss read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stagegraph.engine.core import Core
from stagegraph.engine.meter import exact_passes
from stagegraph.engine.metrics import as_number
from stagegraph.engine.quiet import Quiet
from stagegraph.progress import read_fraction

if TYPE_CHECKING:
    from stagegraph.engine.state import State
    from stagegraph.session.engine import Engine

__all__ = ["Tally"]


class Tally:
    """The updates of one host, told of one by one.

    Example::

        tally = engine.tally()
        tally.samples += 8  # with each micro-batch
        tally.loss = loss if tally.loss is None else tally.loss + loss
        follows = tally.updated((batches, batches_in_a_pass))
        ...  # the host logs into tally.metrics, evaluates if that follows, saves tally.to_json()
        tally.tell()  # the engine counts the update, and decides its boundary

    Args:
        engine: Who is told.
        core: Its core.
        follows: As :meth:`Engine.evaluation_follows`, where several ranks decide together.
        quick: Whether each update counts as it was told, on this rank alone.
    """

    def __init__(
        self,
        engine: Engine,
        core: Core,
        *,
        follows: Callable[..., bool] | None = None,
        quick: bool = False,
    ) -> None:
        self._engine, self._core = engine, core
        self._follows = core.evaluation_follows if follows is None else follows
        self.quiet = core.quiet if quick else Quiet((), None)
        """Where updates like the last one may be counted, if nothing was measured with them."""
        self.loss: Any = None
        """Its loss so far, on this rank; the host adds each micro-batch's share.

        It stays on its device.
        """
        self.samples = 0
        """Samples of the next update so far, on this rank; the host adds each micro-batch's."""
        self.tokens = 0
        """The same in tokens."""
        self._known: State | None = None
        self._passes: tuple[int, int] | None = None
        self.metrics: dict[str, Any] = {}
        """What was measured since the engine was told, by the names of declared metrics."""
        self.owes = False
        """Whether an update was made that the engine has not been told of."""
        self.asked = False
        """Whether an evaluation was said to follow it."""
        self.calm = False
        """Whether it is owed, and may be counted where :attr:`quiet` counts it."""

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._core.state.ended is not None

    @property
    def wants_evaluation(self) -> bool:
        """Whether the boundary waits for an evaluation that nobody had foretold."""
        return self._core.wants_evaluation

    def updated(self, passes: tuple[int, int] | None = None, tokens: int | None = None) -> bool:
        """The optimizer has made an update of what was learnt since the last.

        Args:
            passes: So many batches over all, of which a pass has so many; ``None``: not known.
            tokens: Tokens in it on this rank, if the host has counted them itself; of a count over
                all ranks the first has all, and the others none.

        Returns:
            Whether the graph wants an evaluation after it. An interval in seconds is known only
            when the engine has been told: see :attr:`wants_evaluation` then.
        """
        if tokens is not None:
            self.tokens = tokens
        self._passes, self.owes, quiet = passes, True, self.quiet
        if (
            quiet.left
            and passes is not None
            and passes[1] == quiet.of
            and passes[0] < quiet.until
            and (
                (self.samples == quiet.samples and self.tokens == quiet.tokens)
                or quiet.holds(self.samples, self.tokens)
            )
        ):  # nothing will be due but by the clock on the wall
            quiet.at = passes[0]
            self.asked, self.calm = False, True
            return False
        self.calm = False
        core = self._core
        if core.state is self._known and core.unabsorbed < core.foretelling.unasked:
            self.asked = False
            return False
        self.asked = self._follows(samples=self.samples, tokens=self.tokens, epoch=passes)
        self._known = core.state
        return self.asked

    def tune_ahead(self) -> None:
        """The host is about to evaluate: set ramps as telling of the owed update will set them."""
        if self.owes:
            self._core.tune_ahead(samples=self.samples, tokens=self.tokens, epoch=self._passes)

    def tell(self) -> bool:
        """Tell the engine of the update that is owed and of the metrics; a boundary is decided.

        Returns:
            Whether the run has ended, or the boundary waits for an evaluation after all.

        Raises:
            ActionError: As :meth:`Engine.step`.
            MetricError: As :meth:`Engine.step`.
        """
        core, self.calm = self._core, False
        if self.owes:
            if self._passes is None:
                core.meter.coming = None
            else:
                core.meter.announce(*self._passes)
            asked = self.asked
            given = self.metrics if not asked else {}
            state, unabsorbed = core.state, core.unabsorbed
            try:
                self._engine.step(loss=self.loss, samples=self.samples, tokens=self.tokens, **given)
            except BaseException:
                if core.state is not state or core.unabsorbed != unabsorbed:
                    self._counted(given)  # else it was refused, and is still owed
                raise
            if asked or given:
                self._counted(given)
                if asked:
                    self.observe()
            else:
                self.loss, self.samples, self.tokens, self.owes = None, 0, 0, False
        elif self.metrics:
            self.observe()
        return core.wants_evaluation or core.state.ended is not None

    def _counted(self, given: Mapping[str, Any]) -> None:
        """The engine has counted the update, and these metrics with it."""
        self.loss, self.samples, self.tokens, self.owes = None, 0, 0, False
        self.asked = False
        if given:
            self.metrics = {}

    def observe(self) -> None:
        """Tell the engine of the metrics, which an evaluation has given.

        Raises:
            ActionError: As :meth:`Engine.step`.
            MetricError: As :meth:`Engine.step`.
        """
        metrics, self.metrics = self.metrics, {}
        self._engine.observe(**metrics)

    def to_json(self) -> dict[str, Any]:
        """What the engine has not been told of, as JSON data; a loss is read from its device."""
        update = None
        if self.owes:
            update = {
                "loss": None if self.loss is None else as_number("loss", self.loss),
                "samples": self.samples,
                "tokens": self.tokens,
                "epoch": None if self._passes is None else str(exact_passes(self._passes)),
                "asked": self.asked,
            }
        metrics = {name: as_number(name, value) for name, value in self.metrics.items()}
        return {"update": update, "metrics": metrics}

    def load(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_json`."""
        self.metrics = dict(data["metrics"])
        update = data["update"]
        self.owes = update is not None
        if self.owes:
            self.loss, self.samples = update["loss"], update["samples"]
            self.tokens, epoch = update["tokens"], update["epoch"]
            self._passes = None if epoch is None else read_fraction(epoch).as_integer_ratio()
            self.asked = update["asked"]
