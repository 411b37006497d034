"""The same random numbers for each test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)
