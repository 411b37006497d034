"""Storage for ``torch.distributed.checkpoint`` (DCP) without pickle: tensor files and a JSON table.

DCP plans which rank writes and reads what, and cuts anew for another number of ranks. Its own files
are pickles, which run what they say when they are read. Here each rank writes the parts that it
holds into files in the safetensors format, and the table of all parts is data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from stagegraph.actions.keeping.plain import DTYPES
from stagegraph.actions.keeping.tensor_files import in_files, read_tensors, tensor_files
from stagegraph.errors import SnapshotError

__all__ = ["Files", "PartReader", "PartWriter", "read_file", "write_files"]

Files = dict[str, dict[str, Any]]
"""What was written, by file name: ``size`` in bytes and ``sha256``."""


def write_files(folder: Path, files: Mapping[str, Callable[[BinaryIO], None]]) -> Files:
    """Write files and sync them.

    Raises:
        OSError: One could not be written; half of it may be there.
    """
    written: Files = {}
    for name, write in files.items():
        with (folder / name).open("wb") as out:
            digesting = _Digesting(out)
            write(digesting)  # type: ignore[arg-type]
            out.flush()
            os.fsync(out.fileno())
        written[name] = {"size": digesting.size, "sha256": digesting.digest.hexdigest()}
    return written


class _Digesting:
    """A file that is digested as it is written."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self.digest, self.size = out, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self.size += len(view)
        return self._out.write(view)


def read_file(folder: Path, name: str, files: Mapping[str, Any]) -> bytes:
    """The content of a file that is as it was written.

    Raises:
        SnapshotError: It is not there, or damaged, or no file of the checkpoint.
    """
    known = files.get(name)
    if known is None:
        raise SnapshotError(f"{folder}: {name!r} is no file of this checkpoint")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise SnapshotError(f"{folder / name} cannot be read: {error.strerror}") from error
    if len(content) != known["size"] or hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise SnapshotError(f"{folder / name} is not as it was written; the checkpoint is damaged")
    return content


class PartWriter(StorageWriter):
    """Writes the parts of tensors that this rank is to write.

    Args:
        folder: The checkpoint's folder; it is there.

    Attributes:
        files: What this rank has written.
        table: On the rank that coordinates, what all have written: per tensor its ``size``,
            ``dtype`` and ``parts``, each with ``at``, ``size``, ``file`` and ``name``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: Files = {}
        self.table: dict[str, Any] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: FBT001
        """All is known already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Each rank is told its number, for the names of its files."""
        return [replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts."""
        parts: dict[str, Tensor] = {}
        for number, item in enumerate(plan.items):
            held: Any = planner.resolve_data(item)
            parts[str(number)] = held.detach().to("cpu").contiguous()
        results: list[WriteResult] = []
        what = f"shards-{plan.storage_data}"
        self.files = write_files(self._folder, tensor_files(parts, what))
        for file, names in in_files(parts, what).items():
            results += [
                WriteResult(plan.items[int(name)].index, parts[name].nbytes, (file, name))
                for name in names
            ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Gather the table; it is written by whoever writes the manifest."""
        places = {one.index: one.storage_data for several in results for one in several}
        for key, held in metadata.state_dict_metadata.items():
            assert isinstance(held, TensorStorageMetadata), key
            parts = []
            for chunk in held.chunks:
                file, name = places[MetadataIndex(key, chunk.offsets)]
                at, size = list(chunk.offsets), list(chunk.sizes)
                parts.append({"at": at, "size": size, "file": file, "name": name})
            dtype = str(held.properties.dtype).removeprefix("torch.")
            self.table[key] = {"size": list(held.size), "dtype": dtype, "parts": parts}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """It is never chosen by a path."""
        return False


class PartReader(StorageReader):
    """Reads the parts of tensors that this rank asks for.

    Args:
        folder: The checkpoint's folder.
        table: What :class:`PartWriter` made.
        files: What all ranks had written.
    """

    def __init__(self, folder: Path, table: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        self._folder, self._table, self._files = folder, table, files
        self._places = {
            MetadataIndex(key, part["at"]): (part["file"], part["name"])
            for key, held in table.items()
            for part in held["parts"]
        }

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints."""

    def read_metadata(self) -> Metadata:
        """The table, as DCP knows it."""
        return Metadata(
            {
                key: TensorStorageMetadata(
                    TensorProperties(dtype=DTYPES[held["dtype"]]),
                    torch.Size(held["size"]),
                    [
                        ChunkStorageMetadata(torch.Size(part["at"]), torch.Size(part["size"]))
                        for part in held["parts"]
                    ],
                )
                for key, held in self._table.items()
            }
        )

    def set_up_storage_reader(
        self,
        metadata: Metadata,
        is_coordinator: bool,  # noqa: FBT001 - as DCP calls it
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """All is known already."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what the plan asks for, a file at a time.

        Raises:
            SnapshotError: A file is damaged.
        """
        by_file: dict[str, list[tuple[str, Any]]] = {}
        for item in plan.items:
            file, name = self._places[item.storage_index]
            by_file.setdefault(file, []).append((name, item))
        for file, wanted in by_file.items():
            held = read_tensors([read_file(self._folder, file, self._files)])
            for name, item in wanted:
                part = held[name]
                for axis, (start, length) in enumerate(
                    zip(item.storage_offsets, item.lengths, strict=True)
                ):
                    part = part.narrow(axis, start, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """It is never chosen by a path."""
        return False
