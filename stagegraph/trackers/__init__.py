"""Trackers: what a run does, shown where people look: TensorBoard, Weights & Biases, MLflow.

Example::

    from stagegraph.trackers import JsonLines, TensorBoard

    engine.listen(TensorBoard("runs/a/tensorboard"))
    engine.listen(JsonLines("records.jsonl"))
    engine.resume()

None of the libraries is needed before its tracker is made.
"""

from __future__ import annotations

from stagegraph.trackers.jsonlines import JsonLines
from stagegraph.trackers.mlflow import MLflow
from stagegraph.trackers.tensorboard import TensorBoard
from stagegraph.trackers.tracker import Tracker
from stagegraph.trackers.wandb import WandB

__all__ = ["JsonLines", "MLflow", "TensorBoard", "Tracker", "WandB"]
