"""A process that trains, with all trackers that need no server, and kills itself on the way.

``python -m tests.trackers.killed FOLDER UPDATES``: go on in a folder for so many updates more.
"""

import os
import signal
import sys
import warnings
from pathlib import Path


def main(folder, updates):
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    warnings.simplefilter("ignore")
    import mlflow

    import stagegraph as sg
    from stagegraph.trackers import JsonLines, MLflow, TensorBoard
    from tests.trackers.running import training

    mlflow.set_tracking_uri((folder / "mlruns").as_uri())
    how = sg.Checkpoints(every="4 steps", background=False)
    run = training(
        TensorBoard(folder / "board"),
        MLflow(),
        JsonLines(folder / "records.jsonl"),
        run=folder / "run",
        checkpoints=how,
    )
    run.engine.resume()
    run.updates = run.engine.progress.step
    run.go(updates)
    if not run.engine.done:
        os.kill(os.getpid(), signal.SIGKILL)
    run.engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
