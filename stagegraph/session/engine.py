"""Engine: one graph, running in one training loop."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stagegraph.engine.core import Core
from stagegraph.engine.explain import Explanation
from stagegraph.engine.metrics import as_number
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.ports import Actor, Reader, Record, Sink
from stagegraph.engine.simulate import resolve_costs, runnable
from stagegraph.errors import MissingFact, RunFolderError, StageGraphError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.needs import needs
from stagegraph.progress import Progress
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Journal
from stagegraph.schema.activities import Distill
from stagegraph.schema.dump import digest
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.passes import Epoch
from stagegraph.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from stagegraph.actions.actor import TorchActor

__all__ = ["Engine"]

T = TypeVar("T")


class Engine:
    """A stage graph at work.

    With a model it acts on it: grows it in place, ramps, freezes, takes snapshots. Without one it
    runs on numbers.

    Example::

        engine = sg.Engine(graph, model=model, optimizer=optimizer, probe=(x,), run="runs/a")
        engine.resume()
        for epoch in engine.epochs(loader):
            for x, y in epoch:
                loss = engine.loss(criterion(model(x), y))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                engine.step(loss=loss, samples=len(x))
                if engine.wants_evaluation:
                    engine.observe(val_loss=evaluate(model))

    Args:
        graph: The graph, without errors.
        model: The model; it stays the same object, and is grown in place.
        optimizer: Its optimizer, or several.
        scheduler: LR scheduler, or several; needed for snapshots.
        scaler: Gradient scaler; needed for snapshots.
        ema: Averaged weights; grown along with the model.
        data: What knows the data's position (``state_dict``); needed for rewinding it.
        probe: A batch as the model takes it, on which growth is measured.
        parts: What the graph names and only code can give: weights to inherit (a state dict, a
            model, a path), builders (functions); a builder is needed again to resume.
        run: A folder for the journal and the report.
        params: Without a model: how many parameters it would have.
        costs: Without a model: per stage that grows, how many parameters it would add.
        seed: From which every action gets its own.

    Raises:
        GraphError: The graph has errors.
        MissingFact: The graph reads a fact that is not given.
        UnsupportedError: The graph asks for what this model or version cannot do.
        RunFolderError: The run's folder holds an earlier run, or cannot be written.
    """

    def __init__(  # noqa: PLR0913 - all that a run must know of, named once
        self,
        graph: StageGraph,
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | Sequence[Optimizer] = (),
        scheduler: object = None,
        scaler: object = None,
        ema: object = None,
        data: object = None,
        probe: Any = None,
        parts: Mapping[str, Any] | None = None,
        run: str | os.PathLike[str] | None = None,
        params: int | None = None,
        costs: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(graph, StageGraph):
            raise TypeError(
                f"Engine takes a StageGraph, got a {type(graph).__name__}; read it with "
                "stagegraph.load(...)"
            )
        compiled = runnable(graph)
        self.graph = graph
        self._torch: TorchActor | None = None
        self._model = model
        actor: Actor
        reader: Reader | None = None
        if model is None:
            actor = _numbers(compiled, params, costs or {})
        else:
            from stagegraph.actions.attach import torch_actor
            from stagegraph.actions.reading import read_together

            reader = read_together
            self._torch = actor = torch_actor(
                compiled,
                model,
                optimizer,
                scheduler=scheduler,
                scaler=scaler,
                ema=ema,
                data=data,
                probe=probe,
                parts=parts or {},
            )
        self._listeners: list[Sink] = []
        self._journal: Journal | None = None
        self._seed = seed
        self._run = None if run is None else RunFolder(run)
        self._core = Core(compiled, actor, clock=time.monotonic, seed=seed, reader=reader)
        if self._torch is not None and _distils(compiled):
            self._core.refuse = self._torch.require_loss
        if type(self).step is Engine.step:
            # One call less at every update; the method below says what it takes.
            self.step = self._core.step  # type: ignore[method-assign]
        self._closed = False
        self._watch: list[RemovableHandle] = []
        if self._run is not None:
            self._begin_journal(self._run, actor)
        if self._torch is not None:
            from stagegraph.actions.attach import watch_first_step

            self._watch = watch_first_step(optimizer, self._first_optimizer_step)

    # The loop

    def start(self) -> None:
        """Enter the initial stages, if that has not happened yet.

        Raises:
            ActionError: One of their actions failed.
        """
        self._refuse_if_closed()
        if not self._core.started:
            self._core.start()
            self._vitals()

    def resume(self) -> bool:
        """Go on where the run's folder says, if it says; else begin.

        This version keeps no checkpoints in the folder, and refuses a folder that holds a run; so
        it begins. :meth:`load_state_dict` goes on from a state that you saved.

        Returns:
            Whether there was something to go on from.
        """
        self.start()
        return False

    def epochs(self, loader: Iterable[T]) -> Iterator[Epoch[T]]:
        """Passes over a loader until the run ends.

        Args:
            loader: The batches; with a length, fractions of a pass are counted too.
        """
        self.start()
        while not self.done:
            index = int(self._core.progress.epoch)
            yield Epoch(index, loader, self._core)
        self.finish()

    def loss(self, loss: Tensor, *, outputs: Any = None, inputs: Any = None) -> Tensor:
        """The loss to call ``backward`` on, with what active stages add to it.

        A stage with ``distill`` adds how far the model is from its teachers, which are run on the
        same inputs. Calling it before the first ``backward`` enters the initial stages in time.
        With gradient accumulation, divide what it returns.

        Args:
            loss: The task's own loss, a scalar.
            outputs: What the model gave; its logits are ``logits`` or the first floating tensor.
            inputs: What the model was given: a tensor, a sequence for ``model(*inputs)``, a mapping
                for ``model(**inputs)``, or a function of the model.

        Raises:
            StageGraphError: A stage distils, and ``outputs`` or ``inputs`` is missing, or a
                teacher's output is not finite.
            UnsupportedError: Student and teacher cannot be compared.
        """
        self.start()
        if self._torch is None:
            return loss
        return self._torch.loss(loss, outputs=outputs, inputs=inputs)

    def step(
        self,
        *,
        loss: Any = None,
        samples: int = 0,
        tokens: int = 0,
        flops: int = 0,
        epoch: Fraction | float | None = None,
        **metrics: Any,
    ) -> None:
        """One optimizer update is over.

        Args:
            loss: The training loss, to be shown; read as a metric if the graph declares ``loss``.
            samples: Training samples in this update, over all ranks.
            tokens: Training tokens in this update, over all ranks.
            flops: Floating-point operations of this update.
            epoch: Passes over the data so far; :meth:`epochs` counts them itself.
            metrics: Values of declared metrics, measured with this update.

        Raises:
            ActionError: The boundary's actions failed, and the graph has no answer to it; model
                and engine are as before.
            MetricError: A metric is not declared, or its value is no number.
            MissingFact: The graph reads samples, tokens, epochs or flops, and nobody counts them.
            ProgressError: Progress goes backwards.
        """
        self._core.step(
            loss=loss, samples=samples, tokens=tokens, flops=flops, epoch=epoch, **metrics
        )

    @property
    def wants_evaluation(self) -> bool:
        """Whether an evaluation is due; the boundary waits for :meth:`observe`."""
        return self._core.wants_evaluation

    def observe(self, /, **metrics: Any) -> None:
        """Metrics of an evaluation after the last update.

        Raises:
            ActionError: As for :meth:`step`.
            MetricError: A metric is not declared, or its value is no number.
        """
        self._refuse_if_closed()
        if self.done:
            return
        self._core.observe(**metrics)
        self._vitals()

    def finish(self) -> None:
        """Training is over: decide what still waits, and write what was counted."""
        if not self.done:
            self._core.finish()
            self._vitals()

    def send(self, event: str) -> None:
        """An event from outside, seen by all regions at the next boundary.

        Raises:
            ProgressError: The graph does not declare it.
        """
        self._refuse_if_closed()
        self._core.send(event)

    # What can be seen

    @property
    def done(self) -> bool:
        """Whether the run has ended; calls after the end do nothing."""
        return self._core.done

    @property
    def ended(self) -> str | None:
        """Why the run ended: ``final``, ``stop`` or ``budget``; ``None`` while it goes on."""
        return self._core.state.ended

    @property
    def stages(self) -> dict[str, str]:
        """Each region's stage."""
        return self._core.stages

    @property
    def progress(self) -> Progress:
        """How far training has come, on the present branch."""
        return self._core.progress

    @property
    def params(self) -> int | None:
        """How many parameters the model has."""
        return self._core.state.facts.params

    def explain(self) -> list[Explanation]:
        """For each way out: its guard as a tree with the values it sees."""
        return self._core.explain()

    def waits(self) -> list[str]:
        """In a few words per way out: what it waits for."""
        return self._core.waits()

    def listen(self, sink: Sink) -> None:
        """Let somebody see every record as it is written."""
        self._listeners.append(sink)
        self._core.sink = _FanOut(self._listeners)

    def summary(self) -> str:
        """What the run has come to, in a few lines.

        Raises:
            RunFolderError: The engine has no folder to look back into.
        """
        from stagegraph.drawing.terminal import summary

        return summary(self._folder().records(), graph=self.graph)

    def report(self) -> Path:
        """Write the run's report into its folder.

        Returns:
            The path of a self-contained HTML page.

        Raises:
            RunFolderError: The engine has no folder, or it cannot be written.
        """
        from stagegraph.drawing.report import report_html
        from stagegraph.graph.check import check

        folder = self._folder()
        self._core.finish()
        html = report_html(self.graph, folder.records(), findings=check(self.graph))
        return folder.write_report(html)

    # Resume

    def state_dict(self) -> dict[str, Any]:
        """The engine as JSON data; model and optimizer save their own tensors."""
        return self._core.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; no entry action runs again.

        The model is rebuilt to its grown shape first. Load the weights and the optimizer's state
        after this.

        Raises:
            SnapshotError: It belongs to another graph, version or model.
        """
        self._refuse_if_closed()
        self._core.load_state_dict(state)

    def snapshots(self) -> dict[str, Any]:
        """The tensors of every snapshot and teacher in plain containers, to save with the model.

        :meth:`state_dict` has their names alone. ``torch.load(..., weights_only=True)`` reads
        them back.
        """
        return {} if self._torch is None else self._torch.snapshots()

    def load_snapshots(self, snapshots: Mapping[str, Any]) -> None:
        """The inverse of :meth:`snapshots`, after :meth:`load_state_dict`.

        Raises:
            SnapshotError: One of them cannot be read.
        """
        self._refuse_if_closed()
        if self._torch is not None:
            self._torch.load_snapshots(snapshots)

    def close(self) -> None:
        """Take all hooks off the model and close the journal; the engine moves no more."""
        if self._closed:
            return
        self._closed = True
        self.step = self._refuse_if_closed  # type: ignore[method-assign]
        if self._model is not None:
            from stagegraph.actions.attach import release

            release(self._model)
        for hook in self._watch:
            hook.remove()
        if self._torch is not None:
            self._torch.close()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Within

    def _refuse_if_closed(self, *_: object, **__: object) -> None:
        if self._closed and not self.done:
            raise StageGraphError("this engine is closed; make a new one to go on")

    def _folder(self) -> RunFolder:
        if self._run is None:
            raise RunFolderError("nothing of this run is kept; give Engine(run='...') a folder")
        return self._run

    def _begin_journal(self, run: RunFolder, actor: Actor) -> None:
        try:
            self._journal = run.create(self.graph)
            self._journal.write((self._run_record(actor),))
        except RunFolderError:
            self.close()  # no hook stays on a model whose engine never came to be
            raise
        weakref.finalize(self, self._journal.close)
        self.listen(self._journal)

    def _first_optimizer_step(self) -> None:
        """The optimizer steps and nobody has begun: begin, if it is not too late."""
        if self._core.started or self._closed:
            return
        if self._core.begins_before_forward:
            raise StageGraphError(
                "the initial stage acts on the model before the first forward; call "
                "engine.resume(), engine.start() or engine.loss() before it"
            )
        self.start()

    def _vitals(self) -> None:
        if self._torch is None or not self._listeners:
            return
        from torch import Tensor

        given = self._core.loss
        loss = given.detach() if isinstance(given, Tensor) else given
        number = None if loss is None else as_number("loss", loss)
        self._core.write_vitals(self._torch.learning_rates(), number)

    def _run_record(self, actor: Actor) -> Record:
        return {
            "type": "run",
            "step": 0,
            "boundary": 0,
            "progress": {},
            "graph": self.graph.name,
            "digest": digest(self.graph),
            "stagegraph": __version__,
            "seed": self._seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "params": actor.facts().params,
        }


class _FanOut:
    """A sink that hands every record to all listeners; the first that fails fails all."""

    def __init__(self, listeners: list[Sink]) -> None:
        self._listeners = listeners

    def write(self, records: tuple[Record, ...]) -> None:
        for listener in self._listeners:
            listener.write(records)


def _distils(compiled: CompiledGraph) -> bool:
    return any(
        isinstance(held.activity, Distill)
        for stage in compiled.stages.values()
        for held in stage.during
    )


def _numbers(compiled: CompiledGraph, params: int | None, costs: Mapping[str, int]) -> NumbersActor:
    required = needs(compiled)
    if "params" in required.facts and params is None:
        raise MissingFact("the graph reads 'params'; give Engine(model=...) or Engine(params=...)")
    return NumbersActor(params, resolve_costs(compiled, required, costs))
