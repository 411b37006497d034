"""What commands write: safe for terminals, coloured only where somebody looks."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from stagegraph.drawing.clean import for_terminal

__all__ = ["complain", "paint", "say", "say_json"]

_COLOURS = {"error": "31", "warning": "33", "note": "36", "added": "32", "removed": "31"}


def say(text: str = "") -> None:
    """Write one line to standard output."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """Write one line to standard error, harmless whatever it quotes."""
    sys.stderr.write(f"{for_terminal(text)}\n")


def say_json(data: Any) -> None:
    """Write JSON to standard output."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def paint(text: str, kind: str) -> str:
    """A word in the colour of its kind, if standard output is a terminal that wants colours."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if wanted and kind in _COLOURS else text
