"""A sharded model grows in depth as the same model in one process does."""

import pytest

from tests.sharded import checks_growing as checks


@pytest.mark.parametrize(
    ("how", "at", "state"),
    [("identity", "end", "fresh"), ("stack", "end", "copy"), ("interleave", "end", "fill_v")],
)
def test_it_grows_as_in_one_process(two, how, at, state):
    for distances in two.run(checks.grown_as_in_one_process, how, at, state, {}):
        assert max(distances) <= 1e-6
