"""The same targets under a fuzzer that sees which branches an input takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.seeds import ROOT
from tests.fuzz.targets import TARGETS

SECONDS = 60


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_only_our_own_errors_come_out(name, tmp_path):
    pytest.importorskip("atheris", reason="pip install -e '.[fuzz]' brings it, on Linux")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.coverage_guided", name),
            *(f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
