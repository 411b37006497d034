"""Hands: a run is reached through its folder, by a thread that decides nothing."""

import json
import os
import threading
import time
import weakref

import pytest

import stagegraph as sg
from stagegraph.engine.commands import Message
from stagegraph.engine.replay import known_ids, outside
from stagegraph.runs.inbox import Inbox, post, read_answer
from stagegraph.runs.journal import read_journal
from stagegraph.runs.status import Place, presence, read_status
from stagegraph.session import hands as module
from stagegraph.session.status import Rate

GRAPH = """\
stagegraph: 1
name: reached from outside
metrics: {loss: {goal: minimize}}
events: [go]
budget: {steps: 1M}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: other, when: event(go)}]
    duration: 100k steps
    next: done
  other: {kind: train, duration: 5 steps, next: done}
  done: {kind: final}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "WRITE", 0.05)
    monkeypatch.setattr(module, "PAUSED_LOOK", 0.01)


@pytest.fixture
def engine(tmp_path):
    engine = sg.Engine(sg.load(GRAPH), run=tmp_path / "a")
    engine.start()
    yield engine
    engine.close()


def folder(engine):
    return engine._record.folder.path


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return found


def command(name, argument="", kind="command"):
    return Message("", kind, name, argument, "ann@box")


def ask(engine, name, argument="", kind="command"):
    """Send, train until it is answered, and give the answer."""
    own = post(folder(engine), command(name, argument, kind))

    def answered():
        engine.step(loss=1.0)
        return read_answer(folder(engine), own)

    return until(answered)


def test_a_command_in_the_inbox_is_taken_answered_and_journalled(engine):
    answer = ask(engine, "hold")
    assert (answer.status, answer.text) == (
        "taken",
        "held in main:train, until 'continue' or a 'force'",
    )
    (told,) = [r for r in read_journal(folder(engine) / "journal.jsonl") if r["type"] == "command"]
    assert told["author"] == "ann@box" and told["boundary"] == answer.boundary
    assert told["id"] == answer.id
    assert list((folder(engine) / "inbox").iterdir()) == []


def test_an_event_in_the_inbox_is_heard(engine):
    assert ask(engine, "go", kind="event").text.startswith("heard at boundary")
    assert engine.stages == {"main": "other"}


def test_a_checkpoint_is_kept_when_one_is_asked_for(engine):
    answer = ask(engine, "checkpoint")
    number = engine._record.saving.store.generations()[-1].number
    assert (answer.status, answer.text) == ("taken", f"checkpoint {number}")


def test_a_paused_run_stands_still_and_shows_that_it_lives(engine):
    post(folder(engine), command("pause"))
    paused = threading.Event()

    def continued():
        until(lambda: (read_status(folder(engine)) or {}).get("state") == "paused")
        first = read_status(folder(engine))
        until(lambda: read_status(folder(engine))["written"] > first["written"])
        assert read_status(folder(engine))["step"] == first["step"]
        paused.set()
        post(folder(engine), command("continue"))

    other = threading.Thread(target=continued)
    other.start()
    until(lambda: engine.step(loss=1.0) or paused.is_set())
    other.join()
    assert engine._core.state.commands.paused is None


def test_a_stopped_run_answers_what_comes_after_its_end(engine):
    assert ask(engine, "stop").status == "taken"
    assert engine.done and engine.ended == "stopped"
    own = post(folder(engine), command("hold"))
    engine.close()
    assert read_answer(folder(engine), own).text == "the run has ended (stopped)"
    status = read_status(folder(engine))
    assert (status["state"], status["ended"]) == ("done", "stopped")
    assert presence(status).words == "the run has ended (stopped)"


def test_a_stopped_run_that_is_gone_on_with_is_over(engine):
    ask(engine, "stop")
    engine.close()
    with sg.Engine(sg.load(GRAPH), run=folder(engine)) as again:
        assert again.resume()
        assert again.done and again.ended == "stopped"


def test_a_message_that_no_boundary_took_stays_for_the_run_that_goes_on(engine):
    own = post(folder(engine), command("hold"))
    engine.close()
    assert [path.stem for path in (folder(engine) / "inbox").iterdir()] == [own]
    assert read_status(folder(engine))["state"] == "closed"


def test_the_status_tells_how_the_run_stands(engine):
    for _ in range(7):
        engine.step(loss=0.5)
    until(lambda: read_status(folder(engine))["step"] == 7)
    status = read_status(folder(engine))
    assert status["stages"] == {"main": "train"} and status["in_stage"] == {"main": 7}
    assert status["pid"] == os.getpid() and status["host"] == Place.here().host
    assert status["state"] == "running" and status["graph"] == "reached from outside"
    assert status["waits"] == ["other: event(go)", "done: 7/1e+05 steps"]
    assert status["budget"] == {"steps": {"left": 999993.0, "of": 1000000}}
    assert [r["type"] for r in status["noted"]] == ["move"]
    assert presence(status).running


def test_values_that_json_does_not_know_are_told_in_words(engine):
    engine.observe(loss=float("nan"))
    until(lambda: "loss" in read_status(folder(engine))["metrics"])
    json.loads((folder(engine) / "status.json").read_text(), parse_constant=pytest.fail)


def test_the_thread_ends_with_the_engine(engine):
    thread = engine._record.hands._thread
    assert engine._record.hands.alive and thread.daemon
    engine.close()
    assert not thread.is_alive() and not engine._record.hands.alive


def test_the_thread_ends_with_the_run(engine):
    ask(engine, "stop")
    until(lambda: not engine._record.hands._thread.is_alive())


def test_an_engine_that_nobody_holds_is_not_kept_alive(tmp_path):
    engine = sg.Engine(sg.load(GRAPH), run=tmp_path / "a")
    engine.start()
    core, thread = weakref.ref(engine._core), engine._record.hands._thread
    del engine
    until(lambda: core() is None)
    until(lambda: not thread.is_alive())


def test_an_engine_without_a_folder_has_no_thread():
    before = set(threading.enumerate())  # one that an earlier test has left may end meanwhile
    engine = sg.Engine(sg.load(GRAPH))
    engine.start()
    assert set(threading.enumerate()) <= before and engine._record is None


def test_trouble_ends_neither_the_run_nor_the_hands(engine, monkeypatch):
    def fail(*_, **__):
        raise ValueError("unexpected")

    monkeypatch.setattr(module, "status_of", fail)
    until(lambda: engine._record.hands.trouble == "ValueError: unexpected")
    monkeypatch.undo()
    assert ask(engine, "hold").status == "taken"
    until(lambda: read_status(folder(engine))["trouble"] == "ValueError: unexpected")


@pytest.mark.filterwarnings("ignore:a checkpoint could not be written")
def test_a_folder_that_is_gone_ends_nothing(engine, tmp_path):
    engine._record.saving.settle()
    (tmp_path / "a").rename(tmp_path / "b")
    until(lambda: engine._record.hands.trouble is not None)
    assert not (tmp_path / "a").exists(), "it is not made again"
    (tmp_path / "b").rename(tmp_path / "a")
    assert ask(engine, "hold").status == "taken"


def test_a_damaged_message_does_not_stop_the_run(engine):
    (folder(engine) / "inbox").mkdir(exist_ok=True)
    (folder(engine) / "inbox" / "nonsense").write_bytes(b"\x00" * 99)
    assert ask(engine, "hold").status == "taken"
    assert (folder(engine) / "inbox" / "refused" / "nonsense").exists()


def test_messages_that_the_journal_knows_are_not_taken(tmp_path):
    engine = sg.Engine(sg.load(GRAPH), run=tmp_path / "a")
    own = post(tmp_path / "a", command("stop"))
    engine._record.hands.know([own])
    for _ in range(3):
        engine.step(loss=1.0)
    engine._record.hands._once(engine._core)
    engine.step(loss=1.0)
    if "journal tells" in (read_answer(tmp_path / "a", own) or ask(engine, "stop")).text:
        assert not engine.done
    engine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_leaves_the_inbox_to_its_parent(engine):
    own = post(folder(engine), command("hold"))
    hands = engine._record.hands
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        from stagegraph.engine.taking import Verdict

        hands.answer(Verdict(Message(own, "command", "hold"), "taken", "by the child"))
        hands.close()
        os.write(write, b"1" if not hands.alive else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    assert hands.alive
    answer = until(lambda: engine.step(loss=1.0) or read_answer(folder(engine), own))
    assert answer.text != "by the child"


def test_the_rate_is_that_of_the_last_while():
    rate = Rate(10)
    assert rate.of(0, 0.0) is None
    assert rate.of(50, 5.0) == 10
    assert rate.of(70, 25.0) == 1


def test_a_message_taken_before_a_crash_is_known_by_the_journal(engine, monkeypatch):
    """The process dies after the journal tells of the message and before it is answered."""
    monkeypatch.setattr(engine._core.desk, "answer", None)
    own = post(folder(engine), command("hold"))
    until(lambda: engine.step(loss=1.0) or engine._core.state.commands.held)
    assert [path.stem for path in (folder(engine) / "inbox").iterdir()] == [own]
    records = read_journal(folder(engine) / "journal.jsonl")
    assert known_ids(records) == {own}
    again = Inbox(folder(engine), known_ids(records))
    assert again.read() == []
    assert list((folder(engine) / "inbox").iterdir()) == []
    assert "the journal tells of it" in read_answer(folder(engine), own).text
    (replayed,) = outside(records).mail.values()
    assert [message.id for message in replayed] == [own]
