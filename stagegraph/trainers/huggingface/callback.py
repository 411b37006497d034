"""The callback: hears the Trainer's events and tells the engine; the engine decides.

A boundary is decided when the Trainer has logged, evaluated and saved after an update, and before
it fetches the next batch. So metrics of the update are in, no gradient is alive, a checkpoint holds
the model that was evaluated, and a run that ends makes no update more. What the Trainer's own
checkpoint then must hold is the engine as it was, and the update it had not been told of yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from accelerate.utils import send_to_device
from torch import nn
from transformers import TrainerCallback

from stagegraph.engine.metrics import as_number
from stagegraph.engine.simulate import runnable
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import RunFolderError, SnapshotError, StageGraphError
from stagegraph.errors import UnsupportedError as Unsupported
from stagegraph.graph.needs import needs
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.activities import Distill
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.engine import Engine
from stagegraph.session.tally import Tally
from stagegraph.trainers.evaluated import require_evaluated
from stagegraph.trainers.figures import figures
from stagegraph.trainers.huggingface.refusals import refuse
from stagegraph.trainers.ranks import agreed, led

__all__ = ["StagegraphCallback"]


class StagegraphCallback(TrainerCallback):
    """A stage graph in a Trainer: give it to a :class:`StagedTrainer` among its ``callbacks``.

    The engine is made when training begins, of the Trainer's own model, optimizer, scheduler and
    gradient scaler.

    Args:
        graph: The graph, without errors.
        run: A folder for the run's graph, journal and report. Its checkpoints are the Trainer's,
            in ``args.output_dir``; this folder has none.
        probe: As for :class:`stagegraph.Engine`; tensors are moved to the Trainer's device.
        monitor: As for :class:`stagegraph.Engine`.
        parts: As for :class:`stagegraph.Engine`.
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
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.run = run
        self._compiled = runnable(graph)
        self._probe, self._monitor, self._parts, self._seed = probe, monitor, parts, seed
        self._declared = frozenset(
            source for name, one in graph.metrics.items() for source in (name, *one.source)
        ) - {"loss"}  # the loss is told with each update: a logged one is a mean over some
        self.counts_tokens = "tokens" in needs(self._compiled).facts
        """Whether the graph reads how many tokens there were."""
        self.distils = any(
            isinstance(held.activity, Distill)
            for stage in self._compiled.stages.values()
            for held in stage.during
        )
        """Whether a stage adds to the loss."""
        self.evaluates_each_pass = False
        """Whether the Trainer evaluates or logs at the end of each pass over the data."""
        self.quiet_size = -1
        """How many batches a pass has, where an update may be counted without more; else -1."""
        self.heard: int | None = None
        """The Trainer's ``global_step`` when it was last heard of; ``None``: it does not train."""
        self._size = 0
        self._engine: Engine | None = None
        self._evaluate: Callable[[], Any] = dict
        self._optimizer: Any = None
        self._wrapped: Callable[[], Any] = _nothing
        self.deaf = False
        """Whether what is evaluated is no news: on a resume, before the first batch."""
        self.pass_ended = False
        """Whether the last event was the end of a pass over the data."""
        self.asked_alone = False
        """Whether the evaluation after the last update is one that the graph alone wanted."""
        self._seen: int | None = None

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            StageGraphError: Training has not begun.
        """
        if self._engine is None:
            raise StageGraphError("the engine is made when trainer.train() begins")
        return self._engine

    @property
    def has_engine(self) -> bool:
        """Whether training has begun."""
        return self._engine is not None

    @property
    def owes_update(self) -> bool:
        """Whether an update was made that the engine has not been told of."""
        return self._engine is not None and self.tally.owes

    # Called by the Trainer's mixin

    def attach(self, trainer: Any, *, resumes: bool) -> None:
        """Make the engine, before the Trainer loads anything.

        Raises:
            RankError: Another process has failed in it.
            RunFolderError: The run's folder holds a run, and this one begins.
            StageGraphError: This callback has trained already.
            UnsupportedError: Trainer, model and graph do not go together.
        """
        if self._engine is not None:
            raise StageGraphError(
                "this Trainer's engine has trained already; to go on or to begin again, make a new "
                "model, Trainer and callback; train(resume_from_checkpoint=True) goes on"
            )
        monitored, run = self._monitor is not None, self.run
        agreed(lambda: refuse(trainer, self._compiled, monitored=monitored))
        # Rank 0 begins to write in it soon: only it may look.
        if run is not None and not resumes and led(lambda: RunFolder(run).is_used):
            raise RunFolderError(
                f"{run} holds an earlier run already; call "
                "train(resume_from_checkpoint=True) to go on with it, or choose another folder"
            )
        self._optimizer = trainer.create_optimizer()
        probe = self._probe
        if probe is not None and not callable(probe):
            probe = send_to_device(probe, trainer.args.device)
        self._engine = Engine(
            self.graph,
            model=trainer.model,
            optimizer=self._optimizer,
            scheduler=_Later(trainer, "lr_scheduler"),
            scaler=getattr(trainer.accelerator, "scaler", None),
            probe=probe,
            monitor=self._monitor,
            parts=self._parts,
            run=self.run,
            checkpoints=None,
            seed=self._seed,
        )
        self.tally = self._engine.tally()
        self._evaluate = trainer.evaluate
        self._wrapped = lambda: trainer.model_wrapped

    def begin_pass(self, batches: int, args: Any) -> None:
        """A pass over the data begins, or goes on.

        Args:
            batches: How many batches it has; 0: nobody knows.
            args: The Trainer's arguments.
        """
        strategies = [
            getattr(one, "value", one) for one in (args.eval_strategy, args.logging_strategy)
        ]
        self.evaluates_each_pass = "epoch" in strategies
        self.deaf = self.pass_ended = False
        counts_itself = args.include_num_input_tokens_seen != "no"
        self._size, self.quiet_size = batches, -1 if counts_itself else batches or -1

    def hear(self, args: Any, state: Any, control: Any) -> None:
        """If the Trainer has made an update: it is owed, and the graph may want an evaluation.

        All callbacks have heard of the update by then, and said what they want.
        """
        if self.heard in (None, state.global_step):
            return
        self.heard = state.global_step
        tally, tokens, passes, size = self.tally, None, None, self._size
        if size:
            passes = round(state.epoch * size), size
        if args.include_num_input_tokens_seen != "no":  # as the host counts them
            tokens = state.num_input_tokens_seen - (self._seen or 0)
            self._seen = state.num_input_tokens_seen
            if self.engine.rank:
                tokens = 0  # they are those of all processes, and rank 0 has told of them
        self.asked_alone = False
        if tally.updated(passes, tokens) and not (
            passes and passes[0] % size == 0 and _at_its_end(args, state)
        ):
            self.asked_alone = not control.should_evaluate
            control.should_evaluate = True

    def decide(self, control: Any) -> None:
        """The Trainer has logged, evaluated and saved after an update: decide its boundary.

        Raises:
            ActionError: As :meth:`Engine.step`.
            MetricError: The Trainer's evaluation does not give what the graph wants evaluated.
        """
        tally = self.tally
        if tally.asked:
            self._require_evaluated()
        owed = tally.owes
        if tally.tell():
            self.told(control, owed=owed)

    def told(self, control: Any, *, owed: bool) -> None:
        """The engine was told, and has ended or waits for an evaluation.

        Args:
            control: The Trainer's.
            owed: Whether it was told of an update.

        Raises:
            ActionError: As :meth:`decide`.
            MetricError: As :meth:`decide`.
        """
        tally = self.tally
        if owed and tally.wants_evaluation:  # by the clock on the wall, which nobody can foretell
            self._evaluate()
            self._require_evaluated()
            tally.observe()
        if tally.done:
            control.should_training_stop = True

    def kept(self) -> dict[str, Any]:
        """What a checkpoint of the Trainer's must hold, in plain containers and tensors.

        Of several processes each has its own, and all are asked.
        """
        host = {**self.tally.to_json(), "tokens": self._seen}
        return {"engine": self.engine.host_state(), "host": host}

    def take_up(self, kept: Any) -> None:
        """Go on from what :meth:`kept` gave: the model gets its structure.

        Raises:
            SnapshotError: It cannot be read, or is of another graph, model or seed.
        """
        try:
            host = kept["host"]
            self.engine.resume_from(kept["engine"])
            self.tally.load(host)
            self._seen = host["tokens"]
            self.deaf = True
        except DAMAGE as error:
            raise SnapshotError(f"this checkpoint cannot be read: {error!r}") from error

    def figures(self) -> dict[str, float]:
        """What to log besides: stages by number, alphas, LR factors, parameters."""
        return figures(self.engine, self._compiled, self._optimizer.param_groups)

    # Events

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Enter the initial stages, unless a checkpoint was in others."""
        if self._engine is None:
            raise Unsupported(
                "StagegraphCallback alone comes too late: the Trainer loads weights before any "
                "event. Use stagegraph.trainers.huggingface.StagedTrainer, or put "
                "StagedTrainerMixin before your Trainer: class Mine(StagedTrainerMixin, Trainer)"
            )
        self._engine.wrap(self._wrapped())  # made since, around a model that is loaded
        self._engine.start()
        self.heard = state.global_step
        if self._seen is None:
            self._seen = state.num_input_tokens_seen

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A pass over the data is over; what it evaluates comes after this."""
        self.pass_ended, self.asked_alone = True, False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """What is logged may be a metric of the graph."""
        self._take(logs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """What is evaluated may be a metric of the graph."""
        self._take(metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training is over, if only for now; the engine stays, for gates and reports."""
        if self.owes_update:  # resumed where the Trainer had come to its own end
            self.decide(control)
        self.heard = None
        self.engine.finish()

    # Within

    def _take(self, told: Mapping[str, Any] | None) -> None:
        if self._engine is not None and not (self.deaf or self.engine.done) and told:
            for name in self._declared & told.keys():
                self.tally.metrics[name] = as_number(name, told[name])

    def _require_evaluated(self) -> None:
        require_evaluated(
            self.graph,
            self.tally.metrics,
            monitored=self.engine.monitored,
            who="Trainer's evaluation",
            remedy="let compute_metrics return it (the Trainer puts 'eval_' before its names) and "
            "write metrics: {{{name}: {{source: [eval_...]}}}}",
        )


def _nothing() -> None:
    """No wrapper yet."""


def _at_its_end(args: Any, state: Any) -> bool:
    """Whether the Trainer evaluates of itself at the end of the pass that ends here."""
    return bool(args.eval_strategy == "epoch" and args.eval_delay <= state.epoch)


class _Later:
    """The Trainer's scheduler, which is made after the engine; a snapshot asks for it later."""

    def __init__(self, trainer: Any, attribute: str) -> None:
        self._trainer, self._attribute = trainer, attribute

    def state_dict(self) -> dict[str, Any]:
        """Its state; nothing before it is there."""
        one = getattr(self._trainer, self._attribute)
        return {} if one is None else dict(one.state_dict())

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take a state up."""
        one = getattr(self._trainer, self._attribute)
        if one is not None and state:
            one.load_state_dict(state)
