"""Lightning: run a stage graph in ``lightning.pytorch.Trainer``.

One callback is all: it makes the Trainer's strategy load a checkpoint after model and optimizers
are there, and rebuilds the model's structure before its weights are loaded. The LightningModule
stays as it is, with automatic or manual optimization.

Example::

    from stagegraph.trainers.lightning import StagegraphCallback

    stages = StagegraphCallback(sg.load("grow.yaml"), probe=(x,), run="runs/a")
    trainer = lightning.pytorch.Trainer(callbacks=[stages, ModelCheckpoint(...)])
    trainer.fit(module, loader, val_loader, ckpt_path=...)
"""

from __future__ import annotations

try:
    import lightning.pytorch  # noqa: F401 - whether it is there; the modules below import from it
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise ImportError(
        "stagegraph.trainers.lightning needs lightning (pytorch_lightning is another package), "
        "which is not installed; install it: pip install 'stagegraph[lightning]'"
    ) from error

from stagegraph.trainers.lightning.callback import StagegraphCallback, engine_of

__all__ = ["StagegraphCallback", "engine_of"]
