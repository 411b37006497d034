"""An engine on the CPU leaves the seed alone that CUDA is going to begin with."""

import subprocess
import sys

import pytest

from tests.cuda.placing import CUDA
from tests.pages import ROOT

PROGRAM = """
import torch
from tests.cuda.test_optimizer_state import WARMED
from tests.session.training import Training

torch.manual_seed(123)
training = Training(WARMED.replace("type: deepen", "type: deepen, init: fresh"))
if GROWN:
    training.go(5)
assert not torch.cuda.is_initialized()
print(torch.rand(4, device="cuda").tolist())
"""


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_cuda_begins_with_the_users_own_seed(device):
    """Without the engine the first numbers on the device are those of the user's seed."""
    drawn = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("GROWN", str(grown))],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            timeout=300,
        ).stdout.splitlines()[-1]
        for grown in (True, False)
    ]
    assert drawn[0] == drawn[1]
