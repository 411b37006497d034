"""XState, given the same graphs and the same answers of guards, makes the same moves (S4 to S6).

Where ours differs by design, the graphs say nothing: XState has no growth lock, asks the innermost
state first and not the interrupts (here they are written into every state, first), keeps an event
for one macrostep and not for a boundary more, and goes on after the end that we call an end (all
regions that have a final stage are in it), or at ``stop``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.engine.driving import Run
from tests.xstate import charts

HERE = Path(__file__).parent
VALUES = {True: 1.0, False: 0.0, None: float("nan")}

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(
        shutil.which("node") is None or not (HERE / "node_modules" / "xstate").is_dir(),
        reason="no Node.js, or no 'npm install' in tests/xstate",
    ),
]


def walk(graphs):
    """What XState makes of graphs and frames: per graph, what is seen after each boundary."""
    lines = []
    for regions, frames in graphs:
        boundaries = [{"step": n, "truth": truth} for n, truth in enumerate(frames, start=1)]
        lines.append(json.dumps({"chart": charts.chart(regions), "boundaries": boundaries}))
    done = subprocess.run(
        ["node", "walk.mjs"],
        cwd=HERE,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(regions, after):
    """Whether our rules (S15) end the run here."""
    ending = [region for region, spec in regions.items() if "end" in spec["stages"]]
    return after["stopped"] or all(after["value"][region] == "end" for region in ending)


def compare(seeds):
    """The engine beside XState.

    Returns:
        How many boundaries were compared, and at how many of them something moved.
    """
    graphs = [(charts.graph(random), charts.frames(random)) for random in map(Random, seeds)]
    compared = moved = 0
    for (regions, frames), walked in zip(graphs, walk(graphs), strict=True):
        run = Run(charts.document(regions), params=0, costs={})
        run.core.start()
        for n, after in enumerate(walked):
            if n:
                run.core.step(**{name: VALUES[truth] for name, truth in frames[n - 1].items()})
            state = run.core.state
            assert run.core.stages == after["value"], (regions, n)
            assert dict(state.visits) == after["visits"], (regions, n)
            assert dict(state.fired) == after["fired"], (regions, n)
            compared += 1
            moved += any(record["boundary"] == n for record in run.of_type("move"))
            assert run.core.done == ended(regions, after), (regions, n)
            if run.core.done:
                break
    return compared, moved


def test_xstate_makes_the_same_moves():
    compared, moved = compare(range(300))
    assert compared > 3600 and moved > 1500, (compared, moved)


@pytest.mark.slow
def test_xstate_makes_the_same_moves_in_thousands_of_graphs():
    compared, moved = compare(range(3000))
    assert compared > 35_000 and moved > 15_000, (compared, moved)
