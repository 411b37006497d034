"""The engine in a loop around an accelerator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.optimizing.updates import Updates
from stagegraph.engine.meter import Passes
from stagegraph.engine.simulate import runnable
from stagegraph.engine.state import DAMAGE
from stagegraph.engine.weakly import weakly
from stagegraph.errors import SnapshotError, StageGraphError
from stagegraph.runs.lines import read_raw
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.engine import Engine
from stagegraph.session.hosted import Hosted
from stagegraph.session.passes import Position
from stagegraph.trainers.accelerate import keeping
from stagegraph.trainers.accelerate.micro import Micro
from stagegraph.trainers.accelerate.position import PreparedPosition
from stagegraph.trainers.accelerate.precision import measured_on
from stagegraph.trainers.accelerate.refusals import refuse
from stagegraph.trainers.figures import figures

__all__ = ["AcceleratedEngine"]


class AcceleratedEngine(Engine):
    """An engine in a loop around an accelerator.

    As :class:`stagegraph.Engine`, but :meth:`step` may be called after every micro-batch: an update
    is what the prepared optimizer has really made of them. Growth is measured without the
    accelerator's autocast.

    Args:
        graph: The graph, without errors.
        accelerator: The accelerator, with everything prepared.
        model: The model, as ``accelerator.prepare`` gave it; it stays the same object.
        optimizer: Its optimizer, or several, as prepared.
        scheduler: Its LR scheduler, or several, as prepared; needed for snapshots. It is never a
            clock: Accelerate steps it once per process.
        ema: As for :class:`stagegraph.Engine`.
        data: As for :class:`stagegraph.Engine`.
        probe: As for :class:`stagegraph.Engine`; tensors are moved to the accelerator's device.
        monitor: As for :class:`stagegraph.Engine`.
        parts: As for :class:`stagegraph.Engine`.
        run: As for :class:`stagegraph.Engine`.
        checkpoints: As for :class:`stagegraph.Engine`. ``None``: the run's folder gets none, and
            ``accelerator.save_state`` and ``load_state`` keep the engine too.
        seed: As for :class:`stagegraph.Engine`.

    Raises:
        GraphError: The graph has errors.
        MissingFact: The graph reads a fact that is not given.
        UnsupportedError: Accelerator, model and graph do not go together.
        RunFolderError: The run's folder is another process's, or cannot be written or read.
    """

    def __init__(  # noqa: PLR0913 - all that a run must know of, named once
        self,
        graph: StageGraph,
        accelerator: Accelerator,
        *,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        scheduler: object = None,
        ema: object = None,
        data: object = None,
        probe: Any = None,
        monitor: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        parts: Mapping[str, Any] | None = None,
        run: str | os.PathLike[str] | None = None,
        checkpoints: Checkpoints | None = Checkpoints(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> None:
        several = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        refuse(accelerator, runnable(graph), model, several)
        self.accelerator = accelerator
        self._kept_by_host = checkpoints is None
        self._micro = Micro()
        self._own_accumulation = accelerator.gradient_accumulation_steps
        self._warned = self._loaded = False
        self._average = ema
        if probe is not None and not callable(probe):
            probe = send_to_device(probe, accelerator.device)
        super().__init__(
            graph,
            model=accelerator.unwrap_model(model, keep_torch_compile=False),
            optimizer=[innermost(one) for one in several],
            scheduler=_inside(scheduler),
            scaler=accelerator.scaler,
            ema=ema,
            data=data,
            probe=measured_on(probe),
            monitor=monitor,
            parts=parts,
            run=run,
            checkpoints=checkpoints,
            seed=seed,
        )
        self.wrap(model)
        self._optimizers = [innermost(one) for one in several]
        self._updates = Updates(self._optimizers)
        saved, loaded = weakly(self._saved_with), weakly(self._loaded_with)
        self._hooks = (
            accelerator.register_save_state_pre_hook(saved),
            accelerator.register_load_state_pre_hook(loaded),
        )

    # The loop

    def start(self) -> None:
        """Enter the initial stages, if that has not happened yet.

        Raises:
            ActionError: One of their actions failed.
            RunFolderError: The run's folder holds a run, and nothing was resumed.
        """
        super().start()
        self._accumulate_as_told()

    def resume(self) -> bool:
        """As :meth:`Engine.resume`; with ``checkpoints=None`` to be called after ``load_state``.

        Where nothing was loaded, a run that the folder holds begins again: it was ended before its
        first ``save_state``.

        Returns:
            Whether there was something to go on from.

        Raises:
            RunFolderError: As :meth:`Engine.resume`.
            SnapshotError: As :meth:`Engine.resume`.
        """
        if not self._kept_by_host:
            return super().resume()
        record = self._record
        if not self._loaded and record is not None and record.holds_earlier:
            warnings.warn(
                f"{record.folder.path} holds a run, and no checkpoint of it was loaded: it begins "
                "again at step 0; if there is one, call accelerator.load_state(...) before "
                "engine.resume()",
                stacklevel=2,
            )
            begun = read_raw(record.folder.journal).mark(1)
            self.resume_from(Hosted(self.state_dict(), {}, begun).pack())
        self.start()
        return self._loaded

    def step(
        self,
        *,
        loss: Any = None,
        samples: int = 0,
        tokens: int = 0,
        flops: int = 0,
        epoch: Passes | None = None,
        **metrics: Any,
    ) -> None:
        """A micro-batch is over, and with it an update, if the optimizer has made one.

        Call it after every micro-batch, or after updates alone. What the gradient scaler has
        skipped is no update, and its micro-batches do not count.

        Args:
            loss: The training loss of the micro-batch, not divided; an update's is the mean.
            samples: Its training samples; of several processes each gives its own, and they are
                summed up.
            tokens: Its training tokens; likewise.
            flops: Its floating-point operations; likewise.
            epoch: Passes over the data so far; :meth:`epochs` counts them itself.
            metrics: Values of declared metrics; of the micro-batches of an update the last counts.

        Raises:
            ActionError: As :meth:`Engine.step`.
            MetricError: As :meth:`Engine.step`.
            MissingFact: As :meth:`Engine.step`.
            ProgressError: As :meth:`Engine.step`.
        """
        micro, updates = self._micro, self._updates
        if micro.num or not updates.made:  # else the update is of this micro-batch alone
            micro.add(loss, samples, tokens, flops, epoch, metrics)
            if not updates.made:
                idle, updates.idle = updates.idle, False
                self._without_update(idle=idle)
                return
            self._micro = Micro()
            loss, samples, tokens, flops = micro.loss, micro.samples, micro.tokens, micro.flops
            epoch, metrics = micro.epoch, micro.metrics
        updates.made = updates.idle = False
        # At an update the count of micro-batches begins anew; saying so makes it independent of
        # where the run was resumed, and of how many micro-batches updates took before.
        self.accelerator.step = 0
        tell = self._tell if not metrics else partial(self._tell, **metrics)
        tell(loss=loss, samples=samples, tokens=tokens, flops=flops, epoch=epoch)
        if self._knobs.grows:
            self._accumulate_as_told()

    def observe(self, /, **metrics: Any) -> None:
        """Metrics of an evaluation after the last update.

        Raises:
            ActionError: As for :meth:`step`.
            MetricError: A metric is not declared, or its value is no number.
            StageGraphError: The boundary waits for them, and the next update has begun.
        """
        if self.wants_evaluation and self._micro.num:
            raise StageGraphError(
                f"the boundary waits for this evaluation, and {self._micro.num} micro-batches of "
                "the next update were learnt from since: their gradients would be of another "
                "model; evaluate right after the engine.step() that made engine.wants_evaluation "
                "true"
            )
        super().observe(**metrics)
        self._accumulate_as_told()

    @contextmanager
    def preemptible(self) -> Iterator[None]:
        """As :meth:`Engine.preemptible`; signals do what they always do without checkpoints."""
        if self._kept_by_host:
            yield
            return
        with super().preemptible():
            yield

    def figures(self) -> dict[str, float]:
        """What trackers may show: stages by number, alphas, LR factors, parameters.

        Example::

            accelerator.log({"loss": loss.item(), **engine.figures()}, step=engine.progress.step)
        """
        groups = [group for one in self._optimizers for group in one.param_groups]
        return figures(self, self._core.graph, groups)

    def close(self) -> None:
        """Take all hooks off model and accelerator; the engine moves no more."""
        super().close()
        for hook in getattr(self, "_hooks", ()):
            hook.remove()
        if hasattr(self, "_updates"):
            self._updates.close()

    # Within

    def _make_position(self, data: object) -> Position:
        return PreparedPosition(self.accelerator, kept=data)

    def _accumulate_as_told(self) -> None:
        """As many micro-batches per update as the graph says (``accumulate: grow``)."""
        if self._knobs.grows and not self.done:
            times = self._knobs.accumulate()
            self.accelerator.gradient_accumulation_steps = self._own_accumulation * times

    def _without_update(self, *, idle: bool) -> None:
        accelerator = self.accelerator
        if not accelerator.sync_gradients:
            return
        if idle or accelerator.optimizer_step_was_skipped:
            self._micro = Micro()
        elif not self._warned and not self.done:
            self._warned = True
            warnings.warn(
                "engine.step() was called for a batch after which the optimizer has made no "
                "update, though gradients were not being accumulated; it is counted with the next "
                "update. Accumulate by Accelerator(gradient_accumulation_steps=...) and 'with "
                "accelerator.accumulate(model)'",
                stacklevel=3,
            )

    def _saved_with(self, models: Any, weights: Any, folder: str | os.PathLike[str]) -> None:
        """``save_state`` is about to write."""
        self._refuse_if_closed()
        self._refuse_between()
        if self._average is not None and not self._is_registered(self._average):
            warnings.warn(
                "the averaged weights (ema=) are in no checkpoint of the accelerator's, and a run "
                "that is resumed averages anew; call "
                "accelerator.register_for_checkpointing(ema) before the first save_state",
                stacklevel=4,
            )
            self._average = None  # told once
        state = {"engine": self.host_state(), "position": self._position.state()}
        if self._own_data is not None:
            state["data"] = self._own_data.state_dict()
        keeping.write(Path(folder), state, self.accelerator)

    @property
    def _own_data(self) -> Any:
        """``data=``, where its position is ours to keep, as accelerate knows nothing of it."""
        return None if self._is_registered(self._data) else self._data

    def _is_registered(self, kept: object) -> bool:
        registered = self.accelerator._custom_objects  # noqa: SLF001 - accelerate says it nowhere
        return any(one is kept for one in registered)

    def _refuse_between(self) -> None:
        """Refuse a checkpoint from which nobody could go on as it was.

        Raises:
            StageGraphError: It would be one.
        """
        why = None
        if self._updates.made:
            why = "an update was made that engine.step() was not told of yet"
        elif self._micro.num or not self.accelerator.sync_gradients:
            why = "gradients are being accumulated, which no checkpoint holds"
        elif self.wants_evaluation:
            why = "the boundary still waits for engine.observe(...)"
        if why is not None:
            raise StageGraphError(
                f"accelerator.save_state() comes too early: {why}, and a run resumed from there "
                "would not be the same; save after engine.step() and engine.observe(), when "
                "accelerator.sync_gradients is true"
            )

    def _loaded_with(self, models: Any, folder: str | os.PathLike[str]) -> None:
        """``load_state`` is about to load: structure first."""
        self._refuse_if_closed()
        if not self._kept_by_host:
            raise StageGraphError(
                "this engine keeps its own checkpoints in the run's folder, and they are what "
                "counts: call engine.resume(), or give AcceleratedEngine(checkpoints=None) to go "
                "on with accelerator.load_state(...)"
            )
        checkpoint = Path(folder)
        state = keeping.read(checkpoint, self.accelerator)
        try:
            engine, position = state["engine"], state["position"]
        except DAMAGE as error:
            raise SnapshotError(f"{checkpoint} cannot be read: {error!r}") from error
        if ("data" in state) != (self._own_data is not None):  # before anything has changed
            told, given = ("tells", "not") if "data" in state else ("does not tell", "one that is")
            raise SnapshotError(
                f"{checkpoint} {told} where data= stands, and this engine's data= is {given} kept "
                "there; give the engine the same data=, registered for checkpointing or not, as "
                "the one that has saved it"
            )
        self.resume_from(engine)
        self._position.load(position)
        if self._own_data is not None:
            self._own_data.load_state_dict(state["data"])
        self._loaded = True
        configuration = self.accelerator.project_configuration
        number = keeping.number_of(checkpoint)
        if configuration.automatic_checkpoint_naming and number is not None:
            # Accelerate would begin at 0 again, and refuse the name that is taken.
            configuration.iteration = number + 1


def _inside(scheduler: object) -> object:
    """The schedulers that prepared ones hold."""
    if isinstance(scheduler, list | tuple):
        return [_inside(one) for one in scheduler]
    return getattr(scheduler, "scheduler", scheduler)
