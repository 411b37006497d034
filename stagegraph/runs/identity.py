"""Identity: what ``run.json`` says of a run - which it is, of which graph, made with what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from stagegraph.errors import RunFolderError
from stagegraph.runs.durable import unreadable
from stagegraph.runs.environment import environment
from stagegraph.runs.sealed import Unsealed, seal, unseal
from stagegraph.schema.dump import digest
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["FORMAT", "Identity"]

FORMAT = 2
"""Of the whole folder. Format 1 had no ``run.json`` and no checkpoints."""

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """Which run a folder holds.

    Attributes:
        id: Of this run alone; its checkpoints have it too.
        created: When it was made, in UTC.
        graph: The graph's name.
        digest: The graph's digest.
        environment: With what it was made.
    """

    id: str
    created: str
    graph: str
    digest: str
    environment: Mapping[str, str]

    @classmethod
    def new(cls, graph: StageGraph) -> Self:
        """Of a run that begins now."""
        return cls(
            id=secrets.token_hex(16),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            graph=graph.name,
            digest=digest(graph),
            environment=environment(),
        )

    def to_bytes(self) -> bytes:
        """As a file."""
        return seal(
            {
                "format": FORMAT,
                "id": self.id,
                "created": self.created,
                "graph": {"name": self.graph, "digest": self.digest},
                "environment": dict(self.environment),
            }
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read it from a file; ``None`` if there is none.

        Raises:
            RunFolderError: It is damaged, cannot be read, or a newer version wrote it.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            return cls._of(path, unseal(content))
        except (Unsealed, KeyError, TypeError, ValueError, AttributeError) as error:
            told = error if isinstance(error, Unsealed) else f"it is no run's: {error!r}"
            raise RunFolderError(
                f"{path} is damaged: {told}; bring it back as it was, or choose another folder"
            ) from error

    @classmethod
    def _of(cls, path: Path, data: Mapping[str, Any]) -> Self:
        found = data["format"]
        if type(found) is int and found > FORMAT:
            raise RunFolderError(
                f"{path.parent} was made by a newer stagegraph (format {found}; this one reads "
                f"{FORMAT}); update stagegraph"
            )
        if found != FORMAT:
            raise ValueError(f"format {found!r}")
        return cls(
            id=str(data["id"]),
            created=str(data["created"]),
            graph=str(data["graph"]["name"]),
            digest=str(data["graph"]["digest"]),
            environment={str(key): str(value) for key, value in data["environment"].items()},
        )
