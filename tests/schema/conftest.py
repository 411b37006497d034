from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is said now as what shall be said (then read the diff)",
    )


@pytest.fixture
def update_golden(request):
    """Whether golden files are to be written; only `pytest tests/schema` knows the option."""
    return request.config.getoption("--update-golden", default=False)


@pytest.fixture
def valid_documents():
    return sorted((DATA / "valid").iterdir())


@pytest.fixture
def broken_folder():
    return DATA / "broken"
