"""Sealed JSON: a JSON object whose last key is the digest of all that stands before it.

It stays plain JSON for whoever reads it; a changed bit anywhere shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Unsealed", "seal", "unseal"]

_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n\}\n')
_SEAL_LENGTH = len(',\n "sha256": "' + "0" * 64 + '"\n}\n')


class Unsealed(Exception):
    """A sealed text that is not as it was written; the message says how."""


def seal(data: Mapping[str, Any]) -> bytes:
    """Write an object with its seal.

    >>> print(seal({"format": 1}).decode(), end="")
    {
     "format": 1,
     "sha256": "d662f8dfe5e22b39079dc1204588c76086c380adebda0e93010ceebc5f1e3278"
    }

    Args:
        data: JSON data, with at least one key.

    Raises:
        TypeError: It is no JSON data.
        ValueError: A number is not finite, or there is a ``sha256`` already.
    """
    if not data or "sha256" in data:
        raise ValueError("sealed data has at least one key, and none that is 'sha256'")
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, indent=1)
    body = text.encode().removesuffix(b"\n}")
    digest = hashlib.sha256(body).hexdigest()
    return body + f',\n "sha256": "{digest}"\n}}\n'.encode()


def unseal(content: bytes) -> dict[str, Any]:
    """The inverse of :func:`seal`.

    Raises:
        Unsealed: It is not as it was written.
    """
    body, end = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    found = _SEAL.fullmatch(end)
    if found is None:
        raise Unsealed("its end, with the checksum, is missing")
    if hashlib.sha256(body).hexdigest().encode() != found[1]:
        raise Unsealed("its checksum does not fit what it says")
    try:
        data = json.loads(body + b"}")
    except (ValueError, RecursionError) as error:
        raise Unsealed(f"it is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise Unsealed("it is no JSON object")
    return data
