"""One torch thread for all tests; torch itself is imported by the tests that need it."""

import sys

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how busy the machine is proves nothing
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread():
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
