"""The page of this host shows what happens."""

import pytest

from stagegraph.session.capabilities import TRAINERS
from stagegraph.trainers.accelerate.refusals import _SETTINGS
from tests.pages import ROOT, Reader
from tests.trainers.accelerate.small import fresh_accelerator

PAGE = ROOT / "docs/trainers/accelerate.md"


def test_page_shows_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fresh_accelerator()  # none of another test's
    reader = Reader(PAGE)
    assert reader.read() == 3


def test_page_tells_of_what_is_in_the_table():
    assert not TRAINERS["accelerate"].cannot  # else the page has to name it


@pytest.mark.parametrize("reason", [reason for _, reason in _SETTINGS])
def test_page_tells_of_what_is_refused(reason):
    words = {"DeepSpeed", "FSDP1", "FSDP2", "Megatron-LM", "torch-xla", "tensor,", "fp8", "process"}
    (word,) = [word for word in words if word in reason]
    assert word in PAGE.read_text("utf-8")
