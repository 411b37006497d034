"""Checkpoints of sharded models: a folder that all ranks write into, whole or not there.

What is sharded goes through ``torch.distributed.checkpoint``, under names that say where it is in
the state. What is not, each rank keeps for itself: its random numbers, its place in the data, its
buffers. The manifest, which says which files there are and what each must be, is written last and
by rank 0 alone; a folder without one holds no checkpoint.

At as many ranks as it was saved at, every rank gets its own back, bit for bit. At another number
each gets what rank 0 had, and its random numbers are forked by its rank.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, distributed, nn

from stagegraph.actions.keeping.checkpoint import to_host
from stagegraph.actions.keeping.plain import DTYPES, pack, unpack
from stagegraph.actions.keeping.tensor_files import read_tensors, tensor_files
from stagegraph.actions.sharding.storage import (
    Files,
    PartReader,
    PartWriter,
    read_file,
    write_files,
)
from stagegraph.actions.sharding.tensors import is_shard
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError, another_version

__all__ = ["MANIFEST", "Opened", "open_sharded", "save_sharded"]

_LOG = logging.getLogger("stagegraph")

MANIFEST = "manifest.json"
VERSION = 1
_MAX_MANIFEST = 256 << 20
_PLACEMENT = re.compile(r"shard ([0-9]{1,2})")


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are; 0 of 1 without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def save_sharded(folder: str | os.PathLike[str], state: Any) -> None:
    """Save a state with tensors that are sharded over ranks; all ranks must call this.

    When it returns, on any rank, the checkpoint is whole and on the disk.

    Args:
        folder: A folder that all ranks see, and that holds no checkpoint yet.
        state: Containers, numbers and tensors; on each rank its own, with the same shards.

    Raises:
        SnapshotError: A rank could not write, or has something that cannot be kept, or other shards
            than the others; or the folder holds a checkpoint. On every rank; there is no
            checkpoint then.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    path, (rank, size) = Path(folder), rank_and_size()
    shards: dict[str, Tensor] = {}
    packed: list[tuple[Any, dict[str, Tensor]]] = []

    def begin() -> None:
        packed.append(pack(state, "the state", shards=shards))
        if rank == 0:
            _open_new(path)

    _together(begin, path)
    contents, tensors = packed[0]
    _refuse_others(shards, path)
    writer = PartWriter(path)
    if shards:
        try:
            save(dict(shards), storage_writer=writer)
        except CheckpointException as error:  # on all ranks at once
            raise SnapshotError(f"{path} cannot be written: {error}") from error
    own = _together(
        lambda: (
            writer.files | write_files(path, _own_files(rank, contents, tensors, _layouts(shards)))
        ),
        path,
    )
    files = {name: about for several in own for name, about in several.items()}
    manifest = {"version": VERSION, "ranks": size, "files": files, "shards": writer.table}
    _together(lambda: _write_manifest(path, manifest) if rank == 0 else None, path)


def _own_files(
    rank: int, contents: Any, tensors: Mapping[str, Tensor], layouts: Mapping[str, Any]
) -> dict[str, Callable[[BinaryIO], None]]:
    tree = {"state": contents, "layouts": layouts}
    text = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()

    def write(out: BinaryIO) -> None:
        out.write(text)

    held = {name: to_host(tensor) for name, tensor in tensors.items()}
    return {_contents_of(rank): write, **tensor_files(held, _tensors_of(rank))}


def _contents_of(rank: int) -> str:
    return f"rank-{rank}.json"


def _tensors_of(rank: int) -> str:
    return f"rank-{rank}"


def _open_new(path: Path) -> None:
    if (path / MANIFEST).exists():
        raise SnapshotError(f"{path} holds a checkpoint already; save into a new folder")
    path.mkdir(parents=True, exist_ok=True)


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    aside = path / f".{MANIFEST}.tmp"
    text = json.dumps(manifest, allow_nan=False, separators=(",", ":")).encode()
    write_files(path, {aside.name: lambda out: _write(out, text)})
    aside.replace(path / MANIFEST)
    for directory in (path, path.parent):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _write(out: BinaryIO, text: bytes) -> None:
    out.write(text)


