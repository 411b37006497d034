"""The inbox: whole messages only, each once, and nothing in it stops a run."""

import json
import os

import pytest

from stagegraph.engine.commands import Message
from stagegraph.errors import RunFolderError
from stagegraph.runs import inbox as module
from stagegraph.runs.inbox import Answer, Inbox, author_here, post, read_answer

HOLD = Message("", "command", "hold", "arch", "ann@box")
OWN = "20260101T000000.000000Z-" + "0" * 32


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def put(run, text, name=f"{OWN}.json"):
    (run / "inbox").mkdir(exist_ok=True)
    path = run / "inbox" / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def whole(**changed):
    data = {
        "version": 1,
        "id": OWN,
        "kind": "command",
        "name": "hold",
        "argument": "",
        "author": "ann",
        "sent": "2026-01-01",
    }
    return json.dumps({**data, **changed})


def test_a_message_is_read_once_answered_and_removed(tmp_path):
    own = post(tmp_path, HOLD)
    inbox = Inbox(tmp_path)
    (message,) = inbox.read()
    assert message == Message(own, "command", "hold", "arch", "ann@box")
    assert inbox.read() == [] and names(tmp_path / "inbox") == [f"{own}.json"]
    assert read_answer(tmp_path, own) is None
    inbox.answer(Answer(own, "taken", "held in arch:train", 7))
    assert names(tmp_path / "inbox") == []
    assert read_answer(tmp_path, own) == Answer(own, "taken", "held in arch:train", 7)
    assert names(tmp_path / "answers") == [], "whoever has read it, removes it"


def test_messages_come_in_the_order_they_were_sent(tmp_path):
    ids = [post(tmp_path, HOLD) for _ in range(9)]
    assert [m.id for m in Inbox(tmp_path).read()] == ids


def test_no_more_than_so_many_come_at_once(tmp_path):
    for index in range(module.MOST_AT_ONCE + 3):
        put(tmp_path, whole(id=f"{OWN[:-3]}{index:03}"), f"{OWN[:-3]}{index:03}.json")
    inbox = Inbox(tmp_path)
    assert len(inbox.read()) == module.MOST_AT_ONCE
    assert len(inbox.read()) == 3


def test_a_message_that_the_journal_knows_is_answered_and_not_taken_again(tmp_path):
    own = post(tmp_path, HOLD)
    inbox = Inbox(tmp_path, known={own})
    assert inbox.read() == []
    assert names(tmp_path / "inbox") == []
    assert "the journal tells of it" in read_answer(tmp_path, own).text


def test_a_message_that_was_not_answered_is_read_after_a_crash(tmp_path):
    own = post(tmp_path, HOLD)
    assert [m.id for m in Inbox(tmp_path).read()] == [own]
    assert [m.id for m in Inbox(tmp_path).read()] == [own]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "it is damaged"),
        (b'{"version": 1', "it is damaged"),
        (b"\xff\xfe", "it is damaged"),
        (b"[" * 60_000, "it is damaged"),
        (b"[]", "it is no mapping"),
        (whole(version=2), "its version is 2, of a newer stagegraph"),
        (whole(version="x"), "its version is x"),
        (whole(id="other"), "its id is not that of its name"),
        (whole(kind="shell"), "its kind is neither event nor command: 'shell'"),
        (whole(name=3), "'name' is no text"),
        (whole(argument="x" * 600), "'argument' is longer than 512 characters"),
    ],
)
def test_what_is_no_message_is_moved_away_with_the_reason(tmp_path, text, reason):
    put(tmp_path, text)
    inbox = Inbox(tmp_path)
    assert inbox.read() == []
    assert names(tmp_path / "inbox") == [f"{OWN}.json"], "it may be whole at the next look"
    assert inbox.read() == []
    assert names(tmp_path / "inbox") == ["refused"]
    assert (
        reason in json.loads((tmp_path / f"inbox/refused/{OWN}.json.reason").read_text())["reason"]
    )
    answer = read_answer(tmp_path, OWN)
    assert answer.status == "refused" and reason in answer.text


