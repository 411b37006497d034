"""A graph from each template, built in Python: one line of what it means, or all of it.

``python -m examples.templates`` lists them; with a name it prints that graph written out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import stagegraph as sg

LOSS = {"val_loss": {"goal": "minimize", "every": "100 steps"}}
DEEPEN = {"type": "deepen", "stack": "blocks", "add": 2}
WIDEN = {"type": "widen", "space": "mlp", "factor": 2}


def growth(action: Mapping[str, object]) -> sg.GrowCycle:
    """Grow when the loss has flattened, after 6000 updates at the latest."""
    return sg.grow_cycle(
        trigger="plateau(val_loss, worth=1%)",
        wait="6k steps",
        growth=[action],
        warmup="500 steps",
        settle="200 steps",
        consolidate="2k steps",
        undo={"metric": "val_loss", "by": "5%", "lasting": "300 steps"},
    )


def grow_cycle() -> sg.StageGraph:
    """One growth, and an anneal."""
    anneal = sg.warmup_stable_decay(stable="2k steps", decay="1k steps")
    parts = {"deeper": growth(DEEPEN), "anneal": anneal}
    return sg.sequential(parts, name="grow cycle", metrics=LOSS)


def sequential() -> sg.StageGraph:
    """Two growths, one after the other."""
    parts = [growth(DEEPEN), growth(WIDEN)]
    return sg.sequential(parts, name="sequential growths", metrics=LOSS)


def overlapping() -> sg.StageGraph:
    """Two growths side by side; the deeper one goes first."""
    growths = {"depth": growth(DEEPEN), "width": growth(WIDEN)}
    return sg.overlapping(growths, name="overlapping growths", metrics=LOSS)


def gradual_unfreezing() -> sg.StageGraph:
    """Three groups, from the top down."""
    groups = ["classifier", "encoder.layer.[45].*", ["embeddings.*", "encoder.layer.[0-3].*"]]
    thaw = sg.gradual_unfreezing(groups=groups, every="1k steps", warmup="100 steps", lr_decay=2.6)
    return sg.sequential({"thaw": thaw}, name="gradual unfreezing")


def warmup_stable_decay() -> sg.StageGraph:
    """Three anneals off one trunk."""
    rate = sg.warmup_stable_decay(
        warmup="500 steps", stable=["3500 steps", "4k steps", "4k steps"], decay="800 steps"
    )
    return sg.sequential({"lr": rate}, name="warm-up, stable, decay", budget={"steps": "20k"})


def context_extension() -> sg.StageGraph:
    """Twice as long, and twice again."""
    longer = sg.context_extension(
        space="positions", lengths=[1024, 2048], rope_base=4, warmup="200 steps", train="1k steps"
    )
    sizes = {"sizes": {"config.max_position_embeddings": "positions"}}
    waive = {"no-monitor": "a longer context changes what the loss means"}
    return sg.sequential({"longer": longer}, name="context extension", spaces=sizes, waive=waive)


def spike_rule() -> sg.StageGraph:
    """Training watched for spikes by a region beside it."""
    rate = sg.warmup_stable_decay(warmup="100 steps", stable="1500 steps", decay="400 steps")
    watch = sg.spike_rule(metric="loss", by="50%", nonfinite=3, every="200 steps", at_most=5)
    metrics = {"loss": {"goal": "minimize"}}
    return sg.sequential({"lr": rate}, name="spike rule", metrics=metrics, watch=watch)


BUILDERS: Mapping[str, Callable[[], sg.StageGraph]] = {
    build.__name__: build
    for build in (
        grow_cycle,
        sequential,
        overlapping,
        gradual_unfreezing,
        warmup_stable_decay,
        context_extension,
        spike_rule,
    )
}


def main(name: str = "") -> None:
    """List the graphs, or print one written out."""
    if name:
        print(sg.dump(sg.expand(BUILDERS[name]())), end="")
        return
    for known, build in BUILDERS.items():
        print(f"{known}: {(build.__doc__ or '').rstrip('.')}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
