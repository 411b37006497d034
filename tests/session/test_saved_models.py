"""Models that a graph saves: what was there before the rollback, once each, whatever happens."""

import shutil
import signal
import time
import warnings

import pytest
import torch

import stagegraph as sg
from stagegraph.actions import actor
from stagegraph.errors import SnapshotError
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.saved import SavedModels
from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import Death
from tests.session.branches import (
    BRANCHES,
    SAVED,
    Rich,
    contents,
    equal,
    go,
    known,
    learnt,
    resumed,
    rich,
    tensors,
    told,
    training,
)


@pytest.fixture(scope="module")
def whole(whole_with_branches):
    return whole_with_branches


def test_what_is_saved_is_the_model_before_the_rollback(whole):
    assert known(whole.folder) == told(whole.folder) == SAVED
    for one in sg.saved(whole.folder):
        assert equal(tensors(one), whole.before[one.boundary]), "under the plain names"
    small, annealed, _ = sg.saved(whole.folder)
    assert "blocks.2.up.weight" not in tensors(small), "of the start, though it stands behind"
    assert (annealed.stages, set(annealed.metrics)) == ({"main": "anneal"}, {"val_loss"})
    assert annealed.graph == "branches"
    assert annealed.digest == sg.digest(sg.load(BRANCHES))
    back = [r["actions"] for r in whole.records.of("move") if r["target"] == "main:trunk"][-1]
    (saved, returned) = back.values()
    assert (saved["kind"], saved["name"]) == ("save", "annealed")
    assert returned["kind"] == "roll_back"
    assert saved["bytes"] == sum(tensor.nbytes for tensor in tensors(annealed).values()) + 4 + 8


def test_a_new_small_model_becomes_the_saved_one(whole):
    x = torch.randn(9, 4)
    for one in sg.saved(whole.folder):
        fresh = Rich()
        random = torch.get_rng_state()
        assert sg.load_saved(fresh, one) == one
        assert torch.equal(torch.get_rng_state(), random)
        assert fresh.training and fresh.other.weight is fresh.one.weight
        expected = Rich()
        for _ in range(len(fresh.blocks) - 2):
            expected.blocks.append(type(expected.blocks[0])(0.2))
        state = expected.state_dict() | whole.before[one.boundary]
        expected.load_state_dict(state)
        assert torch.equal(fresh.eval()(x), expected.eval()(x))
        assert fresh.calls > 0 and fresh.seen == fresh.calls, "what is beside the state dict too"
    chosen = sg.load_saved(Rich(), whole.folder, "annealed")
    assert chosen.boundary == 17, "the newest of the name"


ALSO = [pytest.param(at, marks=pytest.mark.slow) for at in (3, 4, 11, 13, 16, 18)]


@pytest.mark.parametrize("at", [2, 12, 17, *ALSO])
def test_a_run_that_died_saves_the_same_once(whole, tmp_path, at):
    folder = shutil.copytree(whole.cuts[at], tmp_path / "cut")
    run = go(resumed(folder))
    run.engine.close()
    assert known(folder) == told(folder) == SAVED
    assert contents(folder) == contents(whole.folder)
    assert learnt(run) == learnt(whole)


def die(monkeypatch, kind, when):
    """The process ends in a save of a kind: before it, or when it has been written."""
    save = kind.save

    def dying(store, *arguments, **more):
        if store.path.parts.count("checkpoints") == (kind is CheckpointStore):
            if more["boundary"] != 12:
                return save(store, *arguments, **more)
            if when == "after":
                save(store, *arguments, **more)
            raise Death
        return save(store, *arguments, **more)

    monkeypatch.setattr(kind, "save", dying)


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (SavedModels, "after"),
        (CheckpointStore, "after"),
        pytest.param(SavedModels, "before", marks=pytest.mark.slow),
        pytest.param(CheckpointStore, "before", marks=pytest.mark.slow),
    ],
)
def test_a_death_between_model_and_checkpoint_leaves_one_of_each(
    whole, tmp_path, monkeypatch, kind, when
):
    torch.manual_seed(7)
    run = training(tmp_path / "a")
    run.engine.resume()
    with monkeypatch.context() as patched:
        die(patched, kind, when)
        with pytest.raises(Death):
            go(run)
        folder = shutil.copytree(tmp_path / "a", tmp_path / "b")
    run.engine.close()
    behind = [g for g in RunFolder(folder).checkpoints().generations() if g.boundary >= 12]
    there = (12 in [one.boundary for one in sg.saved(folder)], bool(behind))
    assert there == (
        (kind, when) != (SavedModels, "before"),
        (kind, when) == (CheckpointStore, "after"),
    )
    run = go(resumed(folder))
    run.engine.close()
    assert known(folder) == told(folder) == SAVED
    assert contents(folder) == contents(whole.folder)
    assert len(list((folder / "saved" / "annealed").iterdir())) == 2


