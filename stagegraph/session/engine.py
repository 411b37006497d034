"""Engine: one graph, running in one training loop."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from stagegraph.engine.core import Core
from stagegraph.engine.editing import edit_saved, graph_of
from stagegraph.engine.explain import Explanation
from stagegraph.engine.follower import Follower
from stagegraph.engine.meter import Passes
from stagegraph.engine.metrics import as_number
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.ports import Actor, Reader, Record, Sink
from stagegraph.engine.ranks import Group, lead
from stagegraph.engine.simulate import resolve_costs, runnable
from stagegraph.engine.state import DAMAGE
from stagegraph.engine.weakly import weakly
from stagegraph.errors import (
    MissingFact,
    RunFolderError,
    SnapshotError,
    StageGraphError,
    UnsupportedError,
)
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.needs import needs
from stagegraph.progress import Progress, read_fraction
from stagegraph.runs.folder import REPORT, RunFolder
from stagegraph.schema.activities import Distill
from stagegraph.schema.dump import digest
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.followers import Followers
from stagegraph.session.following import Following
from stagegraph.session.hosted import Hosted, find
from stagegraph.session.knobs import Knobs
from stagegraph.session.passes import Count, Epoch, Position
from stagegraph.session.ranked import (
    find_together,
    own_files,
    rank_front,
    refuse_shards,
    shake_hands,
    wait_before_forward,
)
from stagegraph.session.recording import Recording
from stagegraph.session.saved import require_folder
from stagegraph.session.saving import Files, Kept
from stagegraph.session.tally import Tally

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup
    from torch.optim import Optimizer

    from stagegraph.actions.actor import TorchActor
    from stagegraph.actions.data.draws import Drawn

__all__ = ["Engine"]

T = TypeVar("T")

_LOG = logging.getLogger("stagegraph")

POSITION_FILE = "position.json"
"""The file of a checkpoint without a model that says how many batches were used."""


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
        data: What knows the data's position (``state_dict``); needed for rewinding it. For
            activities of the data, a :class:`CurriculumLoader`.
        probe: A batch as the model takes it, on which growth is measured.
        monitor: A function of the model that returns numbers by the name of their metric, such as
            ``lambda model: {"probe_loss": evaluate(model, batches)}``. The engine calls it itself
            where evaluations of these metrics are due, and for attributions: in eval mode, without
            gradients, from the same random numbers each time, and without leaving a trace.
        parts: What the graph names and only code can give: weights to inherit (a state dict, a
            model, a path), builders (functions); a builder is needed again to resume.
        run: A folder for the run: its graph, journal, checkpoints, saved models and report. If it
            holds a run already, call :meth:`resume` first.
        checkpoints: When the folder gets a checkpoint, and how many stay. ``None``: never; a host
            keeps :meth:`host_state` in checkpoints of its own.
        params: Without a model: how many parameters it would have.
        costs: Without a model: per stage that grows, how many parameters it would add.
        seed: From which every action gets its own.
        group: The process group whose ranks decide as one; ``"auto"``: all processes, where
            ``torch.distributed`` is initialised; ``None``: this process decides alone. Each rank
            makes an engine and makes the same calls of it.

    Raises:
        GraphError: The graph has errors.
        MissingFact: The graph reads a fact that is not given.
        RankError: The ranks have begun different things.
        UnsupportedError: The graph asks for what this model or version cannot do.
        RunFolderError: The run's folder is another process's, or cannot be written or read.
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
        monitor: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        parts: Mapping[str, Any] | None = None,
        run: str | os.PathLike[str] | None = None,
        checkpoints: Checkpoints | None = Checkpoints(),  # noqa: B008 - frozen
        params: int | None = None,
        costs: Mapping[str, int] | None = None,
        seed: int = 0,
        group: ProcessGroup | Group | Literal["auto"] | None = "auto",
    ) -> None:
        compiled = _runnable(graph)
        self.graph = graph
        self._torch: TorchActor | None = None
        self._model = model
        actor: Actor
        reader: Reader | None = None
        if model is None:
            if monitor is not None:
                raise UnsupportedError("monitor= is a function of the model; give model= too")
            actor = _numbers(compiled, params, costs or {})
        else:
            from stagegraph.actions.attach import torch_actor
            from stagegraph.actions.reading import read_together

            require_folder(compiled, run, kept_by_host=checkpoints is None)
            reader = read_together
            refuse_shards(model, run, kept_by_host=checkpoints is None)
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
                monitor=monitor,
                seed=seed,
            )
        self._listeners: list[Sink] = []
        self._seed = seed
        self._together = together = rank_front(group, compiled, reader, self._torch, model)
        clock = time.monotonic if together is None else together.clock
        reader = reader if together is None else together.read
        self._core = Core(compiled, actor, clock=clock, seed=seed, reader=reader)
        self._followers = Followers(self._core, self._torch)
        self._core.decided = weakly(self._decided)
        self._knobs = Knobs(self._core, data)
        self._data = data
        if self._torch is not None:
            self._connect(self._torch, compiled)
        told = self._core if together is None else together.serve(self._core)
        # One call less at every update; the method below says what it takes.
        skips = self._torch is not None and self._torch.may_skip
        self._tell = _where_updated(self._torch, told.step) if skips else told.step
        if type(self).step is Engine.step:
            self.step = self._tell  # type: ignore[method-assign]
        self._position = self._make_position(data)
        self._knows_data = data is not None
        self._closed = self._tell_vitals = False
        self._record: Recording | Following | None = None
        try:
            if together is not None:
                shake_hands(together, actor, run, checkpoints, seed)
            if run is not None:
                self._record = self._open(RunFolder(run), checkpoints, actor)
        except StageGraphError:
            self.close()  # no hook stays on a model whose engine never came to be
            raise
        if self._torch is not None:
            self._torch.watch_first_step(self._first_optimizer_step)

    # The loop

    def start(self) -> None:
        """Enter the initial stages, if that has not happened yet.

        Raises:
            ActionError: One of their actions failed.
            RunFolderError: The run's folder holds a run, and :meth:`resume` was not called.
        """
        self._refuse_if_closed()
        if not self._core.started:
            if self._record is None or not self._record.holds_earlier:  # else it is refused
                self._take_up_followers()
            self._tell_vitals = True
            self._core.start()

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint in the run's folder; else begin.

        Call it after the engine is made and before training: the model is rebuilt to the shape it
        had, weights, optimizer, schedulers, data position and random numbers are loaded. No entry
        action runs again. The journal says from where the run goes on, and what was passed over.

        The graph may have been edited since: what is to come may change, what has happened and
        what is held now may not. The journal says what was edited.

        Returns:
            Whether there was something to go on from.

        Raises:
            RunFolderError: The folder's run is of a newer version, in use, or none of its
                checkpoints is whole.
            SnapshotError: The checkpoint does not fit this model, optimizer or seed; or the graph
                was edited where something has happened already. The engine is closed then, and
                what the folder holds is as it was.
        """
        self._refuse_if_closed()
        record = self._record
        if record is None or not record.holds_earlier:
            self.start()
            return False
        if self._core.started:
            raise StageGraphError("this engine has begun already; call resume() before anything")
        trained = self._model is not None and self._model.training
        try:
            found = find_together(record, self._together)
            if found.engine is not None:
                self._core.load_state_dict(found.engine)
                self._position.load(self._load(found.files))
            self._core.replay(found.outside)
            record.taken_up(found)
        except BaseException:
            self.close()  # it may stand half at the checkpoint, and must not go on so
            raise
        if isinstance(record, Recording):
            self._keep_journal(record)
        self._take_up_followers()
        self._warn_of_what_is_lost(trained=trained)
        self.start()
        return found.engine is not None

    def _warn_of_what_is_lost(self, *, trained: bool) -> None:
        """Say what a checkpoint could not know, and a script may have to see to itself."""
        if self._model is None or not self._core.progress.step:
            return
        if not self._knows_data and not self._position.is_known:
            # No warning: batches may be a function of the step, and then all is well.
            _LOG.warning(
                "the checkpoint does not know which batches were used: the loop did not go over "
                "engine.epochs(loader), and Engine(data=...) was not given; the data begins where "
                "this script begins it"
            )
        if trained and not self._model.training:
            warnings.warn(
                "the checkpoint was made while the model was in eval mode, and so it is again; if "
                "the script calls model.train() after engine.observe(), let it do so before",
                stacklevel=3,
            )

    def _load(self, files: Mapping[str, bytes]) -> Any:
        if self._torch is not None:
            position = self._torch.load_checkpoint(files)
            group = None if self._together is None else self._together.group
            if group is None:
                return position
            return self._torch.take_own(files, group.rank, group.size, position)
        try:
            return json.loads(files[POSITION_FILE])
        except (KeyError, ValueError, RecursionError) as error:
            raise SnapshotError(
                f"this is no checkpoint of an engine without a model: {error!r}"
            ) from error

    def epochs(self, loader: Iterable[T]) -> Iterator[Epoch[T]]:
        """Passes over a loader until the run ends.

        Args:
            loader: The batches; with a length, fractions of a pass are counted too.
        """
        if self._torch is not None:
            self._torch.check_loader(loader, self._core.graph)
        self.start()
        self._tell_exactness(loader)
        with self.preemptible():
            while not self.done:
                index = self._position.coming(int(self._core.progress.epoch))
                settle = None if self._together is None else self._together.settle
                yield Epoch(index, loader, self._core, self._position, settle)
            self.finish()

    @contextmanager
    def preemptible(self) -> Iterator[None]:
        """Inside, SIGTERM and Ctrl-C let the step be finished, save a checkpoint, and exit.

        :meth:`epochs` does it of itself; this is for other loops. The process ends by
        :class:`Preempted`, with status 75, out of :meth:`step` or :meth:`observe`. Without a run's
        folder there is nothing to save, and signals do what they always do.
        """
        if self._record is None:
            yield
            return
        with self._record.preemptible():
            yield

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

    def knob(self, name: str, own: float, /) -> float:
        """A hyper-parameter of the loop's own, for the next update.

        Example::

            clip_grad_norm_(model.parameters(), engine.knob("clip", 1.0))

        Args:
            name: What ``knob:`` of the graph's ``hyper`` activities calls it.
            own: What it is where no stage holds it.

        Raises:
            ProgressError: The graph has no such knob.
        """
        self.start()
        return self._knobs.read(name, own)

    @property
    def accumulate(self) -> int:
        """How many times as many micro-batches the next update takes as the loop's own count.

        More than 1 under ``batch_size`` with ``accumulate: grow``.
        """
        self.start()
        return self._knobs.accumulate()

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
        """One optimizer update is over.

        With ``scaler=``, an update that the gradient scaler has skipped is none, and nothing of
        this call counts.

        Args:
            loss: The training loss, to be shown; read as a metric if the graph declares ``loss``.
                While nothing is due and nobody keeps records, it is not looked at.
            samples: Training samples in this update; on several ranks each gives its own, and
                they are summed up.
            tokens: Training tokens in this update; likewise.
            flops: Floating-point operations of this update; likewise.
            epoch: Passes over the data so far, or a pair ``(batches, of)``: so many batches, of
                which a pass has so many; :meth:`epochs` counts them itself.
            metrics: Values of declared metrics, measured with this update.

        Raises:
            ActionError: The boundary's actions failed, and the graph has no answer to it; model
                and engine are as before.
            MetricError: A metric is not declared, or its value is no number.
            MissingFact: The graph reads samples, tokens, epochs or flops, and nobody counts them.
            ProgressError: Progress goes backwards.
        """
        self._tell(loss=loss, samples=samples, tokens=tokens, flops=flops, epoch=epoch, **metrics)

    def grad_norm(self) -> Tensor:
        """The norm of all gradients together, as ``clip_grad_norm_`` measures it, not clipped.

        Stays on its device, and is read when a guard asks: ``engine.step(grad_norm=norm)``. Call it
        after ``backward`` and before ``optimizer.step``; with a gradient scaler after
        ``scaler.unscale_``, and over several micro-batches after the last.

        Raises:
            StageGraphError: The engine has no model.
        """
        if self._model is None:
            raise StageGraphError(
                "the norm of the gradient is a model's; this engine runs on numbers alone"
            )
        from stagegraph.actions.optimizing.norms import grad_norm

        return grad_norm(self._model.parameters())

    # Asked after every update, and without a call in Python it costs least.
    wants_evaluation = property(
        attrgetter("_core.wants_evaluation"),
        doc="Whether an evaluation is due; the boundary waits for :meth:`observe`.",
    )

    def observe(self, /, **metrics: Any) -> None:
        """Metrics of an evaluation after the last update.

        Raises:
            ActionError: As for :meth:`step`.
            MetricError: A metric is not declared, or its value is no number.
        """
        self._refuse_if_closed()
        if self.done:
            return
        self._tell_vitals = True
        told = self._core if self._together is None else self._together
        told.observe(**metrics)
        self._vitals()

    def finish(self) -> None:
        """Training is over, if only for now: decide what still waits, and save a checkpoint.

        Raises:
            RunFolderError: The checkpoint could not be written.
        """
        self._refuse_if_closed()
        if self.done:
            return
        self.start()
        self._tell_vitals = True
        if self._together is not None:
            self._together.finish()
        self._core.finish()
        self._vitals()
        if self._record is not None:
            self._record.finish()

    def send(self, event: str) -> None:
        """An event from outside, seen by all regions at the next boundary.

        Raises:
            ProgressError: The graph does not declare it.
        """
        self._refuse_if_closed()
        told = self._core if self._together is None else self._together
        told.send(event)

    # What can be seen

    @property
    def done(self) -> bool:
        """Whether the run has ended; calls after the end do nothing."""
        return self._core.done

    @property
    def ended(self) -> str | None:
        """Why the run ended: ``final``, ``stop``, ``budget`` or ``stopped``; ``None`` before."""
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
    def rank(self) -> int:
        """Which of the ranks that decide together this process is; 0 where it is alone."""
        return 0 if self._together is None else self._together.group.rank

    @property
    def params(self) -> int | None:
        """How many parameters the model has."""
        return self._core.state.facts.params

    @property
    def alphas(self) -> dict[str, float]:
        """How far each cohort is blended in, where that is not all the way."""
        return self._core.alphas

    @property
    def learning_rates(self) -> list[float]:
        """Per parameter group, the learning rate in force: the host's times the factors held."""
        return [] if self._torch is None else self._torch.learning_rates()

    @property
    def monitored(self) -> frozenset[str]:
        """The metrics that the engine's own monitor measures; nobody else is asked for them."""
        return self._core.monitored

    def evaluation_follows(
        self, *, samples: int = 0, tokens: int = 0, epoch: Passes | None = None
    ) -> bool:
        """Whether :attr:`wants_evaluation` will hold after the next :meth:`step`.

        For a host that evaluates before it tells of the update. Arguments as for :meth:`step`;
        nothing is counted. Every rank asks, or none does.
        """
        told = self._core if self._together is None else self._together
        return told.evaluation_follows(samples=samples, tokens=tokens, epoch=epoch)

    def tune_ahead(self, *, samples: int = 0, tokens: int = 0, epoch: Passes | None = None) -> None:
        """Set ramps that move (alpha above all) as the next :meth:`step` will set them.

        For a host that evaluates before it tells of the update: it evaluates the same model as a
        loop that tells first. Arguments as for :meth:`step`; nothing is counted.
        """
        self._core.tune_ahead(samples=samples, tokens=tokens, epoch=epoch)

    def tally(self) -> Tally:
        """What counts the updates of a host that evaluates and saves before it tells of them."""
        together = self._together
        return Tally(
            self,
            self._core,
            follows=None if together is None else together.evaluation_follows,
            quick=self.step == self._core.step,
        )

    def explain(self) -> list[Explanation]:
        """For each way out: its guard as a tree with the values it sees."""
        return self._core.explain()

    def waits(self) -> list[str]:
        """In a few words per way out: what it waits for."""
        return self._core.waits()

    def listen(self, sink: Sink | Follower) -> None:
        """Let somebody see every record as it is written.

        A :class:`Follower`, such as those of :mod:`stagegraph.trackers`, is told of a boundary when
        that has held, and first of all what has happened so far. What any other sink raises undoes
        the boundary. On several ranks only rank 0 tells followers.
        """
        if isinstance(sink, Follower) and self.rank:
            return
        self._core.sink = _FanOut(self._listeners, self._followers)
        self._core.meter.rest()  # who listens now is shown the loss of the next update
        if not isinstance(sink, Follower):
            self._listeners.append(sink)
            return
        self._followers.add(sink)
        if self._core.started:
            self._take_up_followers()

    def summary(self) -> str:
        """What the run has come to, in a few lines.

        Raises:
            RunFolderError: The engine has no folder to look back into.
        """
        from stagegraph.drawing.terminal import summary

        return summary(self._folder().records(), graph=self.graph)

    def report(self) -> Path:
        """Write the run's report into its folder; on several ranks rank 0 does.

        Returns:
            The path of a self-contained HTML page.

        Raises:
            RunFolderError: The engine has no folder, or it cannot be written.
        """
        from stagegraph.drawing.report import report_html
        from stagegraph.graph.check import check

        folder = self._folder()
        if self._together is None:
            self._core.finish()
        if self.rank:
            return folder.path / REPORT
        html = report_html(self.graph, folder.records(), findings=check(self.graph))
        return folder.write_report(html)

    # Resume

    def state_dict(self) -> dict[str, Any]:
        """The engine as JSON data; model and optimizer save their own tensors."""
        return self._core.state_dict()

    def load_state_dict(
        self, state: Mapping[str, Any], *, edited_from: StageGraph | None = None
    ) -> None:
        """Go on from a saved state; no entry action runs again.

        The model is rebuilt to its grown shape first. Load the weights and the optimizer's state
        after this.

        Args:
            state: What :meth:`state_dict` gave.
            edited_from: The graph that the state was saved under, if this engine's is an edit of
                it. What is past must be as it was, and so must what is held now; the rest may
                differ. Listeners are told in a record ``edit``.

        Raises:
            SnapshotError: It belongs to another graph, version or model; or the edit contradicts
                what has happened. Nothing has changed then.
        """
        self._refuse_if_closed()
        if edited_from is None or graph_of(state) == digest(self.graph):
            self._core.load_state_dict(state)
            self._take_up_followers(again=True)
            return
        before, after = compile_graph(edited_from)[0], self._core.graph
        state, edit = edit_saved(state, before, after)
        self._core.load_state_dict(state)
        self._take_up_followers(again=True)
        self._core.tell("edit", **edit.to_json())

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

    def host_state(self) -> dict[str, Any]:
        """What a host's own checkpoint must keep of the engine, in plain containers and tensors.

        Weights, the states of optimizer, schedulers and scaler, and random numbers are the host's
        to keep.
        """
        journal = self._record.journal if isinstance(self._record, Recording) else None
        mark = None if journal is None else journal.sync()
        taught = self._torch is not None and self._torch.taught
        made = self._torch is not None and self._torch.made
        reduced = self._torch is not None and self._torch.has_reduced
        return Hosted(self.state_dict(), self.snapshots(), mark, taught, made, reduced).pack()

    def resume_from(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`host_state` gave: a host's checkpoint is what counts.

        The model is rebuilt to its grown shape, and the optimizer's groups with it; load their
        tensors after this. The journal of the run's folder goes on behind the checkpoint.

        Raises:
            RunFolderError: The folder is another run's, or cannot be written or read.
            SnapshotError: The state is of another graph, version, model or seed. The engine is
                closed then.
        """
        self._refuse_if_closed()
        if self._core.started:
            raise StageGraphError("this engine has begun already; make a new one to go on")
        kept, record = Hosted.unpack(state), self._record
        try:
            earlier = record is not None and record.holds_earlier
            found = None
            if record is not None and earlier:
                found = find_together(record, self._together, lambda one: find(one, kept))
            self._core.load_state_dict(kept.engine if found is None else found.engine or {})
            self.load_snapshots(kept.copies)
            if self._torch is not None:
                self._torch.taught, self._torch.made = kept.taught, kept.made
                self._torch.goes_on(reduced=kept.reduced)
            if record is not None and found is not None:
                self._core.replay(found.outside)
                record.taken_up(found)
                if isinstance(record, Recording):
                    self._keep_journal(record)
            self._take_up_followers(again=True)
        except BaseException:
            self.close()
            raise

    def rebuild(self, state: Mapping[str, Any], *, owed: Mapping[str, Any] | None = None) -> None:
        """Give the model the structure it had when :meth:`host_state` was asked; the run stays.

        For a host that takes the best of its checkpoints at the end. Load the weights after this.

        Args:
            state: What :meth:`host_state` gave.
            owed: The ``samples``, ``tokens`` and ``epoch`` (as text) of an update that the engine
                had not been told of then; ramps are where the host evaluated: see
                :meth:`tune_ahead`.

        Raises:
            SnapshotError: The model cannot be brought there; it is as before.
        """
        hosted = Hosted.unpack(state)
        if owed is None:
            self._core.rebuild(hosted.engine)
            return
        try:
            epoch = None if owed["epoch"] is None else read_fraction(owed["epoch"])
            amounts = {name: int(owed[name]) for name in ("samples", "tokens")}
        except DAMAGE as error:
            raise SnapshotError(f"this update cannot be read: {error!r}") from error
        self._core.rebuild_ahead(hosted.engine, epoch=epoch, **amounts)

    def wrap(self, wrapper: nn.Module) -> None:
        """The loop calls the model through this wrapper from here on.

        For a host that puts the model in a ``DistributedDataParallel`` after the engine was made;
        call it before :meth:`start`, and after the weights are loaded that :meth:`resume_from`
        needs.

        Args:
            wrapper: As the loop calls it, around the engine's model.

        Raises:
            UnsupportedError: It is around another model, or cannot follow a change of parameters.
        """
        if self._torch is None or self._model is None:
            raise StageGraphError("this engine runs on numbers alone; there is nothing to wrap")
        self._torch.wrap(wrapper)
        if self._together is not None:
            wait_before_forward(self._together, wrapper)

    def close(self) -> None:
        """Take all hooks off the model and close the journal; the engine moves no more."""
        if self._closed:
            return
        self._closed = True
        self._core.meter.rest()
        self.step = self._refuse_if_closed  # type: ignore[method-assign]
        if self._model is not None:
            from stagegraph.actions.attach import release

            release(self._model)
        self._followers.close()
        if self._torch is not None:
            self._torch.close()
        if self._record is not None:
            self._record.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Within

    def _connect(self, torch: TorchActor, compiled: CompiledGraph) -> None:
        """Let the core ask the model, and the data tell the core."""
        if torch.monitor is not None:
            self._core.monitor = torch.monitor.measure
            self._core.monitored = torch.monitor.names
        self._core.host_rate = torch.host_rate
        torch.hear_data(weakly(self._tell_data))
        self._core.refuse = _all_of(
            torch.require_loss if _distils(compiled) else None,
            self._knobs.require if self._knobs.any else None,
            torch.require_data if _steers(compiled) else None,
        )

    def _refuse_if_closed(self, *_: object, **__: object) -> None:
        if self._closed and not self.done:
            raise StageGraphError("this engine is closed; make a new one to go on")

    def _take_up_followers(self, *, again: bool = False) -> None:
        folder = self._record.folder if isinstance(self._record, Recording) else None
        self._followers.take_up(folder, again=again)

    def _folder(self) -> RunFolder:
        if self._record is None:
            raise RunFolderError("nothing of this run is kept; give Engine(run='...') a folder")
        return self._record.folder

    def _open(
        self, run: RunFolder, options: Checkpoints | None, actor: Actor
    ) -> Recording | Following:
        together = self._together
        if together is not None and together.group.rank:
            return Following(run, self._core, options, together, weakly(self._hand_over))
        copies, kept = weakly(self._copies), weakly(self._kept)

        def opened() -> bool:
            made.append(
                Recording(run, self.graph, self._core, options, copies, kept, self._seed, together)
            )
            return made[0].holds_earlier

        made: list[Recording] = []
        if together is None:
            opened()
        else:
            lead(together.group, opened)
        record = made[0]
        if record.journal is not None:
            record.journal.write((record.run_record(actor.facts().params),))
            self._keep_journal(record)
        return record

    def _keep_journal(self, record: Recording) -> None:
        assert record.journal is not None
        weakref.finalize(self, record.folder.close)
        weakref.finalize(self, record.journal.close)
        self._listeners.insert(0, record.journal)
        hands = record.reach_out()
        weakref.finalize(self, hands.stop)
        self.listen(hands)

    def _copies(self) -> Files:
        """What a checkpoint holds beside the engine's own state."""
        position = self._position.state()
        own = own_files(self._hand_over())
        if self._torch is not None:
            return {**self._torch.take_checkpoint(position).files(), **own}
        text = json.dumps(position).encode()
        return {POSITION_FILE: lambda out: out.write(text)}

    def _hand_over(self) -> Sequence[bytes]:
        """What is each rank's own, for a checkpoint that rank 0 writes; nothing if it is alone."""
        if self._together is None or self._torch is None:
            return ()
        if self._together.group.rank:
            self._kept()  # rank 0 writes them
        position = self._position.state()
        return self._together.group.gather_bytes(self._torch.own(position))

    def _kept(self) -> Sequence[Kept]:
        """The models that boundaries have kept for good since this was asked last."""
        return () if self._torch is None else self._torch.take_saves()

    def _make_position(self, data: object) -> Position:
        if self._torch is None:
            return Count()
        from stagegraph.actions.data.position import Position as DataPosition

        return DataPosition(kept=data)

    def _tell_exactness(self, loader: object) -> None:
        """Record how exactly a run over this loader can be resumed."""
        if self._record is None or self._torch is None or self.done:
            return
        from stagegraph.actions.data.exactness import exactness

        found = exactness(loader)
        name = type(loader).__name__
        self._core.tell("data", loader=name, exactness=found.label, why=found.why)

    def _tell_data(self, drawn: Drawn) -> None:
        """Record the batch from which the data is drawn as a boundary had asked."""
        if self._core.done:
            return
        state, since = self._core.state, self._core.unabsorbed
        step, boundary = state.clock.step + since, state.spent.step + since
        self._core.tell(
            "curriculum",
            batch=drawn.number,
            asked_at=drawn.knobs.since,
            **{key: value for key, value in drawn.knobs.to_json().items() if key != "since"},
            step=step,
            boundary=boundary,
            progress={"step": step},
        )

    def _decided(self, structural: bool) -> None:  # noqa: FBT001 - what the core calls
        """A boundary has been decided and has held."""
        if self._torch is not None:
            self._torch.rest()
        if self._knobs.any:
            self._knobs.held()
        self._followers.decided()
        self._vitals()
        if self._record is not None:
            self._record.at_boundary(structural=structural)

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
        """Write how the model is trained from here on, once after each evaluation."""
        telling, self._tell_vitals = self._tell_vitals, False
        if telling and self._core.started:
            self._followers.show()
        if not telling or self._torch is None or not self._listeners:
            return
        from torch import Tensor

        given = self._core.loss
        loss = given.detach() if isinstance(given, Tensor) else given
        number = None if loss is None else as_number("loss", loss)
        self._core.write_vitals(self._torch.learning_rates(), number)


class _FanOut:
    """A sink that hands every record to all listeners; the first that fails fails all.

    The journal is the first of the list and told last: it shall not tell of a boundary that did
    not hold because some other listener failed. Followers come after it, and fail nobody.
    """

    def __init__(self, listeners: list[Sink], followers: Followers) -> None:
        self._listeners, self._followers = listeners, followers

    def write(self, records: tuple[Record, ...]) -> None:
        for listener in reversed(self._listeners):
            listener.write(records)
        self._followers.write(records)


def _all_of(*several: Callable[[], None] | None) -> Callable[[], None] | None:
    """All that are there, one after the other; ``None`` if there is none."""
    there = [one for one in several if one is not None]
    if len(there) < 2:
        return next(iter(there), None)

    def call() -> None:
        for one in there:
            one()

    return call


def _runnable(graph: object) -> CompiledGraph:
    if not isinstance(graph, StageGraph):
        raise TypeError(
            f"Engine takes a StageGraph, got a {type(graph).__name__}; read it with "
            "stagegraph.load(...)"
        )
    return runnable(graph)


def _steers(compiled: CompiledGraph) -> bool:
    return any(h.activity.data for stage in compiled.stages.values() for h in stage.during)


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


def _where_updated(actor: TorchActor | None, tell: Callable[..., None]) -> Callable[..., None]:
    """Tell of updates that the gradient scaler has not skipped."""

    def step(**amounts: Any) -> None:
        if actor is None or actor.has_updated():
            tell(**amounts)

    return step
