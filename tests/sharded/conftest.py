"""Two ranks for all tests of sharded models."""

import pytest

from tests.sharded.ranks import Ranks


@pytest.fixture(scope="session")
def two():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def one():
    ranks = Ranks(1)
    yield ranks
    ranks.close()
