"""``send``, ``control`` and ``watch``, on the folder of a run."""

import json
import threading
import time

import pytest

import stagegraph as sg
from stagegraph.cli import messages
from stagegraph.cli import watch as watching
from stagegraph.cli.main import main
from stagegraph.session import hands as module

GRAPH = """\
stagegraph: 1
name: reached from outside
metrics: {loss: {goal: minimize}}
events: [go]
budget: {steps: 1M}
regions:
  arch:
    initial: train
    stages:
      train:
        kind: train
        transitions: [{target: other, when: event(go)}]
        duration: 100k steps
        next: done
      other: {kind: train, duration: 90k steps, next: done}
      done: {kind: final}
  data:
    initial: easy
    stages: {easy: {kind: train, duration: 90k steps, next: hard}, hard: {kind: train}}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "WRITE", 0.05)
    monkeypatch.setattr(module, "PAUSED_LOOK", 0.01)
    monkeypatch.setattr(messages, "LOOK", 0.01)


@pytest.fixture
def run(tmp_path):
    """A run that goes on in a thread of its own."""
    engine = sg.Engine(sg.load(GRAPH), run=tmp_path / "a")
    engine.start()
    over = threading.Event()

    def train():
        while not over.is_set() and not engine.done:
            engine.step(loss=0.5)
            time.sleep(0.002)

    thread = threading.Thread(target=train)
    thread.start()
    engine.folder = str(tmp_path / "a")
    yield engine
    over.set()
    thread.join()
    engine.close()


@pytest.fixture
def left(tmp_path):
    """A folder that its process has left."""
    engine = sg.Engine(sg.load(GRAPH), run=tmp_path / "b")
    engine.start()
    for _ in range(5):
        engine.step(loss=0.5)
    engine.close()
    return str(tmp_path / "b")


def test_a_command_is_answered(run, capsys):
    assert main(["control", run.folder, "hold", "arch"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("taken at boundary ")
    assert out.endswith(": held in arch:train, until 'continue' or a 'force'\n")
    assert main(["control", run.folder, "extend", "500", "steps", "arch"]) == 0
    assert "arch:train is completed 500 steps later" in capsys.readouterr().out


def test_a_refused_command_exits_with_1(run, capsys):
    assert main(["control", run.folder, "continue"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the run is neither paused nor held" in captured.err


def test_an_event_is_answered(run, capsys):
    assert main(["send", run.folder, "go"]) == 0
    assert "heard at boundary" in capsys.readouterr().out
    assert main(["send", run.folder, "go"]) == 1
    assert "ignored" in capsys.readouterr().err


def test_a_run_is_paused_continued_and_stopped(run, capsys):
    assert main(["control", run.folder, "pause"]) == 0
    assert main(["control", run.folder, "hold", "--wait", "0.05"]) == 0
    assert "no answer within 0.05 s" in capsys.readouterr().out
    assert main(["control", run.folder, "continue"]) == 0
    assert main(["control", run.folder, "stop"]) == 0
    assert "the run ends at this boundary" in capsys.readouterr().out
    assert run.ended == "stopped"
    run.close()
    assert main(["control", run.folder, "hold"]) == 1
    assert "the run has ended (stopped); nothing takes messages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["send", "goo"], "event 'goo' is not declared in 'events'; did you mean 'go'?"),
        (["control", "paus"], "there is no command 'paus'; did you mean 'pause'?"),
        (["control", "force", "arch:othr"], "did you mean 'other'?"),
        (["control", "extend", "500", "stps"], "unknown unit 'stps'"),
        (["control", "extend", "500", "steps"], "extend which region's stage?"),
    ],
)
def test_unknown_words_are_told_before_anything_is_sent(left, tmp_path, capsys, words, told):
    assert main([words[0], left, *words[1:]]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "b" / "inbox").exists()


@pytest.mark.parametrize("command", [["send", "go"], ["control", "hold"], ["watch"]])
def test_a_folder_without_a_run_exits_with_2(tmp_path, capsys, command):
    assert main([command[0], str(tmp_path), *command[1:]]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_where_nobody_runs_it_a_message_waits(left, tmp_path, capsys):
    assert main(["control", left, "hold", "arch"]) == 0
    out = capsys.readouterr().out
    assert out == "sent; its process has left it: it will be taken when the run goes on\n"
    assert len(list((tmp_path / "b" / "inbox").iterdir())) == 1


def test_without_a_wait_it_is_only_sent(run, capsys):
    assert main(["send", run.folder, "go", "--wait", "0"]) == 0
    assert capsys.readouterr().out == "sent\n"


def test_a_wait_that_is_no_time_is_refused(left, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["send", left, "go", "--wait", "-1"])
    assert stopped.value.code == 2


def test_watch_shows_how_a_run_stands_once_where_nobody_looks_on(run, capsys):
    main(["control", run.folder, "hold", "data"])
    capsys.readouterr()
    time.sleep(0.2)
    assert main(["watch", run.folder]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "reached from outside  running"
    assert "steps/s" in lines[1]
    assert any(line.startswith("arch      train  for ") for line in lines)
    assert any(line.startswith("data      easy  for ") and "held by" in line for line in lines)
    assert any(line.startswith("waits for data: 'continue' (held by ") for line in lines)
    assert any(line.startswith("metrics   loss") for line in lines)
    assert any("steps" in line and "of 1M left" in line for line in lines)
    assert any("hold data, by" in line and "taken" in line for line in lines)
    assert "\x1b" not in out


def test_watch_changes_nothing(left, tmp_path):
    def content():
        paths = sorted((tmp_path / "b").rglob("*"))
        return [(p, p.read_bytes(), p.stat().st_mtime_ns) for p in paths if p.is_file()]

    before = content()
    assert main(["watch", left, "--once"]) == 0
    assert content() == before


def test_watch_says_that_nobody_runs_it(left, tmp_path, capsys):
    assert main(["watch", left]) == 0
    assert capsys.readouterr().out.startswith("reached from outside  its process has left it\n")
    path = tmp_path / "b" / "status.json"
    status = json.loads(path.read_text())
    path.write_text(json.dumps({**status, "state": "running", "written": time.time() - 60}))
    assert main(["watch", left]) == 0
    assert "no sign of life for 60 s" in capsys.readouterr().out


def test_watch_shows_and_never_obeys_what_the_folder_says(left, tmp_path, capsys):
    path = tmp_path / "b" / "status.json"
    evil = "\x1b]0;owned\x07"
    status = {
        "graph": evil, "state": evil, "step": evil, "host": evil, "stages": {evil: evil},
        "waits": [evil, 3], "metrics": {evil: evil}, "alphas": {evil: 0.5}, "trouble": evil,
        "commands": {"held": {evil: evil}, "paused": evil}, "noted": [{"type": evil}, 7,
        {"type": "command", "name": evil, "author": evil}], "budget": {evil: {"left": 1, "of": 2}},
        "lr": [evil], "in_stage": [evil], "progress": evil, "written": time.time(),
    }  # fmt: skip
    path.write_text(json.dumps(status))
    assert main(["watch", left]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\\x1b" in out


def test_watch_without_a_status_tells_what_the_journal_says(left, tmp_path, capsys):
    (tmp_path / "b" / "status.json").write_bytes(b"\xff")
    assert main(["watch", left]) == 0
    assert capsys.readouterr().out.startswith("reached from outside: unfinished\n")


def test_watch_in_a_terminal_goes_on_until_the_end(run, capsys, monkeypatch):
    monkeypatch.setattr(watching, "EVERY", 0.02)
    monkeypatch.setattr(watching.sys.stdout, "isatty", lambda: True, raising=False)
    later = threading.Timer(0.3, lambda: main(["control", run.folder, "stop", "--wait", "0"]))
    later.start()
    assert main(["watch", run.folder]) == 0
    later.join()
    out = capsys.readouterr().out
    assert out.count("\x1b[2J") == 1 and out.count("\x1b[H") > 2
    assert "ended: stopped" in out


def test_explain_tells_what_was_commanded_and_by_whom(run, capsys):
    assert main(["control", run.folder, "force", "data:hard"]) == 0
    assert main(["control", run.folder, "force", "data:easy"]) == 0
    assert main(["control", run.folder, "stop"]) == 0
    run.close()
    capsys.readouterr()
    assert main(["explain", run.folder]) == 0
    out = capsys.readouterr().out
    assert "force data:hard, by " in out and ": taken: data:easy -> data:hard" in out
    assert "data:easy -> data:hard  (forced by " in out
    assert "the end (stopped by " in out
    assert main(["report", run.folder]) == 0
    page = (run._record.folder.path / "report.html").read_text()
    assert "force data:hard" in page and "stopped" in page
