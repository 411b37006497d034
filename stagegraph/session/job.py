"""Job: what ``stagegraph run`` hands to the function that trains."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from stagegraph.errors import RunFolderError, StageGraphError
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.engine import Engine
from stagegraph.session.terminal import Terminal

__all__ = ["Job"]


class Job:
    """One run of a graph, as the command line asked for it.

    Example::

        def train(job: sg.Job) -> None:
            model, optimizer, loader = ...
            engine = job.engine(model=model, optimizer=optimizer, probe=(x,))
            for epoch in engine.epochs(loader):
                ...

    Args:
        graph: The graph.
        folder: The run's folder.
        resume: Whether to go on with the run that the folder holds.
        out: Where the run is shown.
    """

    def __init__(self, graph: StageGraph, folder: Path, *, resume: bool, out: TextIO) -> None:
        self.graph = graph
        self.folder = folder
        self.resumes = resume
        self._out = out
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def engine(self, **arguments: Any) -> Engine:
        """The run's engine, in its folder, begun or resumed and shown in the terminal.

        SIGTERM and Ctrl-C let it finish its step, save and exit with status 75.

        Args:
            arguments: Those of :class:`Engine`, but for the graph and ``run``.

        Raises:
            RunFolderError: The folder holds a run, and it was not asked to go on with it.
            StageGraphError: As :class:`Engine` and :meth:`Engine.resume` do.
        """
        if self._engine is not None:
            raise StageGraphError("a job has one engine; keep the one that engine() gave")
        if RunFolder(self.folder).is_used and not self.resumes:
            raise RunFolderError(
                f"{self.folder} holds an earlier run already; add --resume to go on with it, or "
                "name another folder with --run"
            )
        engine = self._make_engine(**arguments)
        self._engine = self._stack.enter_context(engine)
        Terminal(engine, out=self._out)
        self._stack.enter_context(engine.preemptible())
        if engine.resume():
            step = engine.progress.step
            self._out.write(f"resumed at step {step}, in {', '.join(engine.stages.values())}\n")
        elif self.resumes:
            self._out.write(f"{self.folder} held nothing to go on with: begun at step 0\n")
        return engine

    def _make_engine(self, **arguments: Any) -> Engine:
        return Engine(self.graph, run=self.folder, **arguments)

    def watch(self, **things: Any) -> None:
        """Name what else belongs to the run, to be compared by a test that resumes it.

        A run itself does nothing with it; :func:`stagegraph.testing.assert_resume_exact` compares
        it after each update.

        Args:
            things: What has a ``state_dict()``, or a function that returns tensors, numbers and
                containers of them.
        """

    def finish(self) -> None:
        """Training is over: save, and show what the run has come to.

        Raises:
            StageGraphError: The function that trained never made an engine.
        """
        if self._engine is None:
            raise StageGraphError(
                "the task returned without an engine; it takes the job and calls job.engine(...)"
            )
        self._engine.finish()
        self._out.write(f"{self._engine.summary()}\nreport: {self._engine.report()}\n")

    def close(self) -> None:
        """Let go of the model, the folder and the signals."""
        self._stack.close()
