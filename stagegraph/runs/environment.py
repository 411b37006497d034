"""Environment: with what a run was made, so that a difference can be told later."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["differences", "environment"]

PACKAGES = (
    "stagegraph",
    "torch",
    "transitions",
    "pydantic",
    "pydantic-core",
    "networkx",
    "pyyaml",
    "numpy",
    "safetensors",
    "transformers",
    "peft",
)
"""What can change what a run does. What is not installed is not said."""


def environment() -> dict[str, str]:
    """Python, the system, and the versions of what takes part; nothing is imported."""
    return dict(_environment())


@cache  # reading the metadata of so many packages takes a while
def _environment() -> Mapping[str, str]:
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In words, what is not the same any more.

    >>> differences({"torch": "2.12.0", "peft": "0.18"}, {"torch": "2.13.0"})
    ['peft: 0.18, now none', 'torch: 2.12.0, now 2.13.0']
    """
    return [
        f"{name}: {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