def _together(act: Callable[[], Any], path: Path) -> list[Any]:
    """Do something on every rank, and fail on all if one fails.

    Returns:
        What each rank's gave.

    Raises:
        SnapshotError: It failed on a rank; the message says on which and why.
    """
    size = rank_and_size()[1]
    failure: Exception | None = None
    answer: tuple[bool, Any]
    try:
        answer = (True, act())
    except Exception as error:  # noqa: BLE001 - whatever it is, the others wait
        failure = error
        told = (
            str(error) if isinstance(error, SnapshotError) else f"{type(error).__name__}: {error}"
        )
        answer = (False, told)
    answers: list[Any] = [answer]
    if size > 1:
        answers = [None] * size
        distributed.all_gather_object(answers, answer)
    failed = [(place, said) for place, (well, said) in enumerate(answers) if not well]
    if failed:
        listed = "; ".join(f"rank {place}: {said}" for place, said in failed)
        what = f"{path}: {listed}" if size > 1 else str(failed[0][1])
        raise SnapshotError(what) from failure
    return [said for _, said in answers]


def _refuse_others(shards: Mapping[str, Tensor], path: Path) -> None:
    """Refuse ranks that would not write parts of the same tensors: they would wait for ever."""
    mine = {key: (tuple(tensor.shape), str(tensor.dtype)) for key, tensor in shards.items()}
    first, *others = _together(lambda: mine, path)
    for rank, held in enumerate(others, start=1):
        odd = sorted(key for key in {*first, *held} if first.get(key) != held.get(key))
        if odd:
            raise SnapshotError(
                f"{path} cannot be written: ranks 0 and {rank} have other sharded tensors than "
                f"each other: {', '.join(odd[:4])}{' ...' if len(odd) > 4 else ''}"
            )


def _layouts(shards: Mapping[str, Tensor]) -> dict[str, Any]:
    """Per tensor, along which of its axes each axis of the mesh cuts it."""
    layouts: dict[str, Any] = {}
    for key, tensor in shards.items():
        held: Any = tensor
        layouts[key] = [_placement(one, key) for one in held.placements]
    return layouts


