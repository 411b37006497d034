"""The page of this host shows what happens."""

from stagegraph.session.capabilities import TRAINERS
from tests.pages import ROOT, Reader

PAGE = ROOT / "docs/trainers/lightning.md"


def test_page_shows_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Reader(PAGE).read() == 3


def test_page_tells_of_what_is_in_the_table():
    page = PAGE.read_text("utf-8")
    told = {
        "steer the data": "mixture",
        "take the data back": "data: rewind",
        "keep models": "`save`",
    }
    for need in TRAINERS["lightning"].cannot:
        (word,) = [word for start, word in told.items() if need.value.startswith(start)]
        assert word in page
