"""Coverage-guided fuzzing of one target, with atheris: ``python -m tests.fuzz.coverage_guided``.

    python -m tests.fuzz.coverage_guided "guard" -max_total_time=60

Options after the target's name are libFuzzer's. It begins with the target's right inputs, and
stops at the first error that is not our own, with the input in a file ``crash-…``. atheris is in
the extra ``fuzz``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["stagegraph"]):
    from tests.fuzz.targets import TARGETS, Target

LARGEST = 4096


def as_input(target: Target, content: bytes) -> Any:
    """Bytes as what the target takes; ``ValueError`` if they are not such."""
    match target.kind:
        case "bytes":
            return content
        case "json":
            return json.loads(content)
    return content.decode(errors="surrogateescape")


def as_bytes(target: Target, right: Any) -> bytes:
    """The inverse of :func:`as_input`."""
    match target.kind:
        case "bytes":
            return bytes(right)
        case "json":
            return json.dumps(right).encode()
    return str(right).encode()


def main(arguments: list[str]) -> None:
    """Fuzz until something is found, or the time is over."""
    target = TARGETS[arguments[0]]

    def one(content: bytes) -> None:
        try:
            given = as_input(target, content)
        except (ValueError, RecursionError):
            return
        try:
            target.read(given)
        except target.own as error:
            str(error)

    with tempfile.TemporaryDirectory() as folder:
        for index, right in enumerate(target.seeds):
            (Path(folder) / f"{index}").write_bytes(as_bytes(target, right))
        limits = [f"-max_len={LARGEST}", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *limits, *arguments[1:], folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