def _placement(placement: Any, key: str) -> str:
    if placement.is_replicate():
        return "replicate"
    if type(placement).__name__ == "Shard":
        return f"shard {placement.dim}"
    raise SnapshotError(f"{key} is spread as {placement}, which a checkpoint cannot hold")


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that is whole.

    Attributes:
        path: Its folder.
        ranks: At how many ranks it was saved.
    """

    path: Path
    ranks: int
    _files: Files
    _table: Mapping[str, Any]

    @property
    def same_ranks(self) -> bool:
        """Whether there are as many ranks now, so that each gets its own back."""
        return rank_and_size()[1] == self.ranks

    def read(self, model: nn.Module) -> Any:
        """The state; all ranks must call this.

        What was sharded is cut as the model is here, or whole where the model is not sharded.

        Args:
            model: The model, to know the mesh.

        Raises:
            SnapshotError: A file is damaged, or the model is sharded over another kind of mesh.
                On every rank.
        """
        path, own = self.path, rank_and_size()[0] if self.same_ranks else 0
        held: list[tuple[Any, dict[str, Tensor], dict[str, Tensor]]] = []
        _together(lambda: held.append(self._open(own, model)), path)
        tree, tensors, shards = held[0]
        if shards:
            self._load(shards)
        return unpack(tree, {**tensors, **shards}, "this checkpoint")

    def _open(self, own: int, model: nn.Module) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        content = read_file(self.path, _contents_of(own), self._files)
        pattern = re.compile(rf"{_tensors_of(own)}-[0-9]+\.safetensors")
        files = sorted(name for name in self._files if pattern.fullmatch(name))
        try:
            tree = json.loads(content)
            state, layouts = tree["state"], dict(tree["layouts"])
            tensors = read_tensors([read_file(self.path, name, self._files) for name in files])
            meshes = _meshes(model)
            shards = {key: self._target(key, how, meshes) for key, how in layouts.items()}
        except (*DAMAGE, RecursionError) as error:
            raise SnapshotError(f"{self.path} cannot be read: {error!r}") from error
        return state, tensors, shards

    def _target(self, key: str, how: Sequence[str], meshes: Mapping[int, Any]) -> Tensor:
        """Memory for a tensor, laid out as the model is here."""
        held = self._table[key]
        size, dtype = torch.Size(held["size"]), DTYPES[held["dtype"]]
        if math.prod(size) * dtype.itemsize > sum(one["size"] for one in self._files.values()):
            raise SnapshotError(f"{self.path} cannot be read: {key} is larger than all its files")
        if not meshes:
            return torch.empty(size, dtype=dtype)
        if len(how) not in meshes:
            raise SnapshotError(
                f"{self.path} was saved of a model that is sharded over a mesh of {len(how)} "
                f"dimensions, and this one is over {sorted(meshes)}; shard it as it was"
            )
        from torch.distributed.tensor import Replicate, Shard, zeros

        placements = [
            Shard(int(cut.group(1))) if (cut := _PLACEMENT.fullmatch(one)) else Replicate()
            for one in how
        ]
        target: Tensor = zeros(
            size, dtype=dtype, device_mesh=meshes[len(how)], placements=placements
        )
        return target

    def _load(self, shards: dict[str, Tensor]) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = PartReader(self.path, self._table, self._files)
        alone = rank_and_size()[1] == 1 and not distributed.is_initialized()
        try:
            with warnings.catch_warnings():
                if alone:  # which DCP warns of
                    warnings.simplefilter("ignore", UserWarning)
                load(dict(shards), storage_reader=reader, no_dist=alone)
        except (CheckpointException, SnapshotError) as error:
            raise SnapshotError(f"{self.path} cannot be read: {error}") from error


def _meshes(model: nn.Module) -> dict[int, Any]:
    """The meshes that a model is sharded over, by how many dimensions each has."""
    found: dict[int, Any] = {}
    for parameter in model.parameters():
        if is_shard(parameter):
            held: Any = parameter
            found.setdefault(held.device_mesh.ndim, held.device_mesh)
    return found


def open_sharded(folder: str | os.PathLike[str]) -> Opened:
    """Open a checkpoint; all ranks must call this.

    Raises:
        SnapshotError: There is none, it is not whole, or of a newer version. On every rank.
    """
    path = Path(folder)
    held: list[Opened] = []
    _together(lambda: held.append(_open(path)), path)
    opened = held[0]
    if not opened.same_ranks:
        _LOG.warning(
            "%s was saved at %d ranks, and here are %d: weights and optimizer are as they were, "
            "and sums over ranks may round otherwise from now on; random numbers begin anew, and "
            "what each rank kept for itself is rank 0's",
            *(path, opened.ranks, rank_and_size()[1]),
        )
    return opened


def _open(path: Path) -> Opened:
    try:
        if (path / MANIFEST).stat().st_size > _MAX_MANIFEST:
            raise SnapshotError(f"{path / MANIFEST} is too large to be a manifest")
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise SnapshotError(
            f"{path} holds no whole checkpoint: there is no {MANIFEST} in it"
        ) from error
    except OSError as error:
        raise SnapshotError(f"{path / MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{path / MANIFEST} cannot be read: {error}") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise SnapshotError(another_version("this checkpoint", version, newest=VERSION))
    try:
        opened = Opened(path, int(manifest["ranks"]), dict(manifest["files"]), manifest["shards"])
        lost = [
            name
            for name, about in opened._files.items()
            if not _NAME.fullmatch(name)
            or not (path / name).is_file()
            or (path / name).stat().st_size != about["size"]
        ]
    except (*DAMAGE, OSError) as error:
        raise SnapshotError(f"{path / MANIFEST} cannot be read: {error!r}") from error
    if lost:
        raise SnapshotError(f"{path} is not whole: {', '.join(lost[:4])} is lost or cut short")
    return opened


_NAME = re.compile(r"[a-z]+-[0-9]+(?:-[0-9]+)?\.(?:json|safetensors)")
