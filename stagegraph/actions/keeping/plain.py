"""Plain: nested containers with tensors in them as JSON data and tensors by name, and back.

What JSON has is written as it is; the other plain types get a mark, a mapping with the one key
``$``. The set of types is closed: nothing in the data can name a class or a function to call.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from stagegraph.actions.sharding.tensors import is_shard
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError, UnsupportedError
from stagegraph.progress import read_fraction

__all__ = ["DTYPES", "pack", "unpack"]

DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""By name. The module itself must not be asked: it imports what it is asked for."""

MAX_DEPTH = 100
"""Containers within containers."""

MARK = "$"


def pack(
    value: Any, what: str = "the state", *, shards: dict[str, Tensor] | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """JSON data and the tensors that it names; nothing is copied.

    A tensor that occurs twice is kept once.

    >>> tree, tensors = pack({"lr": 0.1, "betas": (0.9, 0.99), "m": torch.ones(2)})
    >>> tree
    {'lr': 0.1, 'betas': {'$': 'tuple', 'items': [0.9, 0.99]}, 'm': {'$': 'tensor', 'name': '0'}}
    >>> tensors
    {'0': tensor([1., 1.])}

    Args:
        value: Containers, numbers, strings and tensors, of numpy too.
        what: What it is, for errors.
        shards: What is sharded over ranks is put here, by where it is in the value: a name that is
            the same on every rank. ``None``: it is refused.

    Raises:
        UnsupportedError: Something in it is none of these; the message says where.
    """
    packer = _Packer(shards)
    return packer.pack(value, what, 0), packer.tensors


class _Packer:
    def __init__(self, shards: dict[str, Tensor] | None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._shards = shards
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []

    def pack(self, value: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"{path} is nested more than {MAX_DEPTH} containers deep")
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {MARK: "float", "value": str(value)}
        packed = self._container(value, path, depth)
        return self._leaf(value, path) if packed is None else packed

    def _container(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is list:
            if all(type(one) is int for one in value):
                return list(value)  # the states of random numbers are long
            return [self.pack(one, f"{path}[{i}]", depth + 1) for i, one in enumerate(value)]
        if isinstance(value, Mapping) and kind in _MAPPINGS:
            return self._mapping(value, path, depth)
        if kind in _SEQUENCES:
            items = sorted(value, key=repr) if kind in (set, frozenset) else value
            inner = [self.pack(one, f"{path}[{i}]", depth + 1) for i, one in enumerate(items)]
            packed = {MARK: _SEQUENCES[kind], "items": inner}
            return packed | {"maxlen": value.maxlen} if kind is deque else packed
        return None

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        if type(value) is dict and MARK not in value and all(type(key) is str for key in value):
            return {k: self.pack(one, f"{path}[{k!r}]", depth + 1) for k, one in value.items()}
        items = [
            [self.pack(k, f"{path}: a key", depth + 1), self.pack(v, f"{path}[{k!r}]", depth + 1)]
            for k, v in value.items()
        ]
        return {MARK: _MAPPINGS[type(value)], "items": items}

    def _leaf(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, bytes | bytearray):
            return {MARK: "bytes", "value": b64encode(value).decode()}
        if isinstance(value, complex):
            return {MARK: "complex", "value": [value.real, value.imag]}
        if isinstance(value, Fraction):
            return {MARK: "fraction", "value": str(value)}
        if isinstance(value, torch.dtype):
            return {MARK: "dtype", "value": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {MARK: "device", "value": str(value)}
        if type(value).__module__ == "numpy":
            return self._numpy(value, path)
        raise UnsupportedError(
            f"{path} is a {type(value).__name__}, which a checkpoint cannot hold: it holds "
            "numbers, strings, tensors and containers of them; let its state_dict() return these"
        )

    def _tensor(self, value: Tensor, path: str) -> Any:
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise UnsupportedError(
                f"{path} is a tensor of layout {value.layout} on {value.device}, which a "
                "checkpoint cannot hold: it holds dense tensors that have contents"
            )
        if is_shard(value):
            return self._shard(value, path)
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = str(len(self.tensors))
            self.tensors[name] = value.detach()
            self._alive.append(value)  # an id is only good while its object lives
        packed = {MARK: "tensor", "name": name}
        if not value.dim() and value.device.type != "cpu":
            packed["device"] = value.device.type  # others go where their parameter is
        return packed

    def _shard(self, value: Tensor, path: str) -> Any:
        if self._shards is None:
            raise UnsupportedError(
                f"{path} is sharded over ranks (fully_shard), of which this process has a part; "
                "save it with stagegraph.trainers.fsdp2.save, on all ranks"
            )
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = path
            self._shards[name] = value.detach()
            self._alive.append(value)
        return {MARK: "shard", "name": name}

    def _numpy(self, value: Any, path: str) -> Any:
        try:
            tensor = torch.as_tensor(value.copy() if value.shape else value)
        except (TypeError, AttributeError) as error:
            raise UnsupportedError(
                f"{path} is a {type(value).__name__} of numpy that is no array of numbers"
            ) from error
        # An array is made anew at each look, so that its id must not be remembered.
        name = str(len(self.tensors))
        self.tensors[name] = tensor
        return {MARK: "array" if value.shape else "scalar", "name": name, "dtype": str(value.dtype)}


_SEQUENCES: dict[type, str] = {
    tuple: "tuple",
    torch.Size: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}


def unpack(tree: Any, tensors: Mapping[str, Tensor], what: str = "the state") -> Any:
    """The inverse of :func:`pack`.

    Raises:
        SnapshotError: The data is not what :func:`pack` writes.
    """
    try:
        return _unpack(tree, tensors, 0)
    except SnapshotError as error:
        raise SnapshotError(f"{what} cannot be read: {error}") from error
    except (*DAMAGE, RuntimeError) as error:  # the last is torch's word for no such device
        raise SnapshotError(f"{what} cannot be read: {error!r}") from error


def _unpack(tree: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > 2 * MAX_DEPTH:
        raise SnapshotError("it is nested too deep")
    if isinstance(tree, list):
        if all(type(one) is int for one in tree):
            return tree
        return [_unpack(one, tensors, depth + 1) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if MARK not in tree:
        return {key: _unpack(one, tensors, depth + 1) for key, one in tree.items()}
    return _marked(tree, tree[MARK], tensors, depth)


def _marked(tree: dict[str, Any], kind: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if kind == "shard":
        return tensors[tree["name"]]
    if kind == "tensor":
        tensor = tensors[tree["name"]]
        return tensor if "device" not in tree else _on(tensor, tree["device"])
    if kind in ("array", "scalar"):
        return _numpy(tensors[tree["name"]], tree["dtype"], scalar=kind == "scalar")
    if kind in _READ_VALUES:
        return _READ_VALUES[kind](tree["value"])
    if kind not in _READ_CONTAINERS:
        raise SnapshotError(f"it has a value of kind {kind!r}, which this stagegraph does not know")
    items = [_unpack(one, tensors, depth + 1) for one in tree["items"]]
    return deque(items, maxlen=tree["maxlen"]) if kind == "deque" else _READ_CONTAINERS[kind](items)


def _on(tensor: Tensor, device: Any) -> Tensor:
    """A single number, back on its accelerator; on the CPU if this machine has none of its kind."""
    here = torch.accelerator.current_accelerator(check_available=True)
    return tensor if here is None or here.type != device else tensor.to(here)


def _numpy(tensor: Tensor, dtype: Any, *, scalar: bool) -> Any:
    array = tensor.numpy()
    if str(array.dtype) != dtype:
        raise SnapshotError(f"an array of {dtype!r} was kept as {array.dtype}")
    return array[()] if scalar else array.copy()


def _dtype(name: Any) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise SnapshotError(f"{name!r} is no dtype of torch")
    return DTYPES[name]


def _fraction(text: Any) -> Fraction:
    """A fraction of either sign, without an exponent, which could take all memory."""
    if isinstance(text, str) and text.startswith("-"):
        return -read_fraction(text[1:])
    return read_fraction(text)


def _float(text: Any) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise SnapshotError(f"{text!r} is no number that is not finite")
    return float(text)


_READ_VALUES: dict[str, Callable[[Any], Any]] = {
    "float": _float,
    "bytes": lambda text: b64decode(text, validate=True),
    "complex": lambda parts: complex(*parts),
    "fraction": _fraction,
    "dtype": _dtype,
    "device": torch.device,
}
_READ_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "ordered": OrderedDict,
    "counter": lambda items: Counter(dict(items)),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
