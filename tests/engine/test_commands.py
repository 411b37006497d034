"""Commands: each taken at a boundary, answered, journalled with its author (S12)."""

import json

import pytest

from stagegraph.engine.commands import Message, read_command
from stagegraph.errors import CommandError, StageGraphError
from tests.engine.driving import Run

CHAIN = """
events: [go]
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    min_duration: 3 steps
    transitions: [{target: c, when: m < 1}]
    duration: 5 steps
    next: b
  b: {kind: train, transitions: [{target: c, when: elapsed(4 steps)}]}
  c: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
interrupts: [{name: i, within: [a], when: event(go), target: b}]
"""
TWO = """
events: [go]
max_overlap: 1
regions:
  x:
    initial: a
    stages:
      a: {kind: train, transitions: [{target: g, when: event(go)}]}
      g: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: w}
      w: {kind: consolidate, duration: 4 steps, next: end}
      end: {kind: train}
      z: {kind: final}
  y:
    initial: a
    stages:
      a: {kind: train, duration: 90 steps, next: z}
      g: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: w}
      w: {kind: consolidate, duration: 4 steps, next: z}
      b: {kind: train}
      z: {kind: final}
"""


class Desk:
    """Sends to a run, and keeps its answers."""

    def __init__(self, run):
        self.run, self.answers, self.sent = run, [], 0
        run.core.desk.answer = lambda v: self.answers.append((v.message.name, v.status, v.text))

    def send(self, name, argument="", *, kind="command", author="ann@box"):
        self.sent += 1
        self.run.core.mail.append(Message(f"m{self.sent}", kind, name, argument, author))
        return self

    @property
    def said(self):
        return self.answers[-1][1:]


def begun(document=CHAIN, steps=1, **options):
    run = Run(document, params=1, costs={"x:g": 1, "y:g": 1, "main:g": 1}, **options)
    run.core.start()
    return run.step(steps), Desk(run)


# force


def test_force_moves_at_the_next_boundary_whatever_guards_and_edges_say():
    run, desk = begun()
    desk.send("force", "c")
    assert run.step().stage == "c"
    (move,) = [r for r in run.of_type("move") if r["kind"] == "force"]
    assert (move["boundary"], move["edge"], move["author"]) == (2, None, "ann@box")
    assert (move["source"], move["target"]) == ("main:a", "main:c")
    assert desk.said == ("taken", "main:a -> main:c")
    (command,) = run.of_type("command")
    assert command["id"] == "m1" and command["status"] == "taken" and command["boundary"] == 2
    assert run.step(9).core.done


def test_a_forced_move_is_the_only_one_of_its_region():
    run, desk = begun(steps=4)
    desk.send("force", "b")
    run.step()
    assert run.entered[-1] == (5, "main:b") and len(run.entered) == 2


def test_force_goes_through_a_growth_and_runs_its_actions():
    run, desk = begun(TWO)
    desk.send("force", "x:g")
    run.step()
    assert run.stages["x"] == "w" and run.actor.deeds == ["x:g.actions[0]"]
    assert desk.said == ("taken", "x:a -> x:g -> x:w")
    assert run.of_type("growth", "cohort") == ["x:g#1"]


def test_force_passes_no_lock_of_another_region():
    run, desk = begun(TWO)
    desk.send("force", "x:g")
    run.step()
    desk.send("force", "y:g")
    run.step()
    assert desk.said == ("refused", "'x' not consolidated yet, and max_overlap is 1")
    assert run.stages == {"x": "w", "y": "a"}
    run.step(9)
    assert run.stages["y"] == "a", "what was refused does not come later"
    assert run.of_type("command", "status") == ["taken", "refused"]


def test_two_regions_are_not_forced_to_grow_at_one_boundary():
    run, desk = begun(TWO.replace("max_overlap: 1", "max_overlap: 2"))
    desk.send("force", "x:g").send("force", "y:g")
    run.step()
    assert run.stages == {"x": "w", "y": "a"}
    assert desk.answers == [
        ("force", "taken", "x:a -> x:g -> x:w"),
        ("force", "refused", "region 'x' changes the model at this boundary"),
    ]


