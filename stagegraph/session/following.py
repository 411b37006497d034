"""Following: what the other ranks do while rank 0 keeps the run's folder.

They write nothing. They read the checkpoint that rank 0 has chosen, and hand over what is theirs
alone (random numbers, the place in their share of the data) whenever rank 0 writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagegraph.engine.core import Core
from stagegraph.engine.ranks import Group, lead
from stagegraph.engine.replay import Outside
from stagegraph.engine.weakly import weakly
from stagegraph.errors import RankError, RunFolderError
from stagegraph.progress import Unit
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.generation import Damaged, open_generation
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.leaving import Leaving
from stagegraph.session.preemption import Preempted
from stagegraph.session.recording import Found
from stagegraph.session.together import Together

__all__ = ["Following"]


class Following:
    """A rank's hold on a run's folder that rank 0 keeps.

    Args:
        folder: The folder.
        core: The engine's core.
        options: When checkpoints are written; ``None``: a host keeps them.
        together: The ranks.
        hand_over: Gives rank 0 what its checkpoint must hold of this rank; made on all ranks.

    Raises:
        RankError: Rank 0 cannot use the folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        core: Core,
        options: Checkpoints | None,
        together: Together,
        hand_over: Callable[[], Any],
    ) -> None:
        self.folder = folder
        self._core = core
        self._saves = options is not None
        self._hand_over = hand_over
        self._group: Group = together.group
        self.leaving = Leaving(core, together)
        together.go = self.leaving.go
        together.lead_pauses(None)
        core.desk.checkpoint = weakly(self.save_now)
        core.desk.nudged = weakly(self._go)
        core.beginning = weakly(self.require_taken_up)
        self.holds_earlier: bool = lead(self._group, dict)
        """Whether the folder holds a run that has not been taken up yet."""
        if options is not None and options.cadence is not None:
            core.meter.read_by(options.cadence.unit)

    @contextmanager
    def preemptible(self) -> Iterator[None]:
        """As :meth:`Recording.preemptible`."""
        with self.leaving.watching():
            yield

    def at_boundary(self, *, structural: bool) -> None:
        """Rank 0 may save here.

        Raises:
            Preempted: A rank was told to go; all is saved.
        """
        if not self._saves:
            return
        if not self._core.done:
            self._go()
        if self._group.share(None):
            self._help()
        self._keep_appointments()

    def _keep_appointments(self) -> None:
        """Look when rank 0 looks."""
        looks: Mapping[str, float] = self._group.share(None)
        self._core.appointments = {Unit(unit): at for unit, at in looks.items()}

    def _go(self) -> None:
        reason = self.leaving.take() if self._saves else ""
        if reason:
            self._help()
            raise Preempted(reason)

    def _help(self) -> None:
        """Hand over what is this rank's, if rank 0 does save."""
        if self._group.share(None):
            self._hand_over()

    def find(self) -> Found:
        """The checkpoint that rank 0 has chosen.

        Raises:
            RankError: Rank 0 found none that it can use.
            RunFolderError: It cannot be read here.
        """
        told = lead(self._group, dict)
        outside = Outside.from_json(told["outside"])
        if told["engine"] is None or told["generation"] is None:
            return Found(told["engine"], {}, outside, None)
        path, number = Path(told["path"]), int(told["generation"])
        try:
            generation = open_generation(path, number, None)
            files = {name: generation.read(name) for name in generation.manifest.files}
        except (Damaged, OSError) as error:
            raise RunFolderError(
                f"rank {self._group.rank} cannot read {path}, which rank 0 goes on from: {error}; "
                "the run's folder must be one that every rank sees"
            ) from error
        return Found(told["engine"], files, outside, None)

    def taken_up(self, found: Found) -> None:
        """The engine stands where the checkpoint was."""
        self.holds_earlier = False
        if self._saves:
            self._keep_appointments()

    def require_taken_up(self) -> None:
        """Refuse to begin in a folder that holds a run.

        Raises:
            RankError: It does.
        """
        if self.holds_earlier:
            raise RankError(f"{self.folder.path} holds an earlier run; call engine.resume()")

    def save_now(self) -> str:
        """Rank 0 saves because somebody asks for it; it answers.

        Raises:
            RunFolderError: A host keeps the checkpoints.
        """
        if not self._saves:
            raise RunFolderError("the trainer keeps this run's checkpoints; have it save one")
        self._help()
        return ""

    def finish(self) -> None:
        """Rank 0 saves where training has been left."""
        if self._saves and not self._core.done:
            self._help()

    def close(self) -> None:
        """Nothing is held."""
