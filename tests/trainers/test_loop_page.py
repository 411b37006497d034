"""The page of the plain loop shows what happens."""

from stagegraph.session.capabilities import TRAINERS
from tests.pages import ROOT, Reader

PAGES = ROOT / "docs/trainers"


def test_page_shows_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Reader(PAGES / "loop.md").read() == 2


def test_every_trainer_has_a_page_that_the_index_names():
    index = (ROOT / "docs/README.md").read_text("utf-8")
    pages = sorted(page.stem for page in PAGES.glob("*.md"))
    assert pages == sorted([*TRAINERS, "fsdp2"])  # which is for any loop of one's own
    assert all(f"(trainers/{name}.md)" in index for name in pages)
