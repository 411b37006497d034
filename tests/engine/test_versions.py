"""States of earlier versions are upgraded, and those of later ones refused in words."""

import json
from pathlib import Path

import pytest

from stagegraph.engine.state import VERSION
from stagegraph.errors import SnapshotError, another_version
from tests.engine.driving import HEADER, Run

STATES = Path(__file__).parents[1] / "data" / "states"
"""What earlier versions wrote, each with its graph."""


def opened(version, *, edit=("", "")):
    text = (STATES / f"engine-{version}.graph.yaml").read_text("utf-8").removeprefix(HEADER)
    run = Run(text.replace(*edit) if edit[0] else text, params=100, costs={"main:g": 10})
    return run, json.loads((STATES / f"engine-{version}.json").read_text("utf-8"))


def test_every_earlier_version_is_there():
    assert sorted(path.name for path in STATES.glob("engine-*.json")) == [
        f"engine-{version}.json" for version in range(1, VERSION)
    ]


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_state_of_an_earlier_version_goes_on_as_it_would_have(version):
    run, saved = opened(version)
    assert saved["engine"]["version"] == version
    run.core.load_state_dict(saved)
    assert run.core.state_dict()["engine"]["version"] == VERSION
    assert (run.stage, run.core.state.facts.params) == ("aside", 110)
    assert [kept.name for kept in run.core.state.snapshots] == ["s", "s"]
    for _ in range(50):
        run.step()
        if run.core.wants_evaluation:
            run.core.observe(m=1.0)
    # The ramp of the learning rate bends the curve up to 52; patience is counted from there.
    assert run.moves == [(18, "main:aside.transitions[0]"), (60, "main:train.transitions[1]")]
    assert run.core.done


@pytest.mark.parametrize(("version", "words"), [
    (VERSION + 1, f"has version {VERSION + 1}; this stagegraph reads 1 to {VERSION}: a newer one "
                  "wrote it; update stagegraph"),
    (0, "has version 0; .*: go on with the stagegraph that wrote it"),
    (None, "has version None; .*: it is damaged, or no stagegraph wrote it; bring it back"),
    (True, "has version True; .*: it is damaged, or no stagegraph wrote it; bring it back"),
])  # fmt: skip
def test_a_version_that_is_not_read_is_refused_with_the_way_out(version, words):
    run, saved = opened(1)
    saved["engine"]["version"] = version
    with pytest.raises(SnapshotError, match=words):
        run.core.load_state_dict(saved)
    assert not run.core.started


def test_versions_of_one_are_told_without_a_range():
    assert another_version("this", 2, newest=1).startswith(
        "this has version 2; this stagegraph reads 1:"
    )
