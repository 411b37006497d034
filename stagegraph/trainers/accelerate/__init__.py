"""Accelerate: run a stage graph in a loop of one's own around ``accelerate.Accelerator``.

:class:`AcceleratedEngine` is the engine of a plain loop that is told of micro-batches, counts the
updates that the prepared optimizer has really made, and is kept in the accelerator's own
checkpoints, if those are to be the only ones.

Example::

    from stagegraph.trainers.accelerate import AcceleratedEngine

    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    engine = AcceleratedEngine(
        sg.load("grow.yaml"), accelerator, model=model, optimizer=optimizer, scheduler=scheduler,
        probe=batch, run="runs/a",
    )
    engine.resume()
    for epoch in engine.epochs(loader):
        for x, y in epoch:
            with accelerator.accumulate(model):
                loss = criterion(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            engine.step(loss=loss, samples=len(x))
"""

from __future__ import annotations

try:
    import accelerate  # noqa: F401 - whether it is there; the modules below import from it
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise ImportError(
        "stagegraph.trainers.accelerate needs accelerate, which is not installed; install it: "
        "pip install 'stagegraph[accelerate]'"
    ) from error

from stagegraph.trainers.accelerate.engine import AcceleratedEngine
from stagegraph.trainers.accelerate.keeping import newest_whole

__all__ = ["AcceleratedEngine", "newest_whole"]
