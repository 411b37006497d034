"""A run's folder is gone on with: from its newest whole checkpoint, or it is said why not."""

import json
import shutil
import threading
import warnings

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.store import CheckpointStore
from tests.session.training import EVERY_MOVE, EVERY_STAGE, PROBE, Net, Training

EVERY_7 = sg.Checkpoints(every="7 steps", background=False)


def training(folder, document=EVERY_STAGE, **more):
    return Training(document, **{"dropout": 0.2, "run": folder, "checkpoints": EVERY_7} | more)


def resumed(folder, *arguments, **more):
    torch.manual_seed(99)
    run = training(folder, *arguments, **more)
    run.came_back = run.engine.resume()
    run.updates = run.engine.progress.step
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run, and its folder as it was after some ticks."""
    base = tmp_path_factory.mktemp("runs")
    torch.manual_seed(7)
    run = training(base / "whole")
    run.engine.resume()
    run.cuts = {}
    while not run.engine.done:
        run.tick()
        if run.updates in (3, 30, 50, 57, 61, 70):
            run.engine._record.saving.settle()
            run.cuts[run.updates] = base / f"cut-{run.updates}"
            shutil.copytree(base / "whole", run.cuts[run.updates])
    run.engine.close()
    run.folder = base / "whole"
    return run


@pytest.fixture
def cut(whole, tmp_path):
    """The folder as it was after 57 ticks, in the middle of settling."""
    return shutil.copytree(whole.cuts[57], tmp_path / "cut")


def moves(folder):
    records = RunFolder(folder).records()
    return [(r["source"], r["target"], r["step"]) for r in records if r["type"] == "move"]


def generations(folder):
    return RunFolder(folder).checkpoints().generations()


@pytest.mark.parametrize("at", [3, 30, 50, 57, 61, 70])
def test_a_run_that_died_ends_as_it_would_have(whole, tmp_path, at):
    folder = shutil.copytree(whole.cuts[at], tmp_path / "cut")
    run = resumed(folder)
    assert run.came_back
    assert at - 7 <= run.updates <= at
    run.go()
    assert run.weights() == whole.weights()
    assert moves(folder) == moves(whole.folder) == EVERY_MOVE
    run.engine.close()


def test_no_entry_action_runs_again_and_the_journal_says_from_where(whole, cut):
    run = resumed(cut)
    assert (run.stage, len(run.model.blocks)) == ("settle", 3)
    assert run.records == []
    (record,) = [r for r in RunFolder(cut).records() if r["type"] == "resume"]
    assert (record["step"], record["generation"]) == (56, generations(cut)[-1].number)
    assert (record["passed_over"], record["damage"], record["changed"]) == ([], None, [])
    run.engine.close()


def test_a_run_can_be_resumed_again_and_again(whole, cut):
    for _ in range(4):
        run = resumed(cut).go(4)
        run.engine.close()
    run = resumed(cut).go()
    assert run.weights() == whole.weights()
    assert moves(cut) == EVERY_MOVE
    run.engine.close()


def test_a_run_that_has_ended_is_over(whole, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "a")
    run = resumed(folder)
    assert (run.came_back, run.engine.done, run.engine.ended) == (True, True, "final")
    assert run.weights() == whole.weights()
    assert run.go(3).updates == 72
    run.engine.close()


def test_without_a_folder_there_is_nothing_to_go_on_with():
    assert Training(EVERY_STAGE).engine.resume() is False


def test_resuming_comes_first(cut, tmp_path):
    run = training(tmp_path / "new")
    assert run.engine.resume() is False
    assert run.engine.resume() is False  # it has begun, and nothing happens again
    assert len(run.records.of("move")) == 1
    run.engine.close()


# Damage


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(whole, cut):
    newest, before = generations(cut)[-1], generations(cut)[-2]
    damage(newest.path / "tensors-00000.safetensors")
    with pytest.warns(
        UserWarning, match=rf"resumed from checkpoint {before.number} \(step 49\); p"
    ):
        run = resumed(cut)
    (record,) = [r for r in RunFolder(cut).records() if r["type"] == "resume"]
    assert record["generation"] == before.number
    assert record["passed_over"][0].startswith(f"checkpoint {newest.number}: ")
    assert run.go().weights() == whole.weights()
    run.engine.close()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_from_zero(cut):
    for generation in generations(cut):
        damage(generation.path / "engine.json")
    run = training(cut)
    with pytest.raises(
        sg.RunFolderError, match=r"no checkpoint of this run is whole, and it does not begin from z"
    ) as refused:
        run.engine.resume()
    assert str(refused.value).count("checkpoint ") >= 3
    assert run.stage is None
    run.engine.close()


def test_a_run_whose_checkpoints_are_gone_does_not_begin_from_zero(cut):
    shutil.rmtree(cut / "checkpoints")
    run = training(cut)
    with pytest.raises(sg.RunFolderError, match="tells of checkpoints, and none is there"):
        run.engine.resume()
    run.engine.close()


def test_a_run_that_died_before_its_first_checkpoint_begins_anew_and_says_so(whole, tmp_path):
    folder = tmp_path / "young"
    shutil.copytree(whole.cuts[3], folder)
    shutil.rmtree(folder / "checkpoints")
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if json.loads(line)["type"] == "checkpoint")
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:first]))
    torch.manual_seed(7)
    run = training(folder)
    with pytest.warns(UserWarning, match="died before its first checkpoint; it begins anew"):
        assert run.engine.resume() is False
    assert run.go().weights() == whole.weights()
    assert moves(folder) == EVERY_MOVE
    run.engine.close()


def test_a_torn_journal_is_gone_on_with(whole, cut):
    with (cut / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"type":"metric","st')
    run = resumed(cut).go()
    assert run.weights() == whole.weights()
    assert moves(cut) == EVERY_MOVE
    run.engine.close()


def test_a_journal_damaged_after_the_checkpoint_is_told_of(whole, cut):
    lines = (cut / "journal.jsonl").read_bytes().splitlines(keepends=True)
    mark = generations(cut)[-1].journal.records
    lines[mark] = lines[mark].replace(b'"step":5', b'"step":6', 1)
    (cut / "journal.jsonl").write_bytes(b"".join(lines))
    with pytest.warns(
        UserWarning, match=r"the journal is damaged after the checkpoint .* are lost"
    ):
        run = resumed(cut)
    assert run.go().weights() == whole.weights()
    assert moves(cut) == EVERY_MOVE
    run.engine.close()


# Other parts than before


def other(folder, *, model=None, optimizer=torch.optim.AdamW, **more):
    """An engine of other parts in the folder."""
    model = model or Net(dropout=0.2)
    optimizer = optimizer(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)
    parts = {"scheduler": scheduler, "probe": PROBE, "run": folder} | more
    return sg.Engine(sg.load(EVERY_STAGE), model=model, optimizer=optimizer, **parts)


def test_another_model_is_refused(cut):
    model = Net(dropout=0.2)
    model.head = nn.Linear(6, 2)
    with (
        other(cut, model=model) as engine,
        pytest.raises(
            sg.SnapshotError,
            match=r"'head.weight' had shape \(1, 6\) in the snapshot and has \(2, 6\)",
        ),
    ):
        engine.resume()


def test_a_missing_scheduler_is_refused(cut):
    with (
        other(cut, scheduler=None) as engine,
        pytest.raises(
            sg.SnapshotError,
            match=r"it holds the state of scheduler0, which this engine was not given",
        ),
    ):
        engine.resume()


def test_one_part_more_is_refused(cut):
    ema = torch.optim.swa_utils.AveragedModel(Net(dropout=0.2))
    with (
        other(cut, ema=ema) as engine,
        pytest.raises(
            sg.SnapshotError, match=r"this engine was given ema, whose state it does not hold"
        ),
    ):
        engine.resume()


def test_another_optimizer_is_refused(cut):
    with (
        other(cut, optimizer=torch.optim.SGD) as engine,
        pytest.raises(
            sg.SnapshotError, match="of a run with the optimizers AdamW, and this engine has SGD"
        ),
    ):
        engine.resume()


def test_an_engine_without_a_model_is_refused_a_models_checkpoint(cut):
    engine = sg.Engine(sg.load(EVERY_STAGE), params=385, costs={"grow": 174}, run=cut)
    with (
        engine,
        pytest.raises(sg.SnapshotError, match="it is of an engine with a model, and this one"),
    ):
        engine.resume()


# When it is saved


def whys(folder):
    return [r["why"] for r in RunFolder(folder).records() if r["type"] == "checkpoint"]


def test_a_checkpoint_is_written_at_the_beginning_at_growth_in_time_and_at_the_end(whole):
    assert set(whys(whole.folder)) == {"start", "due", "structure", "end"}
    steps = [r["of_step"] for r in RunFolder(whole.folder).records() if r["type"] == "checkpoint"]
    assert steps == sorted({0, 48, 72, *range(7, 72, 7)})


def test_the_newest_and_the_best_stay(tmp_path):
    options = sg.Checkpoints(every="5 steps", keep=2, best="val_loss", background=False)
    run = training(
        tmp_path / "a", val_loss=lambda update: abs(update - 21) + 1.0, checkpoints=options
    ).go()
    run.engine.close()
    kept = generations(tmp_path / "a")
    assert [g.step for g in kept[-2:]] == [70, 72] or len(kept) == 3
    best = min(kept, key=lambda g: g.metrics.get("val_loss", float("inf")))
    assert (best.step, best.metrics) == (21, {"val_loss": 1.0})
    assert len(kept) == 3


def test_a_metric_that_is_not_declared_cannot_be_the_best(tmp_path):
    with pytest.raises(
        sg.MetricError, match=r"best='val_los'.*no such metric; did you mean 'val_l"
    ):
        training(tmp_path / "a", checkpoints=sg.Checkpoints(best="val_los"))
    with pytest.raises(sg.ProgressError, match=r"Checkpoints\(every='often'\)"):
        training(tmp_path / "b", checkpoints=sg.Checkpoints(every="often"))
    with pytest.raises(sg.RunFolderError, match="keep=1 would leave no checkpoint to fall back to"):
        training(tmp_path / "c", checkpoints=sg.Checkpoints(keep=1))


def test_a_unit_that_nobody_counts_is_missed(tmp_path):
    run = training(tmp_path / "a", checkpoints=sg.Checkpoints(every="100 tokens"))
    with pytest.raises(sg.MissingFact, match=r"give step\(tokens=\)"):
        run.go(10)
    run.engine.close()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    entered, leave, save = threading.Event(), threading.Event(), CheckpointStore.save
    running = []

    def slow(store, *arguments, **more):
        running.append(1)
        assert len(running) == 1
        entered.set()
        assert leave.wait(60)
        running.pop()
        return save(store, *arguments, **more)

    monkeypatch.setattr(CheckpointStore, "save", slow)
    run = training(tmp_path / "a", checkpoints=sg.Checkpoints(every="3 steps")).go(20)
    assert entered.is_set() and run.updates == 20
    leave.set()
    run.go()
    run.engine.close()
    assert run.moves == EVERY_MOVE


def failing(monkeypatch, times):
    left, save = list(range(times)), CheckpointStore.save

    def fail(store, *arguments, **more):
        if left:
            left.pop()
            raise sg.RunFolderError("no space left on the disk; free some")
        return save(store, *arguments, **more)

    monkeypatch.setattr(CheckpointStore, "save", fail)


@pytest.mark.parametrize("background", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_told_of_and_training_goes_on(
    tmp_path, monkeypatch, background
):
    failing(monkeypatch, 2)
    options = sg.Checkpoints(every="7 steps", background=background)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = training(tmp_path / "a", checkpoints=options).go()
        run.engine.close()
    messages = [str(one.message) for one in told if one.category is UserWarning]
    assert (
        messages == ["a checkpoint could not be written: no space left on the disk; free some"] * 2
    )
    failed = [r for r in RunFolder(tmp_path / "a").records() if r.get("error")]
    assert [r["type"] for r in failed] == ["checkpoint"] * 2
    assert run.moves == EVERY_MOVE


def test_training_stops_when_no_checkpoint_can_be_written(tmp_path, monkeypatch):
    failing(monkeypatch, 3)
    run = training(tmp_path / "a", checkpoints=sg.Checkpoints(every="7 steps", background=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(sg.RunFolderError, match="3 checkpoints in a row could not be written"):
            run.go()
        assert run.engine.progress.step == 14
        run.go()  # the disk has room again
    assert run.moves == EVERY_MOVE
    run.engine.close()


def test_what_cannot_be_kept_is_refused_at_the_beginning(tmp_path):
    run = training(tmp_path / "a")
    run.scheduler.own = object()
    with pytest.raises(
        sg.UnsupportedError, match=r"\['scheduler0'\]\['own'\] is a object, which a c"
    ):
        run.engine.resume()
    run.engine.close()


# Without a model

ON_NUMBERS = """
stagegraph: 1
name: on numbers
events: [go, stay]
metrics: {val_loss: {goal: minimize}}
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: event(go)}]}
  b: {kind: train, transitions: [{target: c, when: elapsed(3 steps) and val_loss < 5}]}
  c: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
