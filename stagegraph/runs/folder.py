"""A run's folder: the graph as the author wrote it, the journal, the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stagegraph.errors import RunFolderError
from stagegraph.runs.journal import Journal, read_journal
from stagegraph.schema.dump import dump
from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["RunFolder"]

JOURNAL = "journal.jsonl"
NORMALISED = "graph.json"
REPORT = "report.html"


class RunFolder:
    """One run on disk.

    ``graph.json`` is the graph that ran; ``author.yaml`` or ``author.json`` its author's own text;
    ``journal.jsonl`` what happened; ``report.html`` how it looked.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.path / JOURNAL

    def create(self, graph: StageGraph) -> Journal:
        """Make the folder and begin its journal.

        Raises:
            RunFolderError: It holds a run already, or cannot be written.
        """
        try:
            if self.journal.exists():
                raise RunFolderError(
                    f"{self.path} holds an earlier run already; choose another folder"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / NORMALISED).write_text(dump(graph, "json"), encoding="utf-8")
            if graph.source.text:
                ending = ".json" if graph.source.file.endswith(".json") else ".yaml"
                name = f"author{ending}"
                (self.path / name).write_text(graph.source.text, encoding="utf-8")
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error}") from error
        return Journal(self.journal)

    def graph(self) -> StageGraph:
        """The graph that ran.

        Raises:
            RunFolderError: The folder holds no run.
            DocumentError: The graph's file is damaged.
        """
        path = self.path / NORMALISED
        if not path.is_file():
            raise RunFolderError(f"{self.path} holds no run: there is no {NORMALISED} in it")
        return load(path)

    def records(self) -> list[dict[str, Any]]:
        """The journal.

        Raises:
            RunFolderError: There is none, or it is damaged.
        """
        return read_journal(self.journal)

    def write_report(self, html: str) -> Path:
        """Put the report into the folder.

        Raises:
            RunFolderError: It cannot be written.
        """
        path = self.path / REPORT
        try:
            path.write_text(html, encoding="utf-8")
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written: {error}") from error
        return path
