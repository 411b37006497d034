"""Benchmarks print."""

import pytest


@pytest.fixture
def show(capsys):
    """Print through pytest."""

    def printed(text):
        with capsys.disabled():
            print("\n" + text)

    return printed
