"""Followers: told when a boundary has held, and of all before it; harmless when they fail."""

import gc
import weakref

import pytest

import stagegraph as sg
from stagegraph.engine.follower import Follower
from tests.trackers.running import MOVES, STAGES, resumed, training


class Watching(Follower):
    """Notes what it is told, and fails where it is told to."""

    def __init__(self, fails_at=(), engine=None):
        self.pasts, self.told, self.figures = [], [], []
        self.fails_at, self.calls, self.closed = fails_at, 0, 0
        self.seen = []
        self.engine = engine

    def take_up(self, past):
        self.pasts.append(past)

    def write(self, records):
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            raise ConnectionError("no route to host")
        self.told += records
        if self.engine is not None:
            self.seen += [
                (r["target"], self.engine.stages["main"]) for r in records if r["type"] == "move"
            ]

    def show(self, figures):
        self.figures.append(figures)

    def close(self):
        self.closed += 1

    def of(self, kind):
        return [record for record in self.told if record["type"] == kind]


def run(watching, **more):
    started = training(watching, **more)
    started.engine.start()
    return started


def test_a_follower_is_told_all_that_a_listener_is_and_the_numbers():
    watching = Watching()
    done = run(watching).go()
    assert watching.told == done.records
    assert [(f.boundary, f.values["stage/main"]) for f in watching.figures] == STAGES
    assert watching.figures[-1].stages == {"main": "done"}
    done.engine.close()
    done.engine.close()
    assert watching.closed == 1


def test_a_follower_is_told_of_a_move_when_the_model_and_the_stage_have_moved():
    watching = Watching()
    begun = training(watching)
    watching.engine = begun.engine
    begun.engine.start()
    begun.go()
    assert [target.removeprefix("main:") for target, _ in watching.seen] == [
        stage for _, stage in watching.seen
    ]
    assert len(watching.seen) == len(MOVES)


def test_a_boundary_that_the_journal_could_not_keep_is_not_told():
    class Full:
        def write(self, records):
            if any(r["type"] == "growth" for r in records):
                raise sg.RunFolderError("the disk is full")

    watching = Watching()
    begun = run(watching)
    begun.engine.listen(Full())
    with pytest.raises(sg.RunFolderError, match="the disk is full"):
        begun.go()
    assert watching.of("growth") == [] and begun.stage == "first"


def test_a_follower_that_fails_is_warned_of_once_counted_and_journalled(tmp_path):
    watching = Watching(fails_at={3, 6})
    begun = run(watching, run=tmp_path / "run")
    with pytest.warns(
        UserWarning, match=r"Watching has failed \(ConnectionError: no route"
    ) as seen:
        begun.go()
    assert begun.engine.done and len(seen) == 1
    begun.engine.close()
    told = [r for r in journalled(tmp_path / "run") if r["type"] == "tracker"]
    assert [(r["name"], r["lost"], r["left_out"]) for r in told] == [
        ("Watching", 1, False),
        ("Watching", 2, False),
    ]
    assert told[0]["reason"] == "ConnectionError: no route to host"


def test_a_follower_that_fails_thrice_in_a_row_is_left_out_and_closed():
    watching = Watching(fails_at=range(2, 99))
    watching.show = lambda figures: 1 / 0
    with pytest.warns(UserWarning, match="Watching has failed") as seen:
        begun = run(watching).go()
    assert ["it is told no more" in str(one.message) for one in seen] == [False, True]
    calls = watching.calls
    assert begun.engine.done and calls < 6
    begun.engine.close()
    assert watching.closed == 1


def test_a_warning_that_is_an_error_leaves_a_boundary_that_has_held():
    """Warnings are errors in these tests; the boundary is over when the warning comes."""
    begun = run(Watching(fails_at={1}))
    with pytest.raises(UserWarning, match="has failed"):
        begun.go()
    assert [r["target"] for r in begun.records.of("move")][-1] == f"main:{begun.stage}"
    assert begun.go().engine.done


def test_who_cannot_take_the_run_up_is_refused_before_it_begins():
    class Broken(Watching):
        def take_up(self, past):
            raise OSError("no such project")

    begun = training(Broken())
    with pytest.raises(OSError, match="no such project"):
        begun.engine.start()
    assert begun.engine.stages == {}


def test_the_past_is_what_counts_of_the_journal(tmp_path):
    how = sg.Checkpoints(every="4 steps", background=False)
    begun = run(Watching(), run=tmp_path / "run", checkpoints=how)
    begun.go(6).engine.close()
    early, late = Watching(), Watching()
    again = resumed(early, run=tmp_path / "run", checkpoints=how)
    again.engine.listen(late)
    for watching in (early, late):
        [past] = watching.pasts
        assert past.goes_on and past.start == again.engine.progress.step + 1
        assert past.records == tuple(journalled(tmp_path / "run"))
        assert past.records[-1]["type"] == "resume"
        assert set(past.figures.values) >= {"alpha/main:grow#1", "lr_factor/0"}
        assert past.run is not None
    again.go().engine.close()
    numbers = [(f.boundary, f.values["stage/main"]) for f in early.figures]
    assert numbers == [one for one in STAGES if one[0] >= past.start]


def test_a_new_run_has_no_past_but_its_name(tmp_path):
    watching = Watching()
    run(watching, run=tmp_path / "run").engine.close()
    [past] = watching.pasts
    assert not past.goes_on and past.start == 0
    assert [record["type"] for record in past.records] == ["run"]


def test_who_listens_in_mid_run_is_told_the_past_of_a_folder(tmp_path):
    begun = run(Watching(), run=tmp_path / "run").go(8)
    watching = Watching()
    begun.engine.listen(watching)
    [past] = watching.pasts
    assert [r["boundary"] for r in past.records if r["type"] == "move"] == [0, 3, 7]
    assert past.start == 9 and not past.goes_on and watching.told == []
    assert [(f.boundary, f.values["stage/main"]) for f in watching.figures] == [(8, 3)]
    begun.engine.close()


TWO = """
stagegraph: 1
name: two
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: b}
  b: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
"""


def test_an_engine_on_numbers_has_numbers_without_rates():
    watching = Watching()
    engine = sg.Engine(sg.load(TWO), params=7)
    engine.listen(watching)
    engine.start()
    while not engine.done:
        engine.step()
    assert [f.values for f in watching.figures] == [
        {"step": 0, "stage/main": 0, "params": 7},
        {"step": 2, "stage/main": 1, "params": 7},
        {"step": 4, "stage/main": 2, "params": 7},
    ]


def test_an_engine_that_is_followed_goes_when_nobody_holds_it():
    """With all it holds, without waiting for the garbage collector."""
    gc.disable()
    try:
        engine = sg.Engine(sg.load(TWO), params=7)
        engine.listen(Watching())
        engine.start()
        engine.step()
        gone = weakref.ref(engine), weakref.ref(engine._core)
        del engine
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


def journalled(folder):
    from stagegraph.runs.folder import RunFolder

    return RunFolder(folder).records()
