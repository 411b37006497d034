"""What an editor offers and marks, asked of yaml-language-server with the committed schema.

The server is installed once, from npm, into ``build/``; without Node.js or a network the tests
are skipped and say so.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from stagegraph.schema.actions import Action
from stagegraph.schema.activities import Activity
from stagegraph.schema.guards import Guard
from stagegraph.schema.json_schema import SCHEMA_NAME
from stagegraph.schema.places import tags_of
from stagegraph.schema.stages import Stage
from stagegraph.schema.templates.registry import TEMPLATES
from tests.schema.language_server import LanguageServer

pytestmark = pytest.mark.node

VERSION = "1.19.2"
ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / f"yaml-language-server-{VERSION}"
HEAD = "stagegraph: 1\nname: x\ninitial: a\nstages:\n  a:\n"


def install_server():
    """Install beside and move: two workers may come here at once."""
    FOLDER.parent.mkdir(exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=FOLDER.parent))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    install += ["--prefix", str(beside), f"yaml-language-server@{VERSION}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 0 and not FOLDER.exists():
        with suppress(OSError):  # the other worker was first
            beside.rename(FOLDER)
    shutil.rmtree(beside, ignore_errors=True)
    if done.returncode:
        pytest.skip(f"npm cannot install yaml-language-server: {done.stderr[-200:]}")


@pytest.fixture(scope="module")
def server():
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: what editors offer is not tested")
    program = FOLDER / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    if not program.exists():
        install_server()
    server = LanguageServer(program, ROOT / "schemas" / SCHEMA_NAME)
    yield server
    server.close()


def test_every_kind_of_stage_is_offered(server):
    assert set(tags_of(Stage)) <= server.completions(HEAD + "    kind: |\n")


def test_every_template_is_offered(server):
    assert set(TEMPLATES) <= server.completions(HEAD + "    use: |\n")


def test_what_fills_a_template_in_is_offered(server):
    assert "with" in server.completions(HEAD + "    use: grow_cycle\n    |\n")


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_field_of_a_template_is_offered(server, name):
    text = f"    use: {name}\n    next: b\n    with:\n      |\n"
    assert set(TEMPLATES[name].model_fields) <= server.completions(HEAD + text)


def test_every_action_is_offered(server):
    offered = server.completions(HEAD + "    kind: grow\n    actions:\n      - type: |\n")
    assert set(tags_of(Action)) <= offered


def test_every_activity_is_offered(server):
    offered = server.completions(HEAD + "    kind: train\n    during:\n      - type: |\n")
    assert set(tags_of(Activity)) <= offered


def test_every_guard_is_offered(server):
    text = (
        "    kind: train\n    transitions:\n      - target: b\n        when:\n          type: |\n"
    )
    assert set(tags_of(Guard)) <= server.completions(HEAD + text)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (HEAD + "    kind: train\n    |\n", {"duration", "next", "transitions", "during"}),
        (HEAD + "    kind: grow\n    |\n", {"actions", "next", "note"}),
        (HEAD + "    |\n", {"kind", "use"}),
        ("metrics:\n  val_loss:\n    |\n", {"goal", "every", "source", "note"}),
        ("metrics:\n  val_loss:\n    goal: |\n", {"minimize", "maximize"}),
        ("|\n", {"stagegraph", "name", "stages", "regions", "metrics", "budget"}),
        (
            HEAD + "    kind: train\n    during:\n      - type: lr_ramp\n        |\n",
            {"of", "start", "end", "over", "curve"},
        ),
    ],
)
def test_keys_are_offered(server, text, keys):
    assert keys <= server.completions(text)


def test_keys_of_other_kinds_are_not_offered(server):
    offered = server.completions(HEAD + "    kind: grow\n    |\n")
    assert not offered & {"duration", "during", "lr_factor", "over"}


@pytest.mark.parametrize(
    ("stage", "marked"),
    [
        ("    kind: train\n    duratoin: 1k steps\n", "duratoin"),
        ("    kind: settle\n    lr_factor: 3\n", "3"),
        ("    kind: warmpu\n", "warmpu"),
        ("    kind: train\n    during:\n      - {type: freeze, off: x, of: all}\n", "off"),
        ("    kind: train\n    duration: soon\n", "soon"),
        (
            "    kind: train\n    transitions:\n      - target: a\n"
            "        when: {type: event, evnt: x, event: y}\n",
            "evnt",
        ),
    ],
)
def test_the_very_key_is_marked(server, stage, marked):
    found = server.diagnostics(HEAD + stage)
    assert [part for part, _ in found] == [marked]


def test_good_documents_are_not_marked(server, valid_documents):
    for path in valid_documents:
        if path.suffix == ".yaml":
            text = path.read_text(encoding="utf-8").replace("$schema: ../", "$schema: /none/")
            lines = [line for line in text.split("\n") if not line.startswith("$schema")]
            assert server.diagnostics("\n".join(lines)) == []