def test_models_are_written_before_the_checkpoint_in_the_thread_too(tmp_path, monkeypatch):
    done, save_model, save = [], SavedModels.save, CheckpointStore.save

    def model(models, name, *arguments, **more):
        saved = save_model(models, name, *arguments, **more)
        done.append((name, more["boundary"]))
        return saved

    def checkpoint(store, *arguments, **more):
        if store.path.name == "checkpoints":
            done.append((more["why"], more["boundary"]))
        return save(store, *arguments, **more)

    monkeypatch.setattr(SavedModels, "save", model)
    monkeypatch.setattr(CheckpointStore, "save", checkpoint)
    document = BRANCHES.replace(
        "{type: roll_back, to: before, rng: fork}", "{type: send, event: e}"
    )
    document = document.replace("metrics:", "events: [e]\nmetrics:")
    options = sg.Checkpoints(every=None)
    run = training(tmp_path / "a", document, checkpoints=options)
    go(run, 12)
    run.engine.finish()
    assert done == [
        ("start", 0),
        ("small", 3),
        ("structure", 3),
        ("annealed", 12),
        ("saved", 12),
        ("finish", 12),
    ]
    assert known(tmp_path / "a") == SAVED[:2], "finish waits"
    run.engine.close()


@pytest.mark.parametrize("leaves", ["told to go", "closed"])
def test_who_leaves_waits_for_what_is_saved(tmp_path, monkeypatch, leaves):
    save = SavedModels.save

    def slow(*arguments, **more):
        time.sleep(0.3)
        return save(*arguments, **more)

    monkeypatch.setattr(SavedModels, "save", slow)
    run = go(training(tmp_path / "a", checkpoints=sg.Checkpoints(every=None)), 11)
    if leaves == "told to go":
        with run.engine.preemptible():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(sg.Preempted):
                go(run, 1)
        assert known(tmp_path / "a") == SAVED[:2]
    else:
        go(run, 1)
        assert known(tmp_path / "a") == SAVED[:1], "it is still being written"
    run.engine.close()
    assert known(tmp_path / "a") == told(tmp_path / "a") == SAVED[:2]
    assert RunFolder(tmp_path / "a").checkpoints().generations()[-1].boundary == 12


def failing(monkeypatch, times):
    left, save = list(range(times)), SavedModels.save

    def fail(models, *arguments, **more):
        if left:
            left.pop()
            raise sg.RunFolderError("no space left on the disk; free some")
        return save(models, *arguments, **more)

    monkeypatch.setattr(SavedModels, "save", fail)


def test_a_model_that_cannot_be_written_is_tried_again_and_no_checkpoint_passes_it(
    whole, tmp_path, monkeypatch
):
    failing(monkeypatch, 2)
    torch.manual_seed(7)
    run = training(tmp_path / "a")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run.engine.resume()
        go(run, 5)
    messages = [str(one.message) for one in warned if one.category is UserWarning]
    assert (
        messages == ["a checkpoint could not be written: no space left on the disk; free some"] * 2
    )
    assert known(tmp_path / "a") == []
    assert max(g.boundary for g in RunFolder(tmp_path / "a").checkpoints().generations()) == 2
    go(run)
    run.engine.close()
    assert known(tmp_path / "a") == told(tmp_path / "a") == SAVED
    assert contents(tmp_path / "a") == contents(whole.folder)


def test_training_stops_when_a_model_cannot_be_written_three_times(tmp_path, monkeypatch):
    failing(monkeypatch, 3)
    run = training(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(sg.RunFolderError, match="3 checkpoints in a row could not be written"):
            go(run)
    go(run)  # the disk has room again
    run.engine.close()
    assert known(tmp_path / "a") == SAVED


def test_a_boundary_that_is_undone_saves_nothing(tmp_path, monkeypatch):
    return_to, left = actor.return_to, [1]

    def fail(*arguments):
        if left:
            left.pop()
            raise SnapshotError("not this time")
        return return_to(*arguments)

    monkeypatch.setattr(actor, "return_to", fail)
    run = go(training(tmp_path / "a"))
    run.engine.close()
    assert known(tmp_path / "a") == [("small", 3, 3), ("annealed", 13, 13), ("annealed", 15, 18)]
    saved = sg.saved(tmp_path / "a")[1]
    assert equal(tensors(saved), run.before[13]), "of the boundary that held"


@pytest.mark.slow  # compiling takes seconds
def test_a_compiled_model_has_the_names_of_its_own(tmp_path):
    model = torch.compile(rich(), backend="eager")
    run = go(training(tmp_path / "a", model=model), 4)
    run.engine.close()
    (small,) = sg.saved(tmp_path / "a")
    assert set(tensors(small)) <= set(Rich().state_dict())
    fresh = torch.compile(Rich(), backend="eager")
    sg.load_saved(fresh, tmp_path / "a")
    assert equal(
        tensors(small), {k: v for k, v in fresh._orig_mod.state_dict().items() if "_extra" not in k}
    )


def test_explain_and_report_tell_of_them(whole, capsys):
    from stagegraph.cli.main import main
    from stagegraph.drawing.report import report_html
    from stagegraph.drawing.terminal import summary

    assert main(["explain", str(whole.folder)]) == 0
    path = "saved/annealed/gen-00000002"
    assert f"the model of step 15 is saved as 'annealed' in {path}" in capsys.readouterr().out
    records = RunFolder(whole.folder).records()
    assert path in report_html(sg.load(BRANCHES), records)
    assert "saved      small, annealed, annealed" in summary(records)