def test_force_breaks_no_promise_of_its_own_consolidation():
    run, desk = begun(TWO)
    desk.send("force", "x:g")
    run.step()
    desk.send("force", "x:g")
    run.step()
    assert desk.said == ("refused", "its own consolidation 'w' is not completed")
    desk.send("force", "x:end")
    run.step()
    assert run.stages["x"] == "end", "it may be left for a stage that changes nothing"


def test_force_needs_room_in_the_budget():
    run, desk = begun("budget: {params: 1}" + TWO)
    desk.send("force", "x:g")
    run.step()
    expected = "it would add 1 parameters, and 0 are left of the budget"
    assert desk.said == ("refused", expected)


def test_force_leaves_no_final_stage():
    run, desk = begun(TWO)
    desk.send("force", "x:z")
    run.step()
    desk.send("force", "x:a")
    run.step()
    assert desk.said == ("refused", "x:z is final: it is never left")


def test_force_back_needs_what_an_interrupt_left():
    run, desk = begun()
    desk.send("force", "back")
    run.step()
    assert desk.said[0] == "refused" and "there is nothing to go back to" in desk.said[1]
    run.core.send("go")
    run.step()
    assert run.stage == "b"
    desk.send("force", "back")
    run.step()
    assert run.stage == "a" and desk.said == ("taken", "main:b -> main:a")
    assert run.step(3).moves[-1] == (6, "main:a.next"), "two of its five steps were over"


def test_a_forced_stage_whose_actions_fail_is_refused_and_the_run_goes_on():
    run, desk = begun(TWO)
    run.actor.failures = {"x:g.actions[0]": 1}
    desk.send("force", "x:g").send("hold", "y")
    run.step()
    assert desk.answers[0] == ("force", "refused", "x:g.actions[0]: told to fail")
    assert run.stages["x"] == "a" and run.of_type("error", "action") == ["x:g.actions[0]"]
    assert desk.said[0] == "taken", "the boundary is decided without it"


def test_a_forced_stage_that_selects_what_is_not_there_is_refused():
    run, desk = begun("""
initial: a
stages:
  a: {kind: train}
  w: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 2 steps}], next: done}
  done: {kind: final}
""")
    desk.send("force", "w")
    run.step(2)
    assert desk.said == (
        "refused",
        "main:w.during[0]: 'grown' is asked for, but nothing has grown yet",
    )
    assert run.stage == "a"


def test_the_later_of_two_forces_counts():
    run, desk = begun()
    desk.send("force", "b").send("force", "c", author="bob@box")
    run.step()
    assert run.stage == "c"
    assert desk.answers[0] == ("force", "refused", "bob@box forces 'main' elsewhere just after")


def test_a_rollback_cancels_a_forced_move():
    run, desk = begun("""
events: [undo]
regions:
  x:
    initial: a
    stages: {a: {kind: train, actions: [{type: snapshot, name: s}]}, z: {kind: final}}
    interrupts: [{name: u, when: event(undo), target: a, at_most: 1, actions: [
        {type: roll_back, to: s, data: skip}]}]
  y: {initial: a, stages: {a: {kind: train}, b: {kind: train}, z: {kind: final}}}
""")
    desk.send("force", "y:b").send("undo", kind="event")
    run.step()
    assert run.of_type("roll_back") and run.stages["y"] == "a"
    expected = "region 'x' returns everything to a snapshot at this boundary"
    assert desk.answers[0] == ("force", "refused", expected)
    desk.send("hold", "y")
    run.step()
    assert run.core.state.commands.held == {"y": "ann@box"}


