"""The same random numbers for each test."""

import pytest
import torch

from tests.session.branches import whole_run


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def whole_with_branches(tmp_path_factory):
    """A whole run that has saved three models, and copies of its folder."""
    return whole_run(tmp_path_factory.mktemp("branches"))
