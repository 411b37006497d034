"""The Trainer: where the Hugging Face Trainer's own methods must be overridden."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, empty
from transformers import Trainer

from stagegraph.actions.randomness import RandomState
from stagegraph.errors import UnsupportedError
from stagegraph.session.engine import Engine
from stagegraph.trainers.huggingface.callback import StagegraphCallback
from stagegraph.trainers.huggingface.kept import keep, newest_whole, require_states, take
from stagegraph.trainers.ranks import led

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object

__all__ = ["StagedTrainer", "StagedTrainerMixin"]

_NONE = empty(0)
"""What is learnt from, where a batch has no tensor."""


class StagedTrainerMixin(_Base):  # type: ignore[misc] # transformers is not typed
    """What a Trainer needs beside the callback: write it before one's own Trainer class.

    Example::

        class Mine(StagedTrainerMixin, Seq2SeqTrainer): ...

    It keeps the engine's state inside of the Trainer's checkpoints and rebuilds the model's
    structure before weights are loaded; tells the engine of batches and losses; lets it add to the
    loss; and lets it decide once the Trainer has logged, evaluated and saved.

    Raises:
        UnsupportedError: There is not one :class:`StagegraphCallback` among the callbacks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        callbacks = self.callback_handler.callbacks
        ours = [one for one in callbacks if isinstance(one, StagegraphCallback)]
        if len(ours) != 1:
            raise UnsupportedError(
                f"a staged Trainer has one StagegraphCallback, and {len(ours)} were given; pass "
                "callbacks=[StagegraphCallback(graph, ...)]"
            )
        self._stages = ours[0]
        # Second, right after the Trainer's own: whoever else saves at an event sees the update.
        callbacks.remove(self._stages)
        callbacks.insert(min(1, len(callbacks)), self._stages)
        # Less to look up, and a call less, at every micro-batch.
        self._learn, self._log_and_save = super().training_step, super()._maybe_log_save_evaluate
        stock = Trainer._maybe_log_save_evaluate  # noqa: SLF001 - another may log what it likes
        self._logs_as_told = getattr(self._log_and_save, "__func__", None) is stock
        if not self._stages.distils and type(self).compute_loss is StagedTrainerMixin.compute_loss:
            self.compute_loss = super().compute_loss  # type: ignore[method-assign]
        self._saves_late = False
        self._random: RandomState | None = None

    @property
    def engine(self) -> Engine:
        """The engine; there is one from the beginning of :meth:`train` on."""
        return self._stages.engine

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,  # noqa: FBT001 - as the Trainer has it
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As the Trainer's own; ``True`` means the newest checkpoint that was saved to its end.

        Raises:
            RankError: Another process has failed in it.
            RunFolderError: There is no such checkpoint, or the run's folder cannot be used.
            UnsupportedError: Trainer, model and graph do not go together.
        """
        if resume_from_checkpoint is True:
            output = Path(self.args.output_dir)
            resume_from_checkpoint = led(lambda: str(newest_whole(output)))
        self._stages.attach(self, resumes=bool(resume_from_checkpoint))
        try:
            return super().train(resume_from_checkpoint or None, *args, **kwargs)
        except BaseException:
            self.engine.close()  # the run can be taken up by another Trainer, in this process too
            raise

    # Learning

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """As the Trainer's own; the engine hears of the batch and its loss."""
        stages = self._stages
        tally, first = stages.tally, inputs.get("input_ids")
        if first is None:
            for first in inputs.values():
                if isinstance(first, Tensor):
                    break
            else:
                first = _NONE
        tally.samples += first.shape[0] if type(first) is Tensor else len(first)
        if stages.counts_tokens:
            tally.tokens += first.numel()
        loss = self._learn(model, inputs, num_items_in_batch)
        tally.loss = loss if tally.loss is None else tally.loss + loss
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - as the Trainer has it
        **kwargs: Any,
    ) -> Any:
        """As the Trainer's own, with what active stages add (distillation)."""
        if not (self._stages.distils and self.is_in_train and model.training):
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        # A loss that is a share of the whole update's already gets a share of what is added.
        share = self.current_gradient_accumulation_steps if self._is_share(kwargs) else 1
        loss = self.engine.loss(loss * share, outputs=outputs, inputs=inputs) / share
        return (loss, outputs) if return_outputs else loss

    def _is_share(self, kwargs: dict[str, Any]) -> bool:
        """Whether the loss is divided by the items of all micro-batches, as the Trainer sees it."""
        own = getattr(self, "loss_is_scaled_for_ga", None)
        if own is not None:
            return bool(own)
        counted = kwargs.get("num_items_in_batch") is not None
        return self.compute_loss_func is not None or bool(
            self.model_accepts_loss_kwargs and counted
        )

    # The loop

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        self._stages.begin_pass(kwargs["steps_in_epoch"], self.args)
        if not self._stages.owes_update:
            self._stages.decide(self.control)  # what eval_on_start has found
        else:  # the checkpoint lay before a boundary: decide it as it was
            super()._load_rng_state(kwargs["resume_from_checkpoint"])
            self._stages.decide(self.control)
            self._random = RandomState.capture()
        if self.engine.done:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The boundary that was decided since may have gone back to a snapshot's random numbers."""
        after, self._random = self._random, None
        if after is None:
            super()._load_rng_state(checkpoint)
        else:
            after.restore()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Called after each update, and again after each pass, which may evaluate too."""
        control, stages, state = self.control, self._stages, self.state
        tally, made = stages.tally, state.global_step
        if (made != stages.heard and self._logs_as_told) and not (
            control.should_log or control.should_evaluate or control.should_save or tally.metrics
        ):  # as after most updates: nothing comes with this one, and nothing may be due
            quiet, size = tally.quiet, stages.quiet_size
            at = round(state.epoch * size)
            if quiet.of == size and (at % size or not stages.evaluates_each_pass):
                quiet.at = at
                if quiet.counts(tally.loss, tally.samples, tally.tokens):
                    tally.loss, tally.samples, tally.tokens, stages.heard = None, 0, 0, made
                    self._log_and_save(*args, **kwargs)
                    return
        stages.hear(self.args, state, control)
        if stages.evaluates_each_pass and not stages.pass_ended and float(state.epoch).is_integer():
            # What this pass's evaluation finds belongs to this boundary, and into its checkpoint.
            self._saves_late, control.should_save = control.should_save, False
            self._log_and_save(*args, **kwargs)
            return
        if self._saves_late:
            self._saves_late, control.should_save = False, True
        self._log_and_save(*args, **kwargs)
        stages.decide(self.control)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's own; while training, of the model that the next update begins with."""
        if self._stages.has_engine:
            self._stages.hear(self.args, self.state, self.control)
            self._stages.tally.tune_ahead()
        return super().evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        """An evaluation of the graph's alone is not the best where nothing is saved of it."""
        saves = self.control.should_save or self._saves_late or self.args.save_strategy == "best"
        if self.args.load_best_model_at_end and self._stages.asked_alone and not saves:
            return False
        return bool(super()._determine_best_metric(metrics, trial))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's own; training logs say the stages too."""
        if "loss" in logs and self._stages.has_engine:
            logs.update(self._stages.figures())
        super().log(logs, *args, **kwargs)

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._stages.hear(self.args, self.state, self.control)
        output = Path(self._get_output_dir(trial=trial))
        keep(output / f"checkpoint-{self.state.global_step}", self._stages.kept())
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Structure first, then weights."""
        checkpoint = Path(resume_from_checkpoint)
        require_states(checkpoint)
        self._stages.take_up(take(checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """The best model may have had fewer blocks than the last one has."""
        self.engine.finish()
        kept = take(Path(self.state.best_model_checkpoint))
        self.engine.rebuild(kept["engine"], owed=kept["host"]["update"])
        super()._load_best_model()


class StagedTrainer(StagedTrainerMixin, Trainer):  # type: ignore[misc] # the same
    """The Hugging Face Trainer, with a stage graph among its callbacks.

    Example::

        trainer = StagedTrainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=held_out,
            callbacks=[StagegraphCallback(sg.load("grow.yaml"), probe=batch, run="runs/a")],
        )
        trainer.train(resume_from_checkpoint=resume)
    """
