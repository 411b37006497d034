"""The command line: words, exit statuses, and what is imported on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stagegraph.cli.main import BROKEN_PIPE, COMMANDS, INTERRUPTED, main

GOOD = """\
stagegraph: 1
name: short
initial: train
stages:
  train: {kind: train, duration: 9 steps, next: done}
  done: {kind: final}
"""
BAD = GOOD + "  lost: {kind: final}\n"
WARNED = GOOD + "events: [never]\n"
BROKEN = "stagegraph: 1\nname: x\ninitial: train\nstages: {train: {kind: tran}}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "graph.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def ask(*words: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stagegraph", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_a_good_graph_exits_with_0(write, capsys):
    assert main(["validate", write(GOOD)]) == 0
    assert capsys.readouterr().out == "short: 2 stages in 1 region; no errors\n"


def test_errors_exit_with_1_and_say_where(write, capsys):
    path = write(BAD)
    assert main(["validate", path]) == 1
    out = capsys.readouterr().out
    assert f"error: unreachable-stage at {path}:7 /stages/lost\n" in out
    assert "short: 3 stages in 1 region; 1 error\n" in out


def test_warnings_exit_with_0_unless_strict(write):
    assert main(["validate", write(WARNED)]) == 0
    assert main(["validate", "--strict", write(WARNED)]) == 1


def test_a_waived_finding_shows_its_reason_and_counts_for_nothing(write, capsys):
    path = write(WARNED + "waive: {unused-event: kept for people}\n")
    assert main(["validate", "--strict", path]) == 0
    out = capsys.readouterr().out
    assert "waived: unused-event" in out
    assert "    waived: kept for people" in out


def test_findings_as_json(write, capsys):
    assert main(["validate", "--format", "json", write(BAD)]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in data["findings"]] == ["unreachable-stage"]
    assert data["findings"][0]["line"] == 7
    assert (data["summary"]["stages"], data["summary"]["errors"]) == (3, 1)


def test_a_document_that_cannot_be_read_exits_with_2(write, capsys):
    path = write(BROKEN)
    assert main(["validate", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{path}:4:" in captured.err
    assert main(["validate", "--format", "json", path]) == 2
    defects = json.loads(capsys.readouterr().out)["defects"]
    assert defects[0]["line"] == 4


def test_a_missing_file_exits_with_2(capsys):
    assert main(["validate", "no-such-file.yaml"]) == 2
    assert "no-such-file.yaml" in capsys.readouterr().err


def test_wrong_words_exit_with_2_and_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["validat", "x"])
    assert stopped.value.code == 2
    assert "did you mean 'validate'?" in capsys.readouterr().err
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_text_from_a_document_cannot_drive_the_terminal(write, capsys):
    path = write(WARNED + 'waive: {unused-event: "\\e[31mred\\r\\nline"}\n')
    main(["validate", path])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out


def test_the_graph_can_come_from_standard_input():
    done = ask("validate", "-", input=GOOD)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_its_file_and_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert name in capsys.readouterr().out


@pytest.mark.parametrize("words", [["validate"], ["diff"]])
def test_checking_imports_nothing_heavy(write, words):
    path = write(GOOD)
    words = [*words, path] if words == ["validate"] else [*words, path, path]
    code = (
        "import sys; from stagegraph.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transitions', 'numpy', 'scipy', 'pandas', 'matplotlib'}; "
        "own = {'stagegraph.engine', 'stagegraph.actions', 'stagegraph.session'}; "
        "sys.exit(str(sorted((heavy | own) & set(sys.modules))) "
        "if (heavy | own) & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_and_a_closed_pipe_are_quiet(monkeypatch, write, tmp_path):
    path = write(GOOD)

    def interrupted(_words):
        raise KeyboardInterrupt

    monkeypatch.setattr("stagegraph.cli.main._run", interrupted)
    assert main(["validate", path]) == INTERRUPTED


def test_a_closed_pipe_is_quiet(write):
    code = (
        "import os, sys; from stagegraph.cli.main import main; "
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "validate", write(GOOD)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


def test_the_schema_is_written_to_a_folder_or_a_file(tmp_path, capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "stages" in schema["properties"]
    assert main(["schema", "-o", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "stagegraph.schema.json").read_text("utf-8")) == schema
    assert main(["schema", "-o", str(tmp_path / "deep" / "own.json")]) == 0
    assert json.loads((tmp_path / "deep" / "own.json").read_text("utf-8")) == schema


def test_the_version():
    done = ask("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("stagegraph ")