def test_a_forced_move_that_is_cancelled_leaves_its_region_to_its_own_ways():
    """An event that the region's own way listens to is kept, as without the command."""
    run, desk = begun("""
events: [ping]
metrics: {m: {goal: minimize}}
regions:
  x:
    initial: a
    stages:
      a: {kind: train, transitions: [{target: try, when: step >= 2, at_most: 1}]}
      try:
        kind: trial
        options:
          - {name: deep, actions: [{type: deepen, stack: s, add: 1}]}
          - {name: wide, actions: [{type: deepen, stack: s, add: 2}]}
        over: 2 steps
        metric: m
        next: c
        otherwise: c
      c: {kind: consolidate, duration: 9 steps, next: a}
  y:
    initial: a
    stages:
      a: {kind: train, transitions: [{target: b, when: event(ping)}]}
      b: {kind: train}
      z: {kind: train}
""")
    desk.send("force", "y:z").send("ping", kind="event")
    run.step()
    assert run.stages == {"x": "try", "y": "a"}
    assert desk.answers[0][:2] == ("force", "refused")
    assert "begins to try growths" in desk.answers[0][2]
    assert list(run.core.state.blocked) == ["y:a.transitions[0]"]
    run.step(5)
    assert run.core.state.trial is None and run.stages["y"] == "b", "heard after the trial"


# hold and continue


def test_hold_shuts_all_ways_out_interrupts_included_until_continue():
    run, desk = begun(steps=2)
    desk.send("hold")
    run.step(m=0.5)
    run.core.send("go")
    run.step(8)
    assert run.stage == "a"
    blocked = run.of_type("blocked", "edge", "reason")
    assert blocked == [
        ("main:a.transitions[0]", "held by ann@box"),
        ("main:interrupts.i", "held by ann@box"),
        ("main:a.next", "held by ann@box"),
    ]
    explained = {e.edge: e.held_back for e in run.core.explain()}
    assert explained["main:a.next"] == "held by ann@box"
    assert run.core.waits()[0] == "'continue' (held by ann@box)"
    desk.send("continue")
    run.step()
    assert run.stage == "c" and desk.said == ("taken", "held no more: main")
    assert run.core.state.commands.held == {}


def test_hold_of_one_region_leaves_the_others_alone():
    run, desk = begun(TWO.replace("90 steps", "5 steps"), steps=3)
    desk.send("hold", "x").send("go", kind="event")
    run.step(9)
    assert run.stages == {"x": "a", "y": "z"}


def test_budgets_end_a_held_run():
    run, desk = begun("budget: {steps: 8}" + CHAIN)
    desk.send("hold")
    run.step(10)
    assert run.core.state.ended == "budget" and run.core.state.clock.step == 8


def test_force_ends_a_hold_but_not_one_said_after_it():
    run, desk = begun()
    desk.send("hold")
    run.step()
    desk.send("force", "b")
    run.step()
    assert run.stage == "b" and run.core.state.commands.held == {}
    desk.send("force", "c").send("hold")
    run.step(9)
    assert run.stage == "c" and run.core.state.commands.held == {"main": "ann@box"}


def test_continue_of_what_goes_on_is_refused():
    run, desk = begun()
    desk.send("continue")
    run.step()
    assert desk.said == ("refused", "the run is neither paused nor held")


# extend


def test_extend_completes_a_duration_later():
    run, desk = begun()
    desk.send("extend", "3 steps")
    run.step()
    assert desk.said == ("taken", "main:a is completed 3 steps later")
    assert "b: 2/8 steps" in run.core.waits()
    run.step(9)
    assert run.moves[0] == (8, "main:a.next")


def test_extend_lengthens_min_duration_too():
    run, desk = begun()
    desk.send("extend", "3 steps")
    run.step(9, m=0.5)
    assert run.moves[0] == (6, "main:a.transitions[0]")
    waits = begun()
    waits[1].send("extend", "3 steps")
    held = {e.edge: e.held_back for e in waits[0].step().core.explain()}
    words = "min_duration of 6 steps is not over (extended by ann@box)"
    assert held["main:a.transitions[0]"] == words


