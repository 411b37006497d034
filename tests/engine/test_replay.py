"""Replay: a run cut at any tick, with its journal's tail, decides as it did (S12, S21)."""

import json
import random

import pytest

from stagegraph.engine.commands import Message
from stagegraph.engine.replay import Outside, known_ids, outside
from stagegraph.engine.simulate import simulate
from tests.engine.driving import Run

TIMED = """
events: [go, other]
metrics: {m: {goal: minimize}, v: {goal: minimize, every: 40 s}}
budget: {seconds: 300}
initial: a
stages:
  a:
    kind: train
    transitions:
      - {target: b, when: m < 0.35 and seconds < 25}
      - {target: c, when: elapsed(30 s)}
  b: {kind: train, duration: 20 s, next: c, min_duration: 12 s}
  c:
    kind: warmup
    during: [{type: lr_ramp, start: 0, over: 10 s}]
    next: d
  d:
    kind: train
    transitions:
      - {target: e, when: "plateau(m, patience=15 s)"}
      - {target: e, when: seconds / step > 9}
  e: {kind: train, transitions: [{target: f, when: event(go) and left(seconds) < 180}]}
  f: {kind: train, duration: 1 h, next: done}
  done: {kind: final}
interrupts:
  - {name: i, within: [d, e], when: "v < 0.5 and spent(seconds) > 70", target: a, at_most: 1,
     actions: [{type: snapshot, name: s}]}
  - {name: undo, within: [a], when: "visits(a) > 1 and elapsed(12 s)", target: d, at_most: 1,
     actions: [{type: roll_back, to: s, data: skip, rng: fork}]}
"""


class Timed(Run):
    """A run whose updates take as long as they take; a program that sends an event of its own."""

    def __init__(self, speed, **options):
        self.now = 0.0
        self.noise = random.Random(speed)
        super().__init__(TIMED, clock=lambda: self.now, **options)
        self.core.desk.checkpoint = lambda: "nowhere"

    def tick(self, n, mail=()):
        """The n-th update. Metrics are the same in every life of the run, times are not."""
        self.core.mail.extend(mail)
        self.now += self.noise.random() * 6
        values = random.Random(n)
        self.core.step(m=values.random())
        self.now += self.noise.random()
        if self.core.wants_evaluation:
            self.core.observe(v=random.Random(-n).random())
        elif n % 17 == 0:
            self.core.observe(v=random.Random(-n).random() + 0.4)
        self.now += self.noise.random()
        if n % 11 == 0 and not self.core.done:
            self.core.send("go")


MAIL = {
    9: [Message("1", "command", "extend", "7 s", "ann")],
    20: [Message("2", "event", "other", "", "ann"), Message("3", "command", "hold", "", "bob")],
    26: [Message("4", "command", "checkpoint"), Message("5", "command", "continue")],
    40: [Message("6", "command", "force", "d", "ann")],
    44: [Message("7", "event", "go", "", "ann")],
}
LENGTH = 90


def decided(run):
    kinds = ("move", "end", "roll_back", "blocked", "unblocked")
    return [
        (r["type"], r["boundary"], r["step"], r.get("edge"), r.get("kind"), r.get("reason"))
        for r in run
        if r["type"] in kinds
    ]


def whole(speed):
    """A run, with its state and the length of its journal after every tick."""
    run = Timed(speed)
    run.core.start()
    cuts = []
    for n in range(1, LENGTH + 1):
        cuts.append((json.dumps(run.core.state_dict()), len(run)))
        run.tick(n, MAIL.get(n, ()))
    return run, cuts


@pytest.mark.parametrize("speed", range(3))
def test_a_run_cut_at_any_tick_decides_as_it_did(speed):
    run, cuts = whole(speed)
    assert len(decided(run)) >= 8
    for cut in range(speed, LENGTH, 3):
        state, mark = cuts[cut]
        other = Timed(speed + 1000 * (cut + 1))
        other.core.load_state_dict(json.loads(state))
        other.core.replay(outside(run[mark:]))
        for n in range(cut + 1, LENGTH + 1):
            other.tick(n)
        end = run[-1]["boundary"]
        before = [row for row in decided(other) if row[1] <= end]
        assert decided(run[:mark]) + before == decided(run), f"cut after {cut} updates"
        assert mail(run[mark:]) <= mail(other), f"cut after {cut} updates"


