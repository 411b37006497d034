"""Growths that overlap, their regions made by a template: run on a model, cut and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

import stagegraph as sg
from tests.examples.staging import Task, falling, shortened
from tests.examples.test_systems import Cuts, resumed

DOCUMENT = Path(__file__).parents[1] / "data" / "valid" / "overlapping.yaml"


def task() -> Task:
    return Task(shortened(DOCUMENT.read_text("utf-8"), params="2000"), {"val_loss": falling})


def test_both_growths_are_open_at_once_and_the_one_of_higher_priority_goes_first(
    tmp_path: Path,
) -> None:
    run = task().live(tmp_path, lambda run: run.updates > 900)
    assert (run.engine.ended, run.records.of("error")) == ("final", [])
    assert [record["region"] for record in run.records.of("growth")] == ["width", "depth"]
    came = {record["target"]: record["step"] for record in run.records.of("move")}
    assert came["width:growth.warmup"] < came["depth:growth.warmup"] < came["width:done"]
    assert len(run.model.blocks) == 2


def test_it_is_the_same_run_as_that_of_the_plain_document(tmp_path: Path) -> None:
    used = task()
    plain = Task(sg.expand(used.graph), used.curves)
    lives = [
        one.live(tmp_path / name, lambda run: False) for one, name in ((used, "a"), (plain, "b"))
    ]
    assert lives[0].losses == lives[1].losses
    moves = [[(r["edge"], r["target"], r["step"]) for r in run.records.of("move")] for run in lives]
    assert moves[0] == moves[1]


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(False, id="where-stages-begin"),
        pytest.param(True, id="every", marks=pytest.mark.slow),
    ],
)
def test_it_resumes_after_an_update(every: bool, tmp_path: Path) -> None:
    whole, cuts = task(), Cuts(tmp_path, every=every)
    whole.live(tmp_path / "whole", cuts.after)
    assert len(cuts.digests) > 60 if every else len(cuts.digests) == 2
    for cut, digest in cuts.digests.items():
        assert resumed(whole, cuts.folder(cut), cut) == digest, f"cut after update {cut}"
