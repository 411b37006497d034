"""The callback: hears the Trainer's events and tells the engine; the engine decides.

A boundary is decided when all that Lightning does after an update is done, at the latest with the
next batch in hand and before it is learnt from: it has validated, ended the pass, stepped every
scheduler, saved. So a checkpoint holds the model that was validated, and beside it the update that
the engine had not been told of; a run that is resumed from it decides that boundary as it was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from stagegraph.actions.randomness import RandomState
from stagegraph.engine.simulate import runnable
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import MetricError, RunFolderError, SnapshotError, StageGraphError
from stagegraph.graph.needs import needs
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.engine import Engine
from stagegraph.session.tally import Tally
from stagegraph.trainers.evaluated import require_evaluated
from stagegraph.trainers.figures import figures
from stagegraph.trainers.lightning import loops
from stagegraph.trainers.lightning.counting import Amounts, Counter
from stagegraph.trainers.lightning.loops import Place
from stagegraph.trainers.lightning.refusals import averaging, refuse, refuse_made
from stagegraph.trainers.lightning.strategy import KEY, stage

__all__ = ["StagegraphCallback", "engine_of"]


class StagegraphCallback(Callback):
    """A stage graph in a Lightning Trainer: give it among the Trainer's ``callbacks``.

    The engine is made when ``fit`` has set up the model, of the LightningModule itself, its
    optimizers and schedulers, the precision plugin's gradient scaler and a ``WeightAveraging``
    callback's average.

    Args:
        graph: The graph, without errors.
        run: A folder for the run's graph, journal and report. Its checkpoints are the Trainer's;
            this folder has none.
        probe: As for :class:`stagegraph.Engine`, for the LightningModule's ``forward``; tensors are
            moved to its device.
        monitor: As for :class:`stagegraph.Engine`.
        parts: As for :class:`stagegraph.Engine`.
        count: A function of a batch that returns how many samples and tokens it has, where that is
            not the length of its first tensor and, for integers, how many they are.
        exact: Whether to refuse to resume from a checkpoint that the run cannot go on from as it
            was, such as one inside of a pass over a loader that does not say where it is. If not,
            it goes on, with a warning.
        seed: As for :class:`stagegraph.Engine`.

    Raises:
        GraphError: The graph has errors.
    """

    tally: Tally
    """What the Trainer's updates take; there is one as soon as there is an engine."""

    def __init__(
        self,
        graph: StageGraph,
        *,
        run: str | os.PathLike[str] | None = None,
        probe: Any = None,
        monitor: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        parts: Mapping[str, Any] | None = None,
        count: Callable[[Any], Amounts] | None = None,
        exact: bool = True,
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.run = run
        self.exact = exact
        self._compiled = runnable(graph)
        self._probe, self._monitor, self._parts, self._seed = probe, monitor, parts, seed
        named = {n for name, one in graph.metrics.items() for n in (name, *one.source)}
        self._declared = tuple(sorted(named - {"loss"}))  # the loss is told with each update
        self._reads_loss = any("loss" in (k, *one.source) for k, one in graph.metrics.items())
        self._counter = Counter(count, tokens="tokens" in needs(self._compiled).facts)
        self._engine: Engine | None = None
        self._viewer: Engine | None = None
        self._trainer: Trainer | None = None
        self._validation = loops.Validation()
        self._place = Place.START
        self._steps = self._batch = 0
        self._passes = 0, 0
        self._completed = loops.Completed()
        self._known: Mapping[str, Any] = {}
        self._heard: dict[str, Tensor] = {}
        self._resumed: Mapping[str, Any] | None = None
        self._used = self._warned = self._logs = False

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            StageGraphError: Training has not begun.
        """
        if self._engine is None:
            raise StageGraphError("the engine is made when trainer.fit() begins")
        return self._engine

    # Setting up

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be had, and stand first among the callbacks."""
        if stage == "fit":
            if self._engine is not None or self._viewer is not None:
                raise StageGraphError(
                    "this callback's model has been trained or rebuilt already; to go on or to "
                    "begin again, make a new module, Trainer and callback; fit(ckpt_path=...) goes "
                    "on"
                )
            ours = [one for one in trainer.callbacks if isinstance(one, StagegraphCallback)]  # type: ignore[attr-defined]
            if len(ours) != 1:
                raise StageGraphError(f"a Trainer has one StagegraphCallback, and has {len(ours)}")
            refuse(trainer, self._compiled, monitored=self._monitor is not None)
            trainer.callbacks.remove(self)  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]
        self._trainer = trainer
        _stage(trainer.strategy, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the engine: model and optimizers are there, and nothing is loaded yet."""
        refuse_made(trainer)
        averages = averaging(trainer)
        self._used = self.run is not None and RunFolder(self.run).is_used
        self._engine = Engine(
            self.graph,
            model=pl_module,
            optimizer=trainer.optimizers,
            scheduler=[one.scheduler for one in trainer.lr_scheduler_configs],
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            ema=averages[0]._average_model if averages else None,  # noqa: SLF001 - no other way
            **self._parts_of(pl_module),
            run=self.run,
        )
        self.tally = self._engine.tally()

    def _parts_of(self, module: LightningModule) -> dict[str, Any]:
        probe = self._probe
        if probe is not None and not callable(probe):
            probe = move_data_to_device(probe, module.device)
        return {
            "probe": probe,
            "monitor": self._monitor,
            "parts": self._parts,
            "seed": self._seed,
            "checkpoints": None,
        }

    # What the strategy tells

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Weights are about to be loaded: the model gets the structure that they are of.

        Raises:
            RunFolderError: The run's folder is another run's.
            SnapshotError: The checkpoint has no part of an engine's, cannot be gone on from
                exactly, or is of another graph, model or seed.
        """
        assert self._trainer is not None
        kept = checkpoint.get(KEY)
        fits = self._trainer.state.fn is TrainerFn.FITTING
        if kept is None:
            if fits:
                raise SnapshotError(
                    f"this checkpoint has no {KEY!r}: it was not saved by a Trainer with this "
                    "callback; resume from one that was"
                )
            return
        if not fits:
            self._rebuild(kept, self._trainer.lightning_module)
            return
        try:
            self._require_exact(kept["host"]["inexact"])
            self.engine.resume_from(kept["engine"])
            host = kept["host"]
            self.tally.load(host)
            self._place = Place(host["place"])
            self._resumed = host
        except DAMAGE as error:
            raise SnapshotError(f"this checkpoint cannot be read: {error!r}") from error

    def _require_exact(self, reasons: list[str]) -> None:
        if not reasons:
            return
        told = "; ".join(reasons)
        if self.exact:
            raise SnapshotError(
                f"a run that goes on from this checkpoint would not be the one that saved it: "
                f"{told}; resume from another, such as one of the end of a pass (torchdata's "
                "StatefulDataLoader says where it is), or give StagegraphCallback(exact=False)"
            )
        warnings.warn(
            f"the run goes on from this checkpoint, but not as it was: {told}", stacklevel=2
        )

    def _rebuild(self, kept: Mapping[str, Any], module: LightningModule) -> None:
        """For ``validate``, ``test`` and ``predict``, which may load a model that was smaller."""
        if self._engine is None and self._viewer is None:
            self._viewer = Engine(self.graph, model=module, **self._parts_of(module))
        engine = self._engine or self._viewer
        engine.rebuild(kept["engine"], owed=kept["host"]["update"])  # type: ignore[union-attr]

    def loops_loaded(self) -> None:
        """The Trainer's loops stand where the checkpoint was saved."""
        if self._resumed is not None:
            loops.rest_after_pass(self._trainer_now, self._place)

    def begin(self) -> None:
        """Training begins or goes on; the initial stages are entered, unless it was in others.

        Raises:
            RunFolderError: The run's folder holds a run, and this one begins.
        """
        trainer, resumed, engine = self._trainer_now, self._resumed, self.engine
        if resumed is None:
            if self._used:
                raise RunFolderError(
                    f"{self.run} holds an earlier run already; call fit(ckpt_path=...) to go on "
                    "with it, or choose another folder"
                )
            engine.start()
        else:
            engine.start()
            loops.stand_at_end(trainer, self._place)
            RandomState.unpack(resumed["random"]).restore()
            loops.set_generators(trainer, resumed["generators"])
            self._heard |= loops.remember(trainer, resumed["monitored"])  # told of before
            loops.go_on(trainer, self._place, validates=resumed["validates"])
        self._known = loops.known_metrics(trainer)
        self._logs = bool(trainer.loggers)
        self._completed = loops.completed(trainer)
        self._steps = self._completed.completed
        self._place = Place.START
        if engine.done and not self.tally.owes:
            trainer.should_stop = True

    def keep(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written: the engine's part goes into it."""
        if self._engine is None:
            return
        trainer = self._trainer_now
        self._hear(trainer.callback_metrics)
        reasons = [] if self._engine.done else self._reasons(trainer)
        self._warn(reasons)
        checkpoint[KEY] = {
            "engine": self._engine.host_state(),
            "host": {
                **self.tally.to_json(),
                "monitored": loops.metrics_to_keep(trainer),
                "place": str(self._place),
                "validates": self._place is Place.BATCH and loops.validation_follows(trainer),
                "inexact": reasons,
                "random": RandomState.capture().pack(),
                "generators": loops.generators(trainer),
            },
        }
        loops.mend_saved(checkpoint, self._place)

    def _reasons(self, trainer: Trainer) -> list[str]:
        return loops.inexact(trainer, self._place, accumulating=self._counter.waiting > 0)

    def _warn(self, reasons: list[str]) -> None:
        if reasons and self.exact and not self._warned:
            self._warned = True
            warnings.warn(
                "a run cannot go on as it was from the checkpoint that is being saved, and will be "
                f"refused to: {'; '.join(reasons)}",
                stacklevel=2,
            )

    def failed(self) -> None:
        """Training was broken off; the run can be taken up by another Trainer, here too."""
        if self._engine is not None:
            self._engine.close()

    @property
    def _trainer_now(self) -> Trainer:
        assert self._trainer is not None
        return self._trainer

    # Events

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last pass is over: decide the boundary behind it, before batches are drawn."""
        if self._place is not Place.START:
            self._place = Place.UPDATE
        self._passes = 0, 0
        self._decide(trainer)
        self._go_on_or_stop(trainer)
        self._place = Place.PASS if self._place is Place.UPDATE else self._place

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decide the boundary before this batch."""
        self._place, tally = _UPDATE, self.tally
        if tally.calm and not tally.metrics:  # nothing is due, unless something was measured
            known, heard = self._known, self._heard
            for name in self._declared:
                if known.get(name) is not heard.get(name):
                    break
            else:
                if tally.quiet.counts(tally.loss, tally.samples, tally.tokens):
                    tally.loss, tally.samples, tally.tokens = None, 0, 0
                    tally.owes = tally.calm = False
                    return
        if self._decide(trainer):
            self._go_on_or_stop(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A batch is over, and perhaps an update: count it; have it validated if that is due."""
        self._place = _BATCH
        counter, tally, steps = self._counter, self.tally, self._completed.completed
        counter.add(tally, batch, outputs)
        if steps == self._steps:
            counter.waiting += 1
            return
        self._steps = steps
        if counter.waiting or tally.loss is None or trainer.accumulate_grad_batches > 1:
            if not counter.give(tally, trainer, pl_module):
                return  # training_step gave None: nothing was learnt, nothing moved
            if tally.loss is None and self._reads_loss:
                raise MetricError(
                    "the graph reads 'loss', and training_step returns none; let it return the "
                    "loss, or {'loss': loss}"
                )
        at, of = self._passes
        follows = of > 1 and batch_idx == self._batch + 1  # in the same pass: no look-up
        passes = (at + 1, of) if follows else loops.passes(trainer)
        self._passes, self._batch = passes, batch_idx
        if tally.updated(passes):
            self._validation.ask(trainer)
        if self._logs:
            self._log(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The Trainer validates."""
        if not trainer.sanity_checking:
            self._validation.begun(trainer)
            if self._engine is not None:
                self.tally.tune_ahead()
            self._place = Place.UPDATE if self._place is Place.UPDATE else Place.VALIDATION

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The Trainer has validated."""
        if self._place is Place.VALIDATION:
            self._place = Place.VALIDATED

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the data is over."""
        self._place = Place.PASS

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over, if only for now; the engine stays, for gates and reports."""
        self._place = Place.UPDATE
        self._decide(trainer)
        self.engine.finish()
        self._place = Place.END

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for a checkpoint behind which there was nothing more to train."""
        if self._place is not Place.END:
            self.on_train_end(trainer, pl_module)

    # Within

    def _go_on_or_stop(self, trainer: Trainer) -> None:
        if self.engine.done:
            trainer.should_stop = True
            raise StopIteration  # as Lightning itself leaves a pass: no update is made any more

    def _decide(self, trainer: Trainer) -> bool:
        """All is known of an update that will be known: decide its boundary.

        Returns:
            Whether the run may have ended with it.

        Raises:
            ActionError: As :meth:`Engine.step`.
            MetricError: The Trainer's validation does not give what the graph wants evaluated.
        """
        tally = self.tally
        if not tally.owes:
            return False
        known, heard = self._known, self._heard
        for name in self._declared:
            if known.get(name) is not heard.get(name):
                self._hear(known)
                break
        if tally.asked:
            self._require_evaluated()
        if not tally.tell():
            return False
        if tally.wants_evaluation:  # by the clock on the wall, which nobody can foretell
            loops.validate(trainer)
            self._hear(self._known)
            self._require_evaluated()
            tally.observe()
        return True

    def _hear(self, known: Mapping[str, Any]) -> None:
        """Take the declared metrics that were logged anew: Lightning keeps old ones for ever."""
        heard = self._heard
        for name in self._declared:
            value = known.get(name)
            if value is None or value is (before := heard.get(name)):
                continue
            if before is None or before.data_ptr() != value.data_ptr():
                heard[name] = value  # kept, so that its memory is not given to another
                self.tally.metrics[name] = value  # stays on its device until a guard reads it

    def _require_evaluated(self) -> None:
        require_evaluated(
            self.graph,
            self.tally.metrics,
            monitored=self.engine.monitored,
            who="Trainer's validation",
            remedy="call self.log({name!r}, ...) in validation_step, or write metrics: "
            "{{{name}: {{source: [...]}}}} with the name that it logs",
        )

    def _log(self, trainer: Trainer) -> None:
        step, every = loops.logged_steps(trainer), trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (step + 1) % every == 0:
            groups = [group for one in trainer.optimizers for group in one.param_groups]
            shown = figures(self.engine, self._compiled, groups)
            for logger in trainer.loggers:
                logger.log_metrics(shown, step=step)


_BATCH, _UPDATE = Place.BATCH, Place.UPDATE  # a look-up less at every batch

_stage = stage  # Lightning calls an argument of a callback's `stage` too


def engine_of(trainer: Trainer) -> Engine:
    """The engine of a Trainer that fits: for ``engine_of(self.trainer).loss(...)`` in a module.

    Raises:
        StageGraphError: The Trainer has no :class:`StagegraphCallback`, or does not fit yet.
    """
    for one in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(one, StagegraphCallback):
            return one.engine
    raise StageGraphError("this Trainer has no StagegraphCallback among its callbacks")
