"""Weights & Biases: numbers over an axis of their own, markers as texts and as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagegraph.engine.follower import Figures, Past
from stagegraph.trackers.markers import PREFIX, Marker
from stagegraph.trackers.tracker import Sheet, Tracker

__all__ = ["WandB"]

AXIS = f"{PREFIX}boundary"
"""The axis of all that is logged here; its own, because W&B's step cannot go back on a resume."""

TABLE = f"{PREFIX}happenings"
"""The table with all markers."""


class WandB(Tracker):
    """Shows a run in Weights & Biases.

    Args:
        run: What ``wandb.init`` gave. ``None``: the active run; if there is none, one is begun with
            an id made of the run's folder's, so that a resume goes on with it.
        commit: Whether each of our rows is a row of its own. ``None``: if the run is our own. In
            another's our values wait for its next ``run.log``, because a row of ours would move the
            step that its calls count.
        init: What ``wandb.init`` gets, if a run is begun: ``project=``, ``mode=``, ``dir=``.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, run: Any = None, *, commit: bool | None = None, **init: Any) -> None:
        super().__init__()
        try:
            import wandb
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise ImportError(
                "stagegraph.trackers.WandB needs wandb, which is not installed; install it: "
                "pip install 'stagegraph[wandb]'"
            ) from error
        self._wandb: Any = wandb
        self._given, self._commit, self._init = run, commit, init
        self._run: Any = None
        self._own = False
        self._sheet = Sheet()

    def open(self, past: Past) -> None:
        """Find the run or begin one, and declare the axis."""
        self._sheet = Sheet()
        if not self._own:
            self._run = self._given or self._wandb.run
        if self._run is None:
            named = {"name": past.graph.graph.name}
            if past.run is not None:
                named |= {"id": past.run, "resume": "allow"}
            self._run = self._wandb.init(**{**named, **self._init})
            self._own = True
        self._run.define_metric(AXIS, hidden=True)
        self._run.define_metric(f"{PREFIX}*", step_metric=AXIS)

    def mark(self, markers: Sequence[Marker]) -> None:
        """The texts, and the table with all of them."""
        self._sheet.add(markers)
        told = {marker.tag: marker.text for marker in markers}
        row = {AXIS: markers[-1].boundary, **told, **self._table(last=markers[-1].kind == "end")}
        self._log(row)

    def plot(self, figures: Figures, values: Mapping[str, float]) -> None:
        """The numbers, and the stages by name."""
        names = {f"{PREFIX}stage_name/{region}": name for region, name in figures.stages.items()}
        self._log({AXIS: figures.boundary, **values, **names})

    def _table(self, *, last: bool) -> dict[str, Any]:
        if not self._sheet.take_due(last=last):
            return {}
        rows = [list(row) for row in self._sheet.rows]
        return {TABLE: self._wandb.Table(columns=list(Sheet.COLUMNS), data=rows)}

    def _log(self, row: dict[str, Any]) -> None:
        self._run.log(row, commit=self._own if self._commit is None else self._commit)

    def close(self) -> None:
        """Write the rest of the table; finish a run of our own."""
        if self._run is None:
            return
        table = self._table(last=True)
        if table:
            self._log(table)
        if self._own:
            self._own = False
            self._run.finish()
            self._run = None
