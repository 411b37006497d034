"""What people read when a document is broken: all of it, word for word, in one golden file.

``pytest tests/schema --update-golden`` writes the file anew; read its diff as a user would.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stagegraph.errors import DocumentError
from stagegraph.schema.limits import MAX_DEFECTS
from stagegraph.schema.load import load

FOLDER = Path(__file__).parent.parent / "data" / "broken"
GOLDEN = FOLDER / "messages.txt"
DOCUMENTS = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".txt")


def message_of(name: str) -> str:
    before = Path.cwd()
    os.chdir(FOLDER)
    try:
        with pytest.raises(DocumentError) as caught:
            load(name)
    finally:
        os.chdir(before)
    assert caught.value.file == name
    return str(caught.value)


def shortened(message: str) -> str:
    lines = message.split("\n")
    return message if len(lines) <= 12 else "\n".join([*lines[:3], "[...]", *lines[-2:]])


def golden() -> dict[str, str]:
    parts = GOLDEN.read_text(encoding="utf-8").split("== ")[1:]
    return dict(part.rstrip("\n").split("\n", 1) for part in parts)


def test_golden_messages_are_those_of_the_folder(update_golden):
    if update_golden:
        text = "".join(f"== {name}\n{shortened(message_of(name))}\n\n" for name in DOCUMENTS)
        GOLDEN.write_text(text, encoding="utf-8")
    assert sorted(golden()) == DOCUMENTS
    assert len(DOCUMENTS) >= 40


@pytest.mark.parametrize("name", DOCUMENTS)
def test_message_is_the_golden_one(name):
    assert shortened(message_of(name)) == golden()[name]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_defects_are_in_order_bounded_and_not_doubled(name):
    with pytest.raises(DocumentError) as caught:
        load(FOLDER / name)
    defects = caught.value.defects
    assert 1 <= len(defects) <= MAX_DEFECTS + 1
    assert len(set(defects)) == len(defects)
    places = [(defect.line, defect.column) for defect in defects if defect.line is not None]
    assert places == sorted(places)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_refusal_takes_less_than_a_second(name):
    start = time.perf_counter()
    with pytest.raises(DocumentError):
        load(FOLDER / name)
    assert time.perf_counter() - start < 1


def test_one_mistake_is_one_defect():
    several = {"many_defects.yaml", "yaml_bomb.yaml"}
    single = [name for name in DOCUMENTS if name.startswith(("guard_", "json_", "version_"))]
    single = [name for name in single if name not in {"json_not_finite.json"} | several]
    counts = {name: message_of(name).count("\n") + 1 for name in single}
    assert counts == dict.fromkeys(single, 1)
