"""A process that is killed, twice, and goes on: each tracker has every marker, and has it once."""

import subprocess
import sys
import warnings

import pytest

from stagegraph.runs.folder import RunFolder
from stagegraph.trackers import JsonLines
from tests.trackers.running import MOVES, STAGES
from tests.trackers.test_tensorboard import read


def go_on(folder, updates):
    words = [sys.executable, "-m", "tests.trackers.killed", str(folder), str(updates)]
    return subprocess.run(words, check=False, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(5, 2), (13, 4)])
def test_nothing_is_lost_and_nothing_twice(tmp_path, monkeypatch, first, second):
    assert go_on(tmp_path, first).returncode == -9
    assert go_on(tmp_path, second).returncode == -9
    done = go_on(tmp_path, 100)
    assert done.returncode == 0, done.stderr

    journal = [r["boundary"] for r in RunFolder(tmp_path / "run").records() if r["type"] == "move"]
    assert journal == MOVES
    shown = read(tmp_path / "board")
    assert [at for at, _ in shown["stagegraph/move/main"]] == MOVES
    assert shown["stagegraph/stage/main"] == STAGES
    assert [at for at, _ in shown["stagegraph/roll_back"]] == [12, 17]
    lines = JsonLines.read(tmp_path / "records.jsonl")
    assert [r["boundary"] for r in lines if r["type"] == "move"] == MOVES

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    [only] = client.search_runs(["0"])
    history = client.get_metric_history(only.info.run_id, "stagegraph/stage/main")
    assert [(one.step, one.value) for one in history] == STAGES
    table = mlflow.artifacts.load_dict(f"{only.info.artifact_uri}/stagegraph/happenings.json")
    assert [row[0] for row in table["data"] if row[2] == "move"] == MOVES
