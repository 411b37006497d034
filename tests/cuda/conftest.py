"""Where a test runs: on the CPU by default, and with ``-m gpu`` on CUDA."""

import os
import warnings

import pytest
import torch

from tests.cuda.placing import precision

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA begins
torch.set_num_threads(1)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _whole_floats():
    """Convolutions of float32 are float32's; on CUDA they else keep ten bits of a factor."""
    with precision(ten_bits=False):
        yield


@pytest.fixture
def same_bits():
    """Operations give the same bits each time; those that do not promise it do so all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*determinis")
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
        torch.use_deterministic_algorithms(False)