def test_a_message_that_shows_late_is_read(tmp_path):
    put(tmp_path, b"")
    inbox = Inbox(tmp_path)
    assert inbox.read() == []
    put(tmp_path, whole())
    assert [m.id for m in inbox.read()] == [OWN]


@pytest.mark.parametrize(
    "name", ["x.json", "notes.txt", f"{OWN}.jsonx", f"..{OWN}x.json"[1:] + "~"]
)
def test_foreign_files_are_moved_away(tmp_path, name):
    put(tmp_path, whole(), name)
    assert Inbox(tmp_path).read() == []
    if not name.startswith("."):
        assert names(tmp_path / "inbox") == ["refused"]
        assert names(tmp_path / "inbox/refused") == sorted([name, f"{name}.reason"])


def test_hidden_files_are_left_alone(tmp_path):
    put(tmp_path, whole(), ".nfs0001")
    assert Inbox(tmp_path).read() == [] and names(tmp_path / "inbox") == [".nfs0001"]


def test_a_large_file_is_refused_unread(tmp_path):
    put(tmp_path, b" " * (module.MOST_BYTES + 1))
    assert Inbox(tmp_path).read() == []
    assert "longer than 65,536 bytes" in read_answer(tmp_path, OWN).text


def test_links_pipes_and_folders_are_no_messages(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(whole())
    (tmp_path / "inbox").mkdir()
    (tmp_path / f"inbox/{OWN}.json").symlink_to(secret)
    pipe, folder = (f"{OWN[:-1]}{n}" for n in (1, 2))
    os.mkfifo(tmp_path / f"inbox/{pipe}.json")
    (tmp_path / f"inbox/{folder}.json").mkdir()
    assert Inbox(tmp_path).read() == []
    assert names(tmp_path / "inbox") == ["refused"]
    assert secret.read_text() == whole()
    assert read_answer(tmp_path, OWN).text == "it is a link"
    assert read_answer(tmp_path, pipe).text == "it is no plain file"


def test_what_cannot_be_moved_is_left_and_looked_at_no_more(tmp_path, monkeypatch):
    put(tmp_path, whole(), "foreign")
    inbox = Inbox(tmp_path)

    def fail(*_):
        raise OSError("read-only")

    monkeypatch.setattr(module.Path, "rename", fail)
    assert inbox.read() == [] and inbox.read() == []
    assert "foreign" in inbox._left_alone


def test_an_answer_that_cannot_be_written_is_tried_again(tmp_path):
    own = post(tmp_path, HOLD)
    inbox = Inbox(tmp_path)
    inbox.read()
    (tmp_path / "answers").write_text("in the way")
    inbox.answer(Answer(own, "taken", "held"))
    assert names(tmp_path / "inbox") == [f"{own}.json"]
    assert inbox.read() == []
    (tmp_path / "answers").unlink()
    assert inbox.read() == []
    assert read_answer(tmp_path, own).text == "held" and names(tmp_path / "inbox") == []


def test_files_that_vanish_under_the_reader_are_no_trouble(tmp_path, monkeypatch):
    post(tmp_path, HOLD)

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(module, "_read", stale)
    inbox = Inbox(tmp_path)
    assert inbox.read() == []
    monkeypatch.undo()
    assert len(inbox.read()) == 1


def test_answers_that_nobody_fetches_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_ANSWERS", 3)
    inbox = Inbox(tmp_path)
    for index in range(6):
        inbox.answer(Answer(f"{OWN[:-1]}{index}", "taken", "x"))
    assert names(tmp_path / "answers") == [f"{OWN[:-1]}{n}.json" for n in (3, 4, 5)]


def test_a_folder_without_an_inbox_has_no_messages(tmp_path):
    assert Inbox(tmp_path / "gone").read() == []


def test_a_message_for_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        post(tmp_path / "gone", HOLD)
    with pytest.raises(RunFolderError, match="'name' is longer than 128 characters"):
        post(tmp_path, Message("", "event", "x" * 129, "", "ann"))
    assert names(tmp_path) == []


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(RunFolderError, match="disk full"):
        post(tmp_path, HOLD)
    assert names(tmp_path / "inbox") == []


def test_the_author_is_user_at_host():
    assert "@" in author_here()
