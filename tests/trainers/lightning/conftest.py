"""Lightning and torchdata warn of themselves; a warning of ours is still an error."""

from pathlib import Path

import pytest

from tests.trainers.lightning.quiet import OF_THE_HOST

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            for text in OF_THE_HOST:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{text}"))
