"""README, tutorial and semantics show what happens: every block runs, every output is compared."""

import re
from pathlib import Path

import pytest

from stagegraph.cli.main import main
from stagegraph.schema.templates.registry import REGION_TEMPLATES, TEMPLATES
from tests.pages import ROOT, Block, Reader, blocks

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, beside the examples and the schema."""
    for name in ("examples", "schemas"):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["tutorial.md", "semantics.md"])
def test_page_shows_what_happens(desk, name):
    assert Reader(DOCS / name).read() > 10


def test_resume_shows_what_happens(desk):
    assert Reader(DOCS / "resume.md").read() > 4


def test_testing_page_shows_what_happens(desk):
    assert Reader(DOCS / "testing.md").read() == 10


def test_trackers_page_shows_what_happens(desk):
    assert Reader(DOCS / "trackers.md").read() == 6


def test_templates_page_shows_what_happens(desk):
    assert Reader(DOCS / "templates.md").read() == 6


def test_card_of_save_shows_what_happens(desk):
    assert Reader(DOCS / "kinds" / "save.md").read() == 3


def test_templates_page_tells_of_every_field():
    page = (DOCS / "templates.md").read_text("utf-8")
    for name, template in {**TEMPLATES, **REGION_TEMPLATES}.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(template.model_fields)


def test_readme_shows_what_happens(desk):
    reader = Reader(ROOT / "README.md", _what_the_reader_has())
    assert reader.read() > 10
    reader.namespace["engine"].close()


def _what_the_reader_has():
    """A model, an optimizer, batches: what README takes for granted; the tutorial writes it out."""
    page = DOCS / "tutorial.md"
    parts = [block for block in blocks(page) if block.language == "python"]
    model, data = (next(b for b in parts if mark in b.text) for mark in ("class Net", "batches ="))
    space: dict[str, object] = {}
    for block in (model, data):
        exec(compile(block.text, str(page), "exec"), space)
    space |= {"loader": space["batches"], "probe": space["held_out"][:8]}
    return space


def test_picture_is_fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["render", "examples/grow_gpt/grow.yaml", "-o", str(tmp_path / "grow.svg")]) == 0
    assert (DOCS / "images" / "grow.svg").read_bytes() == (tmp_path / "grow.svg").read_bytes(), (
        "run: stagegraph render examples/grow_gpt/grow.yaml -o docs/images/grow.svg"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(file), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


def test_outputs_that_differ_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('a\\nb\\nc')\n```\n\n```text\na\n…\n```\n")
    assert Reader(page).read() == 2
    page.write_text("```python\nprint('a\\nb')\n```\n\n```text\na\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:5 shows\na\nand there came\na\nb"):
        Reader(page).read()


def test_a_block_in_another_language_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```perl\n1\n```\n")
    assert list(blocks(page)) == [Block("perl", "1\n", 1)]
    with pytest.raises(AssertionError, match="a block of 'perl'"):
        Reader(page).read()