def mail(records):
    """The messages of a journal, but for the checkpoint, which decides nothing."""
    return {r["id"] for r in records if r.get("id") and r["name"] != "checkpoint"}


def test_without_its_readings_a_run_decides_otherwise():
    run, cuts = whole(3)
    state, mark = cuts[0]
    other = Timed(999)
    other.core.load_state_dict(json.loads(state))
    for n in range(1, LENGTH + 1):
        other.tick(n)
    assert decided(other) != decided(run[mark:])


def test_the_clock_goes_on_after_its_last_reading():
    run = Run(
        "initial: a\nstages: {a: {kind: train, duration: 10 s, next: b}, b: {kind: train,"
        " duration: 10 s, next: c}, c: {kind: final}}\n"
    )
    run.core.start()
    run.core.replay(Outside(readings=((3, 0, 10.0),)))
    run.step(2, seconds=7.0)
    assert run.stage == "a" and run.core.progress.seconds == 0
    run.step(seconds=1.0)
    assert run.stage == "b" and run.core.progress.seconds == 10.0
    run.step(seconds=4.0)
    assert run.core.progress.seconds == 14.0


def test_replay_survives_another_checkpoint_on_the_way():
    """Cut twice: what the first tail still held is in the second state."""
    run, cuts = whole(2)
    state, mark = cuts[5]
    middle = Timed(77)
    middle.core.load_state_dict(json.loads(state))
    middle.core.replay(outside(run[mark:]))
    for n in range(6, 15):
        middle.tick(n)
    saved, second = json.dumps(middle.core.state_dict()), len(middle)
    middle.tick(15)
    last = Timed(78)
    last.core.load_state_dict(json.loads(saved))
    last.core.replay(outside(middle[second:]))
    for n in range(15, LENGTH + 1):
        last.tick(n)
    end = run[-1]["boundary"]
    rows = decided(run[:mark]) + decided(middle[:second]) + decided(last)
    assert [row for row in rows if row[1] <= end] == decided(run)


LISTENING = """
events: [go]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: event(go)}]}
  b: {kind: train, transitions: [{target: c, when: event(go)}]}
  c: {kind: final}
"""


def test_an_event_that_the_program_sends_again_counts_once():
    run = Run(LISTENING).step(3)
    run.core.send("go")
    run.step(3)
    for again in (True, False):
        other = Run(LISTENING)
        other.core.start()
        other.core.replay(outside(run))
        other.step(3)
        if again:
            other.core.send("go")
        other.step(3)
        assert other.moves == run.moves == [(4, "main:a.transitions[0]")]


def test_messages_are_known_by_their_ids_and_come_once():
    rows = [
        {"type": "command", "boundary": 3, "name": "hold", "status": "taken", "id": "x"},
        {"type": "event", "boundary": 4, "name": "go", "status": "sent", "seen_at": 5},
        {"type": "command", "boundary": 5, "name": "force", "status": "refused", "id": "y"},
        {"type": "command", "boundary": 6, "name": "checkpoint", "status": "taken", "id": "z"},
        {"type": "resume", "keep": 0, "boundary": 0},
        {"type": "command", "boundary": 3, "name": "hold", "status": "taken", "id": "x"},
        {"type": "event", "boundary": 4, "name": "go", "status": "sent", "seen_at": 5},
        {"type": "event", "boundary": 4, "name": "go", "status": "sent", "seen_at": 5},
    ]
    found = outside(rows)
    names = {number: [m.name for m in messages] for number, messages in found.mail.items()}
    assert names == {3: ["hold"], 5: ["go", "go"]}
    assert known_ids(rows) == {"x", "y", "z"}
    assert Outside.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_replayed_mail_is_not_answered_but_journalled_again():
    run = Run(LISTENING)
    run.core.start()
    answers = []
    run.core.desk.answer = answers.append
    mail = {2: (Message("1", "command", "hold", "", "ann", replayed=True),)}
    run.core.replay(Outside(mail))
    run.step(4)
    assert answers == [] and run.of_type("command", "boundary", "id") == [(2, "1")]


