"""A run's folder on several ranks: rank 0 keeps it, and all pause, save, go and go on together."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import stagegraph as sg
from stagegraph.engine.commands import Message
from stagegraph.errors import RankError
from stagegraph.runs.folder import RunFolder
from stagegraph.session.preemption import Preempted
from tests.ranks.threads import ThreadGroup, on_threads

GRAPH = """
stagegraph: 1
name: folder
budget: {steps: 40}
initial: a
events: [go]
metrics: {val: {goal: minimize}}
stages:
  a: {kind: train, transitions: [{target: b, when: event(go)}], duration: 30 steps, next: b}
  b: {kind: train, transitions: [{target: c, when: "val < 0"}], duration: 5 steps, next: c}
  c: {kind: final}
"""


def engine_of(group: ThreadGroup, run: Path, **given: Any) -> sg.Engine:
    checkpoints = sg.Checkpoints(every="5 steps", background=False)
    return sg.Engine(sg.load(GRAPH), group=group, run=run, **{"checkpoints": checkpoints, **given})


def command(name: str) -> Message:
    return Message(f"id-{name}", "command", name, author="me@here")


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [one for one in RunFolder(run).records() if one["type"] == kind]


def test_all_pause_save_and_continue_together(tmp_path: Path) -> None:
    def on_rank(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run") as engine:
            engine.start()
            arrived = engine._core.desk.arrived
            while not engine.done:
                if engine.progress.step == 7 and not group.rank:
                    arrived.append(command("pause"))
                    for seconds, name in ((0.3, "checkpoint"), (0.6, "continue")):
                        threading.Timer(seconds, arrived.append, [command(name)]).start()
                engine.step()
            return engine.ended, engine.progress.step

    assert on_threads(3, on_rank) == [("final", 35)] * 3
    told = [(one["name"], one["status"]) for one in records(tmp_path / "run", "command")]
    assert told == [("pause", "taken"), ("checkpoint", "taken"), ("continue", "taken")]


def test_whoever_is_told_to_go_all_go_and_all_go_on(tmp_path: Path) -> None:
    def first(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run") as engine, engine.preemptible():
            engine.resume()
            for number in range(40):
                if number == 12 and group.rank == 1:
                    assert engine._record is not None
                    engine._record.leaving.be_told("SIGTERM")
                try:
                    engine.step()
                except Preempted as told:
                    return told.reason, engine.progress.step
        return None

    assert on_threads(2, first) == [("SIGTERM", 13)] * 2

    def again(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run") as engine:
            assert engine.resume()
            began = engine.progress.step
            while not engine.done:
                engine.step()
            return began, engine.ended, engine.progress.step

    assert on_threads(2, again) == [(13, "final", 35)] * 2


def test_what_one_rank_has_sent_or_observed_is_kept_when_training_is_left(tmp_path: Path) -> None:
    def first(group: ThreadGroup) -> None:
        with engine_of(group, tmp_path / "run") as engine:
            engine.resume()
            engine.step()
            if group.rank:
                engine.send("go")
            else:
                engine.observe(val=-1.0)
            engine.finish()

    assert on_threads(2, first) == [None, None]

    def again(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run") as engine:
            engine.resume()
            engine.step()
            return engine.stages

    assert on_threads(2, again) == [{"main": "b"}] * 2


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"checkpoints": None}, 'checkpoints is "Checkpoints('),
        ({"run": "elsewhere"}, "run is '"),
    ],
)
def test_a_folder_is_every_rank_s_or_none_s(
    tmp_path: Path, given: dict[str, Any], what: str
) -> None:
    def on_rank(group: ThreadGroup) -> None:
        own = dict(given) if group.rank else {}
        run = tmp_path / own.pop("run", "run")
        engine_of(group, run, **own)

    for error in on_threads(2, on_rank):
        assert isinstance(error, RankError)
        assert str(error).startswith(f"the ranks have begun different things: {what}")


def test_a_checkpoint_that_cannot_be_written_parts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagegraph.errors import RunFolderError
    from stagegraph.runs.store import CheckpointStore

    save, saved = CheckpointStore.save, list[Any]()

    def full(*args: Any, **kwargs: Any) -> Any:
        if saved:
            raise RunFolderError("no space")
        saved.append(save(*args, **kwargs))
        return saved[0]

    monkeypatch.setattr(CheckpointStore, "save", full)

    def on_rank(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run", checkpoints=sg.Checkpoints(every=None)) as engine:
            engine.start()
            arrived = engine._core.desk.arrived
            for number in range(12):
                if number > 2 and not group.rank:
                    arrived.append(command("checkpoint"))
                engine.step()
            return engine.progress.step

    with pytest.warns(UserWarning, match="a checkpoint could not be written: no space"):
        assert on_threads(2, on_rank) == [12, 12]
    told = {one["status"] for one in records(tmp_path / "run", "command")}
    assert told == {"refused"}


def test_an_earlier_run_is_not_begun_again_on_any_rank(tmp_path: Path) -> None:
    def first(group: ThreadGroup) -> None:
        with engine_of(group, tmp_path / "run") as engine:
            engine.step()
            engine.finish()

    assert on_threads(2, first) == [None, None]

    def again(group: ThreadGroup) -> Any:
        with engine_of(group, tmp_path / "run") as engine:
            try:
                engine.start()
            except sg.StageGraphError as error:
                return str(error)
        return None

    one, other = on_threads(2, again)
    assert "holds an earlier run" in one
    assert "holds an earlier run" in other
