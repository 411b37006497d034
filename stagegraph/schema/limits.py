"""How large a document may be; everything a stranger's file could use to take time is bounded."""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_BYTES",
    "MAX_BYTES_SLOW",
    "MAX_DEFECTS",
    "MAX_DEPTH",
    "MAX_GUARDS",
    "MAX_GUARD_TOKENS",
    "MAX_INTEGER",
    "MAX_NODES",
]

MAX_BYTES: Final = 1_000_000
"""Bytes of a document, looked at before it is read."""

MAX_BYTES_SLOW: Final = 50_000
"""Bytes of a YAML document where PyYAML came without libyaml and is some fifty times slower."""

MAX_DEPTH: Final = 64
"""Mappings and lists inside one another."""

MAX_NODES: Final = 60_000
"""Keys and values, all together; a graph of a thousand stages has some thirty thousand."""

MAX_GUARDS: Final = 4_000
"""Strings that may be guards."""

MAX_GUARD_TOKENS: Final = 30_000
"""Names, numbers and marks in these strings, all together."""

MAX_INTEGER: Final = 10**18
"""The largest whole number, and minus the smallest."""

MAX_DEFECTS: Final = 100
"""How many defects one error shows."""
