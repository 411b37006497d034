"""MLflow: numbers as metrics, markers as one file, the present stages as tags."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stagegraph.engine.follower import Figures, Past
from stagegraph.trackers.ledger import Entry, Ledger
from stagegraph.trackers.markers import PREFIX, Marker
from stagegraph.trackers.tracker import Sheet, Tracker

__all__ = ["MLflow"]

FILE = "stagegraph/happenings.json"
"""The artifact with all markers, a table."""

RUN_TAG = "stagegraph.run"
"""The tag by which a run that this tracker has begun is found again."""


class MLflow(Tracker):
    """Shows a run in MLflow.

    Args:
        run: A run's id, or a run (``mlflow.start_run()``). ``None``: the active one; if there is
            none, one is begun, and on a resume the one that was begun before is taken up. For that
            the engine needs a folder.

    Raises:
        ImportError: mlflow is not installed.
    """

    def __init__(self, run: Any = None) -> None:
        super().__init__()
        try:
            import mlflow
        except ModuleNotFoundError as error:
            if error.name != "mlflow":
                raise
            raise ImportError(
                "stagegraph.trackers.MLflow needs mlflow, which is not installed; install it: "
                "pip install 'stagegraph[mlflow]'"
            ) from error
        self._mlflow: Any = mlflow
        self._given = run if run is None or isinstance(run, str) else run.info.run_id
        self._client: Any = None
        self._run = ""
        self._own = False
        self._sheet = Sheet()
        self._stages: dict[str, str] = {}
        self._ledger = Ledger()

    def open(self, past: Past) -> None:
        """Find the run or begin one, and read what of ours it holds."""
        self._client = self._mlflow.MlflowClient()
        self._sheet, self._stages = Sheet(), {}
        if not self._own:
            self._run = self._given or self._active() or self._begin(past)
        if past.run is not None:
            self._client.set_tag(self._run, RUN_TAG, past.run)
        self._ledger = Ledger(self._present() if past.goes_on else ())
        if past.goes_on and not past.records:
            self._sheet.rows = [row for row in self._earlier() if row[0] < past.start]

    def _active(self) -> str:
        active = self._mlflow.active_run()
        return "" if active is None else str(active.info.run_id)

    def _begin(self, past: Past) -> str:
        earlier: str | None = None
        if past.run is not None and past.goes_on:
            found = self._mlflow.search_runs(
                filter_string=f"tags.`{RUN_TAG}` = '{past.run}'", output_format="list"
            )
            earlier = found[0].info.run_id if found else None
        run = self._mlflow.start_run(
            run_id=earlier, run_name=None if earlier else past.graph.graph.name
        )
        self._own = True
        return str(run.info.run_id)

    def _present(self) -> list[Entry]:
        names = self._client.get_run(self._run).data.metrics
        return [
            (name, one.step, one.value)
            for name in names
            if name.startswith(PREFIX)
            for one in self._client.get_metric_history(self._run, name)
        ]

    def _earlier(self) -> list[list[Any]]:
        """The lines that an earlier life has written."""
        folder, _, name = FILE.rpartition("/")
        if not any(one.path == FILE for one in self._client.list_artifacts(self._run, folder)):
            return []
        uri = self._client.get_run(self._run).info.artifact_uri
        return list(self._mlflow.artifacts.load_dict(f"{uri}/{folder}/{name}")["data"])

    def mark(self, markers: Sequence[Marker]) -> None:
        """Add to the file."""
        self._sheet.add(markers)
        self._put(last=markers[-1].kind == "end")

    def plot(self, figures: Figures, values: Mapping[str, float]) -> None:
        """Log metrics, at the boundary as the step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        lacking = [
            Metric(name, value, now, figures.boundary)
            for name, value in values.items()
            if self._ledger.lacks(name, figures.boundary, value)
        ]
        for first in range(0, len(lacking), 1000):  # the most that it takes at once
            self._client.log_batch(self._run, metrics=lacking[first : first + 1000])
        for region, stage in figures.stages.items():
            if self._stages.get(region) != stage:
                self._client.set_tag(self._run, f"stagegraph.stage.{region}", stage)
                self._stages[region] = stage

    def _put(self, *, last: bool) -> None:
        if self._sheet.take_due(last=last):
            self._client.log_text(self._run, self._sheet.as_json(), FILE)

    def close(self) -> None:
        """Write the rest of the file; end a run of our own."""
        if self._client is not None:
            self._put(last=True)
        if self._own:
            self._own = False
            if self._active() == self._run:
                self._mlflow.end_run()
