"""The page on FSDP2 shows what happens, on one rank."""

import os
from unittest import mock

import pytest

from tests.pages import ROOT, Reader

pytestmark = pytest.mark.xdist_group("ranks")

WORLD = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_page_shows_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ, {**WORLD, "MASTER_PORT": "0"}):
        assert Reader(ROOT / "docs" / "trainers" / "fsdp2.md").read() == 3
