"""Checkpoint: everything that training changes, taken to host memory and back into a model.

What is taken here is what a snapshot holds, plus the snapshots and teachers that the run can still
return to. Taking copies to host memory and nothing more; making files of it can happen elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from torch import Tensor

from stagegraph.actions.keeping.plain import pack, unpack
from stagegraph.actions.keeping.tensor_files import read_tensors, tensor_files
from stagegraph.errors import SnapshotError

__all__ = ["Checkpoint", "read_checkpoint", "take_checkpoint", "to_host"]

CONTENTS = "contents.json"
"""The file that says which tensor is what."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state in host memory.

    Attributes:
        contents: JSON data; tensors are named in it.
        tensors: The tensors by name, each in host memory and nobody else's.
    """

    contents: Any
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """How many bytes of tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def files(self) -> dict[str, Callable[[BinaryIO], None]]:
        """Writers of the files that hold it, by file name."""
        text = json.dumps(self.contents, allow_nan=False, separators=(",", ":")).encode()

        def write(out: BinaryIO) -> None:
            out.write(text)

        return {CONTENTS: write, **tensor_files(self.tensors)}


def take_checkpoint(state: Any, what: str = "the state") -> Checkpoint:
    """Copy a state to host memory.

    Args:
        state: Containers, numbers and tensors; tensors may change as soon as this returns.
        what: What it is, for errors.

    Raises:
        UnsupportedError: Something in it cannot be kept.
    """
    contents, tensors = pack(state, what)
    return Checkpoint(contents, {name: to_host(tensor) for name, tensor in tensors.items()})


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory, in one piece and nobody else's."""
    return tensor.to("cpu", copy=True).contiguous()


def read_checkpoint(files: Mapping[str, bytes]) -> Any:
    """The state that was taken, from the contents of its files.

    Raises:
        SnapshotError: The files are not what :meth:`Checkpoint.files` writes.
    """
    if CONTENTS not in files:
        raise SnapshotError(f"this is no checkpoint: there is no {CONTENTS} in it")
    try:
        contents = json.loads(files[CONTENTS])
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{CONTENTS} cannot be read: {error}") from error
    names = sorted(name for name in files if name.endswith(".safetensors"))
    return unpack(contents, read_tensors([files[name] for name in names]), "this checkpoint")