def test_extensions_add_up_and_end_with_the_stage():
    run, desk = begun()
    desk.send("extend", "1 step").send("extend", "2 steps")
    run.step(7)
    assert run.moves[0] == (8, "main:a.next")
    assert run.core.state.regions["main"].extended is None


def test_extend_of_a_stage_without_a_duration_puts_its_ways_off():
    run, desk = begun(steps=6)
    assert run.stage == "b"
    desk.send("extend", "10 steps")
    run.step()
    assert desk.said == (
        "taken",
        "main:b: its transitions and next are not asked for 10 steps more",
    )
    (explained,) = run.core.explain()
    assert explained.held_back == "extended by ann@box for 10 steps more"
    desk.send("extend", "5 steps")
    run.step(20)
    assert run.moves[1] == (22, "main:b.transitions[0]")


def test_extend_of_a_completed_stage_counts_from_now():
    run, desk = begun(steps=2)
    desk.send("hold")
    run.step(10)
    desk.send("extend", "3 steps").send("continue")
    run.step(9)
    assert run.moves[0] == (16, "main:a.next")


def test_extend_of_a_warmup_completes_its_ramps_later():
    run, desk = begun("""
initial: w
stages:
  w: {kind: warmup, during: [{type: lr_ramp, start: 0, over: 4 steps}], next: done}
  done: {kind: final}
""")
    desk.send("extend", "2 steps")
    run.step(9)
    assert run.moves == [(6, "main:w.next")]


def test_extend_survives_an_interrupt_that_comes_back():
    run, desk = begun()
    desk.send("extend", "10 steps")
    run.step()
    run.core.send("go")
    run.step()
    desk.send("force", "back")
    run.step()
    assert run.stage == "a" and run.core.state.regions["main"].extended is not None
    run.step(20)
    assert run.moves[1] == (16, "main:a.next"), "one step was away"


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("3 tokens", "no tokens have been counted in this run so far"),
        ("9 s", "what completes main:a is counted in steps \\(5 steps\\); extend it by"),
    ],
)
def test_extend_in_another_unit_is_refused(argument, reason):
    run, desk = begun(steps=0)
    run.step(seconds=1.0)
    desk.send("extend", argument)
    run.step(seconds=1.0)
    assert desk.said[0] == "refused"
    with pytest.raises(CommandError, match=reason):
        raise CommandError(desk.said[1])


def test_extend_of_a_final_stage_is_refused():
    run, desk = begun(TWO)
    desk.send("force", "x:z")
    run.step()
    desk.send("extend", "5 steps x")
    run.step()
    assert desk.said == ("refused", "x:z is final: it is never left")


# stop, checkpoint, pause


def test_stop_ends_the_run_after_the_moves_of_its_boundary():
    run, desk = begun(steps=4)
    desk.send("stop")
    run.step()
    assert run.core.state.ended == "stopped" and run.stage == "b"
    end = run[-1]
    assert (end["type"], end["reason"], end["author"]) == ("end", "stopped", "ann@box")
    assert run.actor.boundaries[-1].held == ()
    assert run.step(3).core.progress.step == 5


def test_checkpoint_asks_whoever_keeps_them():
    run, desk = begun()
    desk.send("checkpoint")
    run.step()
    assert desk.said == ("refused", "this engine keeps no checkpoints")
    kept = []

    def keep():
        kept.append(run.core.state_dict()["engine"]["spent"])
        return "gen-1"

    run.core.desk.checkpoint = keep
    desk.send("checkpoint")
    run.step()
    assert desk.said == ("taken", "gen-1") and kept == [{"step": 3}]

    def fail():
        raise StageGraphError("the disk is full")

    run.core.desk.checkpoint = fail
    desk.send("checkpoint")
    run.step()
    assert desk.said == ("refused", "no checkpoint was kept: the disk is full")
    assert run.of_type("command", "status") == ["refused", "taken", "refused"]


def test_pause_needs_somebody_who_can_continue():
    run, desk = begun()
    desk.send("pause")
    run.step()
    assert desk.said == (
        "refused",
        "this engine has no inbox from which it could be continued",
    )


