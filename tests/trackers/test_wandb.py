"""Weights & Biases, offline: what its run keeps is the run of the graph, also after it was cut."""

import json
import struct
import time

import pytest

import stagegraph as sg
from stagegraph.trackers import WandB
from stagegraph.trackers.wandb import AXIS, TABLE
from tests.trackers.running import MOVES, STAGES, resumed, training, whole, without

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


def messages(path):
    """What a run's file holds: the messages of a LevelDB log, after its 7 bytes of header."""
    data, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""


def finished(path):
    """The records of a file, once its last is there: W&B's own process writes it."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + 20
    while True:
        records = [Record.FromString(message) for message in messages(path)]
        if records and records[-1].WhichOneof("record_type") in ("exit", "footer"):
            return records
        assert time.monotonic() < until, f"{path} is never finished"
        time.sleep(0.05)


def histories(folder):
    """The rows of each offline run in a folder, oldest run first, read from its own file."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        records = finished(path)
        history = (r.history.item for r in records if r.WhichOneof("record_type") == "history")
        found.append(
            [{i.key or i.nested_key[0]: json.loads(i.value_json) for i in row} for row in history]
        )
    return found


def tables(folder):
    """The last table of each run: its rows."""
    return [
        json.loads(max(run.rglob("happenings_*.table.json"), key=_number).read_text())["data"]
        for run in sorted(folder.glob("wandb/offline-run-*"))
    ]


def _number(path):
    return int(path.name.split("_")[1])


def curve(rows, name):
    return [(row[AXIS], row[name]) for row in rows if name in row]


@pytest.mark.slow
def test_a_run_of_our_own_has_numbers_texts_and_the_table(tmp_path):
    whole(WandB(project="p", dir=tmp_path)).engine.close()
    assert wandb.run is None
    [rows] = histories(tmp_path)
    assert curve(rows, "stagegraph/stage/main") == STAGES
    assert curve(rows, "stagegraph/alpha/main_grow_1") == [(3, 0), (6, 0.75), (7, 1)]
    assert dict(curve(rows, "stagegraph/lr_factor/0"))[6] == pytest.approx(0.75)
    assert curve(rows, "stagegraph/stage_name/main")[-1] == (22, "done")
    moves = curve(rows, "stagegraph/move/main")
    assert [at for at, _ in moves] == MOVES and "first → grow → warmup" in moves[1][1]
    assert any(TABLE in row for row in rows)
    [table] = tables(tmp_path)
    assert [row[0] for row in table if row[2] == "move"] == MOVES
    assert [row[0] for row in table if row[2] == "roll_back"] == [12, 17]


@pytest.mark.slow
def test_in_ones_own_run_no_row_of_the_callers_is_lost(tmp_path):
    """The caller counts steps; rows of ours would move W&B's own, and it would drop some."""
    with wandb.init(project="p", dir=tmp_path) as mine:
        run = training(WandB(mine))
        run.engine.start()
        for step in range(1, 30):
            run.go(1)
            mine.log({"loss": float(step)}, step=step)
        run.engine.close()
        assert mine.summary["stagegraph/stage/main"] == 5
    [rows] = histories(tmp_path)
    assert [row["loss"] for row in rows if "loss" in row] == [float(n) for n in range(1, 30)]
    assert curve(rows, "stagegraph/stage/main")[-1] == (22, 5)
    [table] = tables(tmp_path)
    assert [row[0] for row in table if row[2] == "move"] == MOVES


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_under_its_id_with_every_marker_once(tmp_path):
    how = sg.Checkpoints(every="4 steps", background=False)
    run = training(WandB(project="p", dir=tmp_path), run=tmp_path / "run", checkpoints=how)
    run.engine.start()
    run.go(13).engine.close()
    resumed(
        WandB(project="p", dir=tmp_path), run=tmp_path / "run", checkpoints=how
    ).go().engine.close()
    first, second = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*"))
    assert first.rpartition("-")[2] == second.rpartition("-")[2]
    _, table = tables(tmp_path)
    assert [row[0] for row in table if row[2] == "move"] == MOVES
    assert [row[2] for row in table].count("resume") == 1
    _, rows = histories(tmp_path)
    start = curve(rows, "stagegraph/stage/main")[0][0]
    assert curve(rows, "stagegraph/stage/main") == [one for one in STAGES if one[0] >= start]


def test_a_run_that_is_finished_ends_nothing():
    mine = wandb.init(mode="disabled")
    run = training(WandB(mine))
    run.engine.start()

    def log(*_, **__):
        raise wandb.Error("Run is finished. The call to `log` will be ignored.")

    mine.log = log
    with pytest.warns(UserWarning, match="WandB has failed"):
        run.go()
    assert run.engine.done


def test_without_wandb_the_error_names_the_extra(monkeypatch):
    without(monkeypatch, "wandb")
    with pytest.raises(ImportError, match=r"pip install 'stagegraph\[wandb\]'"):
        WandB()
