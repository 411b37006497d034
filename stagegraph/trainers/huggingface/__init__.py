"""Hugging Face Trainer: run a stage graph in ``transformers.Trainer``.

:class:`StagegraphCallback` holds the graph and hears the Trainer's events. A callback alone comes
too late for half of what is needed (weights are loaded before any event, and the loop asks nobody
after it has saved), so the Trainer is :class:`StagedTrainer`, or one's own with
:class:`StagedTrainerMixin` before it.

Example::

    from stagegraph.trainers.huggingface import StagedTrainer, StagegraphCallback

    stages = StagegraphCallback(sg.load("grow.yaml"), probe=batch, run="runs/a")
    trainer = StagedTrainer(model, args, train_dataset=..., eval_dataset=..., callbacks=[stages])
    trainer.train()
"""

from __future__ import annotations

try:
    import accelerate  # noqa: F401 - whether it is there; the modules below import from it
    import transformers  # noqa: F401 - the same
except ModuleNotFoundError as error:
    if error.name not in ("accelerate", "transformers"):
        raise
    raise ImportError(
        "stagegraph.trainers.huggingface needs transformers and accelerate, which are not "
        "both installed; install them: pip install 'stagegraph[huggingface]'"
    ) from error

from stagegraph.trainers.huggingface.callback import StagegraphCallback
from stagegraph.trainers.huggingface.trainer import StagedTrainer, StagedTrainerMixin

__all__ = ["StagedTrainer", "StagedTrainerMixin", "StagegraphCallback"]