"""


def on_numbers(folder):
    options = sg.Checkpoints(every="10 steps", background=False)
    return sg.Engine(sg.load(ON_NUMBERS), run=folder, checkpoints=options)


def drive(engine, until, *, send=()):
    while not engine.done and engine.progress.step < until:
        if engine.progress.step in send:
            engine.send("go")
        engine.step(val_loss=6.0 if engine.progress.step < 15 else 4.0)
    return engine


def test_what_was_sent_from_outside_comes_again_at_its_boundary(tmp_path):
    engine = drive(on_numbers(tmp_path / "a"), 17, send=(12,))
    before = [
        (r["target"], r["step"]) for r in RunFolder(tmp_path / "a").records() if r["type"] == "move"
    ]
    assert before == [("main:a", 0), ("main:b", 13), ("main:c", 16)]
    engine._core.sink = None  # the process dies: nothing more is written
    engine._record.journal.close()
    engine._record.folder.close()
    again = on_numbers(tmp_path / "a")
    assert again.resume()
    assert again.progress.step == 10
    drive(again, 100)
    again.close()
    assert moves(tmp_path / "a") == [
        (None, "main:a", 0),
        ("main:a", "main:b", 13),
        ("main:b", "main:c", 16),
        ("main:c", "main:done", 20),
    ]


def test_an_event_that_the_program_sends_itself_is_not_doubled(tmp_path):
    engine = drive(on_numbers(tmp_path / "a"), 17, send=(12,))
    engine._record.journal.close()
    engine._record.folder.close()
    again = on_numbers(tmp_path / "a")
    again.resume()
    drive(again, 100, send=(12,))
    again.close()
    heard = [r for r in RunFolder(tmp_path / "a").records() if r["type"] == "event"]
    assert [(r["status"], r["boundary"]) for r in heard] == [("sent", 12), ("heard", 13)]


def test_epochs_of_an_engine_without_a_model_go_on(tmp_path):
    graph = sg.load(ON_NUMBERS.replace("event(go)", "elapsed(30 steps)"))
    options = sg.Checkpoints(every="1 step", background=False)

    def seen(until):
        engine = sg.Engine(graph, run=tmp_path / "a", checkpoints=options)
        engine.resume()
        for epoch in engine.epochs(range(8)):
            for batch in epoch:
                yield epoch.index, batch
                engine.step(val_loss=1.0)
                if engine.progress.step == until:
                    engine.close()
                    return

    assert list(seen(11))[-2:] == [(1, 1), (1, 2)]
    assert list(seen(18)) == [(1, b) for b in range(3, 8)] + [(2, 0), (2, 1)]
    assert list(seen(24)) == [(2, b) for b in range(2, 8)]
    assert list(seen(25)) == [(3, 0)]


def test_an_engine_without_a_model_does_not_begin_in_a_used_folder_either(tmp_path):
    drive(on_numbers(tmp_path / "a"), 12).close()
    before = (tmp_path / "a" / "journal.jsonl").read_bytes()
    engine = on_numbers(tmp_path / "a")
    for act in (engine.step, engine.observe, engine.start):
        with pytest.raises(sg.RunFolderError, match=r"call engine.resume\(\) before anything else"):
            act()
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == before
    engine.close()


def test_checkpoints_that_cannot_be_removed_are_told_of(tmp_path, monkeypatch):
    retain = CheckpointStore._retain

    def fail(store):
        retain(store)
        store.unremoved = ("gen-1 is held open",)

    monkeypatch.setattr(CheckpointStore, "_retain", fail)
    with pytest.warns(UserWarning, match="older checkpoints could not be removed: gen-1 is held"):
        training(tmp_path / "a").go(8).engine.close()
    records = [r for r in RunFolder(tmp_path / "a").records() if r["type"] == "checkpoint"]
    assert [r["unremoved"] for r in records] == [["gen-1 is held open"]] * 2