def test_a_pause_that_is_over_is_not_replayed_and_one_that_is_not_is():
    def mail(*names):
        return tuple(Message(name + str(n), "command", name) for n, name in enumerate(names))

    def names(outside):
        return [m.name for m in outside.without_pauses().mail[3]]

    assert names(Outside({3: mail("hold", "pause", "checkpoint", "continue")})) == [
        "hold",
        "checkpoint",
    ]
    assert names(Outside({3: mail("pause", "pause", "stop")})) == ["stop"]
    assert names(Outside({3: mail("continue", "pause")})) == ["continue", "pause"]
    first, second = Outside({3: mail("pause")}), Outside({3: mail("pause", "continue")})
    assert names(first + second) == []


def test_a_simulation_on_a_journal_follows_its_commands(tmp_path):
    run = Run(LISTENING)
    run.core.start()
    for n in range(1, 12):
        if n == 3:
            run.core.mail.append(Message("1", "command", "hold", "", "ann"))
        if n == 5:
            run.core.mail.append(Message("2", "event", "go", "", "ann"))
        if n == 7:
            run.core.mail.append(Message("3", "command", "continue"))
            run.core.mail.append(Message("4", "event", "go"))
        if n == 9:
            run.core.mail.append(Message("5", "command", "force", "c"))
        run.step()
    assert run.core.done and run.entered[1:] == [(7, "main:b"), (9, "main:c")]
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in run))
    plan = simulate(run.graph, metrics=path)
    assert [(r["boundary"], r["target"]) for r in plan.moves] == run.entered
    assert plan.ended == "final"


def test_a_checkpoint_made_in_a_pause_is_continued_if_the_run_was():
    run = Run(LISTENING)
    run.core.start()
    waiting = ["checkpoint", "continue"]
    run.core.desk.idle = lambda: run.core.mail.append(
        Message(waiting[0], "command", waiting.pop(0), "", "ann")
    )
    saved = []

    def keep():
        saved.append((json.dumps(run.core.state_dict()), len(run)))
        return "here"

    run.core.desk.checkpoint = keep
    run.core.mail.append(Message("p", "command", "pause", "", "ann"))
    run.step(4)
    state, mark = saved[0]
    other = Run(LISTENING)
    other.core.desk.idle = pytest.fail
    other.core.load_state_dict(json.loads(state))
    other.core.replay(outside(run[mark:]))
    other.core.start()
    assert other.core.state.commands.paused is None
    assert other.step(3).core.state_dict() == run.core.state_dict()


def test_the_clock_is_journalled_only_where_a_decision_may_hang_on_it():
    run = Run(
        "initial: a\nstages: {a: {kind: train, duration: 10 s, next: b}, b: {kind: train,"
        " duration: 1k steps, next: c}, c: {kind: final}}\n"
    )
    run.step(40, seconds=3.0)
    assert run.of_type("reading", "boundary") == [4]
    assert run.moves == [(4, "main:a.next")]
    steps = Run(LISTENING).step(40)
    assert steps.of_type("reading") == []


def test_mail_that_a_failed_boundary_was_decided_with_comes_again_at_that_boundary():
    failed = {"type": "error", "boundary": 7, "mail": ["5.0"]}
    taken = {"type": "command", "boundary": 8, "status": "taken", "name": "continue", "id": "5.0"}
    mail = outside([failed, taken]).mail
    assert [(at, [m.name for m in messages]) for at, messages in mail.items()] == [
        (7, ["continue"])
    ]