def paused(*then, steps=4, clock=None):
    run, desk = begun(steps=steps, clock=clock)
    waiting = list(then)

    def idle():
        name, argument = waiting.pop(0)
        desk.send(name, argument)

    run.core.desk.idle = idle
    desk.send("pause")
    return run, desk


def test_pause_stays_at_its_boundary_until_continue():
    run, desk = paused(("hold", ""), ("checkpoint", ""), ("nonsense", ""), ("continue", ""))
    run.step()
    assert run.stage == "b", "the boundary was decided first"
    assert [answer[:2] for answer in desk.answers] == [
        ("pause", "taken"),
        ("checkpoint", "refused"),
        ("continue", "taken"),
    ]
    assert run.core.state.commands.paused is None
    run.step()
    assert [answer[:2] for answer in desk.answers[3:]] == [
        ("hold", "taken"),
        ("nonsense", "refused"),
    ], "other mail is taken at the boundary after"


def test_a_paused_run_can_be_stopped():
    run, _ = paused(("stop", ""))
    run.step()
    assert run.core.state.ended == "stopped" and run.core.state.commands.paused is None
    assert run[-1]["author"] == "ann@box" and run.actor.boundaries[-1].held == ()
    assert [r["type"] for r in run[-4:]] == ["command", "move", "command", "end"]


def test_time_paused_does_not_count():
    now = [0.0]
    run, _ = paused(("continue", ""), clock=lambda: now[0])
    inner = run.core.desk.idle

    def idle():
        now[0] += 1000
        inner()

    run.core.desk.idle = idle
    now[0] += 1
    run.step()
    now[0] += 2
    run.step()
    assert run.core.progress.seconds == 3


def test_ctrl_c_ends_the_wait_and_loses_no_mail():
    run, desk = begun()
    calls = []

    def idle():
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        desk.send("hold")

    run.core.desk.idle = idle
    desk.send("pause")
    with pytest.raises(KeyboardInterrupt):
        run.step()
    assert run.core.state.commands.paused == "ann@box"
    assert [m.name for m in run.core.mail] == ["hold"]
    run.core.desk.idle = lambda: desk.send("continue")
    run.step()
    assert run.core.state.commands.paused is None, "it was still paused at the next look"


def test_a_paused_run_is_still_paused_when_it_is_resumed():
    run, desk = begun()

    def idle():
        run.saved = json.loads(json.dumps(run.core.state_dict()))
        desk.send("continue")

    run.core.desk.idle = idle
    desk.send("pause")
    run.step()
    other = Run(CHAIN)
    other.core.load_state_dict(run.saved)
    waited = []

    def wait():
        waited.append(other.core.progress.step)
        other.core.mail.append(Message("c", "command", "continue"))

    other.core.desk.idle = wait
    other.core.start()
    assert waited == [2] and other.core.state.commands.paused is None


# Events, and what all mail has in common


def test_an_event_from_the_inbox_is_seen_at_the_boundary_that_takes_it():
    run, desk = begun()
    desk.send("go", kind="event")
    run.step()
    assert run.moves == [(2, "main:interrupts.i")]
    assert desk.said == (
        "taken",
        "heard at boundary 2 by main:interrupts.i (main:a -> main:b)",
    )
    sent = run.of_type("event")[0]
    assert (sent["author"], sent["id"], sent["seen_at"]) == ("ann@box", "m1", 2)
    desk.send("go", kind="event")
    run.step()
    assert desk.said == ("ignored", "no way out that was taken listened to it at boundary 3")


def test_an_event_that_is_not_declared_is_refused_and_journalled():
    run, desk = begun()
    desk.send("goo", kind="event")
    run.step()
    words = "event 'goo' is not declared in 'events'; did you mean 'go'?"
    assert desk.said == ("refused", words)
    (command,) = run.of_type("command")
    assert command["kind"] == "event" and command["reason"] == words


