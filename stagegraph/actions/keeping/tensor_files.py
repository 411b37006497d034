"""Tensor files: tensors by name in the safetensors format, written as a stream.

The format is a length, a JSON header and raw bytes; any safetensors reader opens the files. The
package's own writer wants all bytes in memory once more, and numpy; this one wants neither.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO

import torch
from torch import Tensor

from stagegraph.actions.keeping.plain import DTYPES
from stagegraph.errors import SnapshotError

__all__ = ["bytes_of", "in_files", "read_tensors", "tensor_files"]

FILE_BYTES = 2**30
"""When a file is this large, the next tensor begins another."""

MAX_HEADER = 100 * 2**20

ALIGNMENT = 16
"""Bytes: where a tensor of any type may begin in memory is a multiple of this."""

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_CHUNK = 64 * 2**20


def tensor_files(
    tensors: Mapping[str, Tensor], what: str = "tensors"
) -> dict[str, Callable[[BinaryIO], None]]:
    """Writers of the files that hold these tensors, by file name.

    Args:
        tensors: Tensors in host memory.
        what: What their files' names begin with.
    """
    return {
        file: partial(_write, {name: tensors[name] for name in names})
        for file, names in in_files(tensors, what).items()
    }


def in_files(tensors: Mapping[str, Tensor], what: str) -> dict[str, list[str]]:
    """The names of the tensors that go into each file, by the file's name."""
    numbered, filled, number = [], 0, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > FILE_BYTES:
            filled, number = 0, number + 1
        filled += tensor.nbytes
        numbered.append((number, name))
    return {
        f"{what}-{number:05}.safetensors": [name for _, name in group]
        for number, group in groupby(numbered, key=lambda one: one[0])
    }


def _write(tensors: Mapping[str, Tensor], out: BinaryIO) -> None:
    header: dict[str, Any] = {}
    contents, end = {name: _writable(tensor) for name, tensor in tensors.items()}, 0
    # Larger items first, so that every tensor begins where its type may begin.
    names = sorted(contents, key=lambda name: -contents[name].element_size())
    for name in names:
        tensor = contents[name]
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
        if tensor.dtype is not tensors[name].dtype:
            odd = [str(tensors[name].dtype).removeprefix("torch."), list(tensors[name].shape)]
            header.setdefault("__metadata__", {})[name] = json.dumps(odd)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little"))
    out.write(text)
    for name in names:
        for chunk in bytes_of(contents[name]):
            out.write(chunk)


def _writable(tensor: Tensor) -> Tensor:
    """The tensor as the format knows it: in one piece, and of another type if it must be."""
    whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return whole if whole.dtype in _NAMES else whole.reshape(-1).view(torch.uint8)


def bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """The memory of a tensor in one piece on the host, a part at a time, uncopied."""
    start, size = tensor.data_ptr(), tensor.nbytes
    for at in range(0, size, _CHUNK):
        length = min(_CHUNK, size - at)
        yield memoryview((ctypes.c_ubyte * length).from_address(start + at))


def read_tensors(files: Sequence[bytes]) -> dict[str, Tensor]:
    """The tensors of all files, in host memory.

    Raises:
        SnapshotError: A file is not in the format.
    """
    found: dict[str, Tensor] = {}
    for content in files:
        try:
            found |= _read(content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise SnapshotError(f"this is no file of tensors: {error!r}") from error
        except RuntimeError as error:  # what torch says of a shape or size that cannot be
            raise SnapshotError(f"this is no file of tensors: {error}") from error
    return found


def _read(content: bytes) -> dict[str, Tensor]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(MAX_HEADER, len(content) - 8):
        raise SnapshotError("this is no file of tensors: its header is longer than the file")
    header = json.loads(content[8 : 8 + size])
    odd = header.pop("__metadata__", {})
    data = bytearray(memoryview(content)[8 + size :])
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape, dtype = [int(length) for length in entry["shape"]], _DTYPES[entry["dtype"]]
        count = (end - begin) // dtype.itemsize
        if not 0 <= begin <= end <= len(data) or any(length < 0 for length in shape):
            raise SnapshotError(f"tensor {name!r} is said to lie outside of its file")
        flat = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=begin)
            if count
            else torch.empty(0, dtype=dtype)
        )
        if begin % ALIGNMENT and name in odd:
            flat = (
                flat.clone()
            )  # a number of 16 bytes that lies anywhere ends the process when read
        found[name] = _as_it_was(flat, odd[name]) if name in odd else flat.reshape(shape)
    return found


def _as_it_was(flat: Tensor, how: str) -> Tensor:
    """A tensor of a type that the format does not know, from its bytes."""
    name, shape = json.loads(how)
    if name not in DTYPES:
        raise SnapshotError(f"{name!r} is no dtype of torch")
    return flat.view(DTYPES[name]).reshape(shape)
