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


def test_validate_beside_its_imports(show):
    pairs = [(seconds(IMPORTS), seconds(VALIDATE)) for _ in range(ROUNDS)]
    imports, validate = (statistics.median(column) for column in zip(*pairs, strict=True))
    show(
        "stagegraph validate, ten stages, beside the imports it cannot do without\n"
        f"  import pydantic, networkx {imports:>29.3f} s\n"
        f"  stagegraph validate       {validate:>29.3f} s {validate / imports:>8.2f} x"
        f"   limit {LIMIT:g} x"
    )
