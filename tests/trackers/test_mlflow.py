"""MLflow: what its client reads back from a folder is the run, also after it was cut."""

import warnings

import pytest

import stagegraph as sg
from stagegraph.trackers import MLflow
from stagegraph.trackers.mlflow import FILE
from tests.trackers.running import MOVES, STAGES, resumed, training, whole, without

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store, and nothing active."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # skinny knows no other without a server
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow.MlflowClient()
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def read(store, run):
    names = store.get_run(run).data.metrics
    return {n: [(m.step, m.value) for m in store.get_metric_history(run, n)] for n in names}


def happenings(store, run):
    """Kind, boundary and text of each marker."""
    table = mlflow.artifacts.load_dict(f"{store.get_run(run).info.artifact_uri}/{FILE}")
    return [(kind, boundary, told) for boundary, _, kind, _, told in table["data"]]


def places(happened, kind):
    return [boundary for one, boundary, _ in happened if one == kind]


def all_runs():
    return [run.info.run_id for run in mlflow.search_runs(output_format="list")]


def test_the_active_run_gets_numbers_markers_and_stages(store):
    with mlflow.start_run() as mine:
        mlflow.log_metric("loss", 1.0, step=0)
        whole(MLflow()).engine.close()
        assert mlflow.active_run().info.run_id == mine.info.run_id  # it stays the caller's
    shown = read(store, mine.info.run_id)
    assert shown["stagegraph/stage/main"] == STAGES
    assert shown["stagegraph/alpha/main_grow_1"] == [(3, 0.0), (6, 0.75), (7, 1.0)]
    assert dict(shown["stagegraph/lr_factor/0"])[6] == pytest.approx(0.75)
    assert shown["loss"] == [(0, 1.0)]
    happened = happenings(store, mine.info.run_id)
    assert places(happened, "move") == MOVES and places(happened, "roll_back") == [12, 17]
    assert "first → grow → warmup" in happened[1][2] and "completed()" in happened[1][2]
    assert store.get_run(mine.info.run_id).data.tags["stagegraph.stage.main"] == "done"


def test_a_run_that_is_cut_is_found_again_and_has_nothing_twice(store, tmp_path):
    how = sg.Checkpoints(every="4 steps", background=False)
    run = training(MLflow(), run=tmp_path / "run", checkpoints=how)
    run.engine.start()
    run.go(13).engine.close()
    assert mlflow.active_run() is None
    resumed(MLflow(), run=tmp_path / "run", checkpoints=how).go().engine.close()
    [only] = all_runs()
    assert read(store, only)["stagegraph/stage/main"] == STAGES
    assert all(
        len({step for step, _ in points}) == len(points) for points in read(store, only).values()
    )
    happened = happenings(store, only)
    assert places(happened, "move") == MOVES and len(places(happened, "resume")) == 1


def test_without_a_folder_a_loaded_state_goes_on_in_the_given_run(store):
    made = store.create_run("0")
    run = training(MLflow(made))
    run.engine.start()
    run.go(11)
    saved, snapshots = run.save(), run.engine.snapshots()
    run.go(4).engine.close()
    again = training(MLflow(made)).load(saved)
    again.engine.load_snapshots(snapshots)
    again.go().engine.close()
    assert read(store, made.info.run_id)["stagegraph/stage/main"] == STAGES
    assert places(happenings(store, made.info.run_id), "move") == MOVES


@pytest.mark.slow
def test_a_run_that_was_given_is_written_into(store):
    made = store.create_run("0")
    whole(MLflow(made)).engine.close()
    assert read(store, made.info.run_id)["stagegraph/stage/main"] == STAGES
    assert len(all_runs()) == 1


def test_a_store_that_cannot_be_reached_ends_nothing(store, tmp_path):
    run = training(MLflow())
    run.engine.start()
    mlflow.end_run()
    for path in sorted((tmp_path / "mlruns").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.warns(UserWarning, match="MLflow has failed"):
        run.go()
    assert run.engine.done


def test_without_mlflow_the_error_names_the_extra(monkeypatch):
    without(monkeypatch, "mlflow")
    with pytest.raises(ImportError, match=r"pip install 'stagegraph\[mlflow\]'"):
        MLflow()
