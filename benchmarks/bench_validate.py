"""How long ``stagegraph validate`` takes, beside the imports that it cannot do without."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

GRAPH = Path(__file__).parent / "ten_stages.yaml"
IMPORTS = [sys.executable, "-c", "import pydantic, networkx"]
VALIDATE = [sys.executable, "-m", "stagegraph", "validate", str(GRAPH)]
LIMIT = 3.0
ROUNDS = 21


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def test_validate_takes_at_most_three_times_its_imports():
    pairs = [(seconds(IMPORTS), seconds(VALIDATE)) for _ in range(ROUNDS)]
    imports, validate = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"imports {imports:.3f} s, validate {validate:.3f} s, ratio {validate / imports:.2f}")
    assert validate <= LIMIT * imports
