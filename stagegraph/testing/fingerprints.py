"""Fingerprints: short texts that are equal where contents are equal, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

from stagegraph.actions.keeping.tensor_files import bytes_of

__all__ = ["fingerprint"]

_PLAIN = (bool, int, float, complex, str, bytes, bytearray, Fraction)

LEGIBLE = 60
"""Values whose text is not longer stand for themselves."""


def fingerprint(value: Any) -> str:
    """A text for a value: a single number as it is, all else as a digest.

    >>> fingerprint({"lr": 0.1}) == fingerprint({"lr": 0.1})
    True
    >>> fingerprint(0.1)
    '0.1'

    Args:
        value: Numbers, strings, tensors, arrays and containers of them. Of anything else only the
            type counts.
    """
    if value is None or isinstance(value, bool | int | float | str | Fraction):
        text = str(value) if isinstance(value, Fraction) else repr(value)
        if len(text) <= LEGIBLE:
            return text
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        return f"{value.item()!r} {str(value.dtype).removeprefix('torch.')}"
    digest = hashlib.blake2b(digest_size=12)
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    kind = type(value)
    if isinstance(value, Tensor):
        _feed_tensor(digest, value)
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for key, inner in value.items():
            _feed(digest, key)
            _feed(digest, inner)
    elif isinstance(value, list | tuple):
        _feed_sequence(digest, value)
    elif isinstance(value, set | frozenset):
        _feed(digest, sorted(value, key=repr))
    elif value is None or isinstance(value, _PLAIN):
        digest.update(f"{kind.__name__}:{value!r};".encode("utf-8", "backslashreplace"))
    elif kind.__module__ == "numpy":
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    else:
        digest.update(f"<{kind.__module__}.{kind.__qualname__}>".encode())


def _feed_sequence(digest: Any, value: Sequence[Any]) -> None:
    digest.update(f"{type(value).__name__}{len(value)}".encode())
    if all(type(one) is int for one in value):
        digest.update(repr(value).encode())  # the states of random numbers are long
        return
    for inner in value:
        _feed(digest, inner)


def _feed_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.is_meta:
        return
    whole = tensor.detach().to("cpu").to_dense().resolve_conj().resolve_neg().contiguous()
    for part in bytes_of(whole):
        digest.update(part)
