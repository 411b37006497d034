"""A corpus of attacks: each is refused for the right reason, soon, and nothing of it runs."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import stagegraph as sg
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.guard_text import GuardTextError, parse_guard
from tests.fuzz.seeds import DATA, ROOT
from tests.fuzz.test_fuzz import second

HOSTILE = DATA / "hostile"
DOCUMENTS = sorted(p for p in HOSTILE.iterdir() if p.suffix in (".yaml", ".json"))
EXPECTED = dict(
    line.split(": ", 1)
    for line in (HOSTILE / "messages.txt").read_text(encoding="utf-8").splitlines()
)
GUARDS = [
    ast.literal_eval(line)
    for line in (HOSTILE / "guards.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
BOUND = 0.05
"""Seconds of a quiet machine for one attack."""


def test_there_are_enough():
    assert len(GUARDS) >= 30 and len(DOCUMENTS) >= 30
    assert set(EXPECTED) == {path.name for path in DOCUMENTS}


@pytest.mark.parametrize("guard", GUARDS)
def test_guard_is_refused(guard):
    start = time.process_time()
    with pytest.raises(GuardTextError, match=r"^column \d+: ") as refused:
        parse_guard(guard)
    assert time.process_time() - start < BOUND * second()
    assert len(str(refused.value)) < 500
    document = {
        "stagegraph": 1,
        "name": "hostile",
        "metrics": {"loss": {"goal": "minimize"}},
        "initial": "a",
        "stages": {
            "a": {"kind": "train", "transitions": [{"target": "b", "when": guard}]},
            "b": {"kind": "final"},
        },
    }
    with pytest.raises(sg.DocumentError, match="/stages/a/transitions/0/when"):
        sg.load(document)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_is_refused_for_what_is_wrong_with_it(path):
    start = time.process_time()
    with pytest.raises(sg.DocumentError) as refused:
        sg.load(path)
    assert time.process_time() - start < BOUND * second()
    assert refused.value.defects[0].message.startswith(EXPECTED[path.name].removesuffix("…"))
    assert len(str(refused.value)) < 20_000


WATCHED = """
import sys
from pathlib import Path
import stagegraph as sg
from stagegraph.errors import StageGraphError
from stagegraph.schema.guard_text import parse_guard

good, *files = map(Path, sys.argv[1:])
for path in (good, files[0]):  # what is imported late is imported now
    try:
        sg.check(sg.load(path))
    except StageGraphError as error:
        str(error)

known = set(sys.modules)
FORBIDDEN = {"exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn",
             "subprocess.Popen", "socket.connect", "socket.__new__", "ctypes.dlopen", "os.remove",
             "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.putenv", "pickle.find_class",
             "marshal.loads", "builtins.input", "shutil.rmtree", "os.symlink", "os.link"}

def watch(event, arguments):
    if event in FORBIDDEN:
        raise SystemExit(f"{event} {arguments!r:.200}")
    if event == "open":
        path, mode, flags = arguments
        if mode != "rb" and (flags or 0) & 3:
            raise SystemExit(f"open {arguments!r:.200}")

sys.addaudithook(watch)
read = refused = 0
for path in files:
    try:
        sg.load(path)
        read += 1
    except sg.DocumentError as error:
        refused += 1
        str(error)
new = set(sys.modules) - known
assert not new, new
print(read, refused)
"""


def test_nothing_runs_and_nothing_is_imported_while_documents_are_read():
    good = [*sorted((DATA / "valid").iterdir()), *sorted((DATA / "kinds").iterdir())]
    files = [*good, *DOCUMENTS, *sorted((DATA / "broken").glob("*.*ml"))]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(DATA / "valid" / "every-kind.yaml"), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    read, refused = map(int, done.stdout.split())
    assert read > 50 and refused >= len(DOCUMENTS)


def test_the_watch_would_see_something():
    spoilt = WATCHED.replace("        sg.load(path)\n", "        eval('1 + 1')\n")
    done = subprocess.run(
        [sys.executable, "-c", spoilt, *[str(DOCUMENTS[0])] * 2],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode != 0 and "compile" in done.stderr


def test_title_that_looks_like_a_path_makes_no_file_elsewhere(tmp_path: Path):
    graph = sg.load(
        {
            "stagegraph": 1,
            "name": "../../../elsewhere\x00/etc",
            "initial": "a",
            "stages": {"a": {"kind": "train", "duration": "2 steps", "next": "b"}, "b": END},
        }
    )
    folder = tmp_path / "deep" / "run"
    with sg.Engine(graph, run=folder) as engine:
        while not engine.done:
            engine.step()
        engine.report()
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and folder not in p.parents]
    assert outside == []
    assert RunFolder(folder).records()[0]["graph"] == "../../../elsewhere\x00/etc"


END = {"kind": "final"}


def test_selectors_take_no_exponential_time():
    """Selections are shell patterns, which Python matches without backtracking."""
    start = time.process_time()
    for pattern in ("*a" * 30 + "b", "[a-z]*" * 40 + "!", "?*" * 60 + "!"):
        assert not fnmatchcase("a" * 200, pattern)
    assert time.process_time() - start < BOUND * second()


def test_halves_of_characters_are_refused_with_their_place():
    with pytest.raises(sg.DocumentError, match=r":2:9: '.udc80' is half a character; decode the t"):
        sg.load("stagegraph: 1\nname: ab\udc80\n")


def test_numbers_out_of_reach_are_refused_in_guards():
    message = r"^column 5: numbers lie between 1e-15 and 1e\+18, got 1e\+31$"
    with pytest.raises(GuardTextError, match=message):
        parse_guard("m < 10000000000000000000000000000000")