@pytest.mark.parametrize(
    ("name", "argument", "words"),
    [
        ("paus", "", "there is no command 'paus'; did you mean 'pause'"),
        ("pause", "now", "pause takes no argument, got 'now'"),
        ("hold", "q", "there is no region 'q'; did you mean|there is no region 'q'; known: x, y"),
        ("hold", "x y", "hold takes one region or none, got 'x y'"),
        ("force", "", "force takes one stage, like 'force warmup'; got none"),
        ("force", "a", "several regions have a stage 'a'; say which: x:a, y:a"),
        ("force", "x:b", "there is no stage 'b' in region 'x'"),
        ("force", "back", "every region has a way back; say which: x:back, y:back"),
        ("extend", "", "extend takes an amount with its unit"),
        ("extend", "500", "extend: '500' is not a duration"),
        ("extend", "5 stps", "unknown unit 'stps'"),
        ("extend", "5 steps", "extend which region's stage\\? add one of x, y"),
        ("extend", "5 steps q", "there is no region 'q'"),
    ],
)
def test_words_that_are_not_known_are_named(name, argument, words):
    run, desk = begun(TWO)
    with pytest.raises(CommandError, match=words):
        read_command(run.core.graph, name, argument)
    desk.send(name, argument)
    run.step()
    assert desk.said[0] == "refused"


def test_mail_of_a_boundary_that_fails_is_taken_at_the_next():
    run, desk = begun("""
initial: a
stages:
  a:
    kind: train
    transitions: [{target: b, when: step >= 2, actions: [{type: snapshot, name: s}]}]
  b: {kind: final}
""")
    run.actor.failures = {"main:a.transitions[0].actions[0]": 1}
    desk.send("stop")
    with pytest.raises(StageGraphError, match="told to fail"):
        run.step()
    assert not run.core.done and desk.answers == [] and run.of_type("command") == []
    run.step()
    assert run.core.state.ended == "final" and desk.said[0] == "taken"


def test_what_the_journal_cannot_keep_has_not_happened():
    class Full(Exception):
        pass

    run, desk = begun()
    real = run.core.sink

    class Sink:
        def write(self, records):
            raise Full

    run.core.sink = Sink()
    desk.send("hold")
    with pytest.raises(Full):
        run.step()
    assert run.core.state.commands.held == {} and desk.answers == []
    run.core.sink = real
    run.step()
    assert run.core.state.commands.held == {"main": "ann@box"}


def test_mail_makes_the_next_update_a_look():
    run, desk = begun(
        "initial: a\nstages: {a: {kind: train, duration: 1M steps, next: b}, b: {kind: final}}\n"
    )
    run.step(5)
    desk.send("force", "b")
    run.step()
    assert run.core.done and run.core.state.clock.step == 7


def test_commands_survive_json():
    run, desk = begun(TWO)
    desk.send("hold", "x").send("extend", "7 steps y")
    run.step()
    other = run.resumed()
    assert other.core.state == run.core.state
    assert other.core.state.commands.held == {"x": "ann@box"}


def test_a_state_of_version_1_is_read():
    run, _ = begun()
    data = run.core.state_dict()
    old = json.loads(json.dumps(data["engine"]))
    old["version"] = 1
    del old["commands"]
    for region in old["regions"].values():
        del region["extended"]
    del data["replay"]
    other = Run(CHAIN, params=1, costs={"x:g": 1, "y:g": 1, "main:g": 1})
    other.core.load_state_dict({**data, "engine": old})
    assert other.core.state == run.core.state


def test_an_edge_that_was_held_back_by_an_event_is_told_when_the_event_is_gone():
    """Its guard is false one boundary later, without a move that would make the engine look."""
    run, desk = begun(steps=0)
    desk.send("hold", "main")
    run.step()
    run.core.send("go")
    run.step(3)
    assert run.of_type("blocked", "boundary", "edge") == [(2, "main:interrupts.i")]
    assert run.of_type("unblocked", "boundary", "edge") == [(4, "main:interrupts.i")]
