"""A run that resumes exactly passes; one that does not is told where, what and why."""

import functools
import importlib
import random
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import stagegraph as sg
from stagegraph.testing import assert_resume_exact
from tests.session.training import PROBE, Net

GROWING = """
stagegraph: 1
name: grows
metrics: {loss: {goal: minimize}, speed: {goal: maximize}}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: deeper}
  deeper: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during: [{type: alpha_ramp, of: grown, over: 3 steps}]
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: done}
  done: {kind: final}
"""
PLAIN = """
stagegraph: 1
name: plain
metrics: {loss: {goal: minimize}, speed: {goal: maximize}}
initial: train
stages:
  train: {kind: train, duration: 7 steps, next: done}
  done: {kind: final}
"""


class OwnOrder:
    """Batches in an order that a counter of its own decides."""

    def __init__(self, items):
        self._items = items
        self._passes = 0

    def __len__(self):
        return len(self._items) // 4

    def __iter__(self):
        self._passes += 1
        order = random.Random(self._passes).sample(range(len(self._items)), len(self._items))
        for at in range(0, len(order), 4):
            x, y = zip(*(self._items[index] for index in order[at : at + 4]), strict=True)
            yield torch.stack(x), torch.stack(y)


@dataclass
class Run:
    """A training function with, if asked for, one thing wrong with it."""

    seeded: bool = True
    seeded_after: bool = False
    counts: bool = False
    own_order: bool = False
    forgets_scheduler: bool = False
    steps_scheduler_late: bool = False
    forgets_ema: bool = False
    watches: bool = False
    timed: bool = False
    shuffled: bool = False

    def __call__(self, job):
        if self.seeded:
            torch.manual_seed(1)
        model = Net(dropout=0.1)
        optimizer = AdamW(model.parameters(), lr=0.02)
        scheduler = CosineAnnealingLR(optimizer, 20)
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        engine = job.engine(
            model=model,
            optimizer=optimizer,
            scheduler=None if self.forgets_scheduler else scheduler,
            ema=None if self.forgets_ema else ema,
            probe=PROBE,
        )
        if self.seeded_after:
            torch.manual_seed(2)
        seen = 0
        if self.watches:
            job.watch(batches_seen=lambda: seen)
        for epoch in engine.epochs(self.loader()):
            for x, y in epoch:
                seen += 1
                scale = 1 + 0.1 * seen if self.counts else 1
                loss = engine.loss(scale * (model(x) - y).pow(2).mean())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if not self.steps_scheduler_late:
                    scheduler.step()
                ema.update_parameters(model)
                speed = time.perf_counter() if self.timed else 1
                engine.step(loss=loss, samples=len(x), speed=speed)
                if self.steps_scheduler_late:
                    scheduler.step()

    def loader(self):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(5))
        items = TensorDataset(x, x.sum(1, keepdim=True).sin())
        if self.own_order:
            return OwnOrder(items)
        if self.shuffled:
            return DataLoader(items, 4, shuffle=True)
        return DataLoader(items, 4, sampler=sg.SeededSampler(items, seed=3))


def failure(folder, document=PLAIN, cuts=(2, 6), **defects):
    with pytest.raises(AssertionError) as raised:
        assert_resume_exact(Run(**defects), sg.load(document), folder=folder, cuts=cuts)
    return str(raised.value)


def test_a_growing_run_passes(tmp_path):
    before = torch.get_rng_state()
    report = assert_resume_exact(Run(), sg.load(GROWING), folder=tmp_path)
    assert report.updates == 9
    assert report.cuts == (1, 2, 3, 4, 5, 6, 7, 8)
    assert report.compared == 8 + 7 + 6 + 5 + 4 + 3 + 2 + 1
    assert set(report.kinds) == {"train", "warmup", "settle"}
    assert report.batches == "exact"
    assert str(report) == (
        "ended after 8 of 9 updates (in train, warmup, settle), resumed, and all 36 updates "
        "compared are the same"
    )
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_module_draws_when_it_is_imported_is_none_of_the_runs(tmp_path, monkeypatch):
    """``rich`` does, and a module is imported but once: in the first of all lives."""
    (tmp_path / "draws_at_import.py").write_text("import random\nrandom.random()\n")
    monkeypatch.syspath_prepend(tmp_path)

    class Importing(Run):
        def __call__(self, job):
            importlib.import_module("draws_at_import")
            super().__call__(job)

    report = assert_resume_exact(
        Importing(), sg.load(PLAIN), folder=tmp_path / "lives", cuts=[2, 6]
    )
    assert report.cuts == (2, 6)
    assert list((tmp_path / "lives").iterdir()) == []


def test_a_run_that_is_told_to_go_passes(tmp_path):
    report = assert_resume_exact(
        Run(), sg.load(GROWING), folder=tmp_path, cuts=[2, 5], how="preempt"
    )
    assert (report.cuts, report.compared) == ((2, 5), 7 + 4)


def test_it_resumes_from_an_earlier_checkpoint_and_looks_at_some_updates(tmp_path):
    rarely = sg.Checkpoints(every="2 steps", background=False)
    report = assert_resume_exact(
        Run(), sg.load(GROWING), folder=tmp_path, cuts=[6], steps=8, checkpoints=rarely
    )
    assert (report.updates, report.compared) == (8, 2)


def test_a_shuffled_loader_passes_and_the_report_says_how_exact_it_is(tmp_path):
    first = sg.Checkpoints(every=None)
    report = assert_resume_exact(
        Run(shuffled=True), sg.load(PLAIN), folder=tmp_path, cuts=[6], checkpoints=first
    )
    assert (report.updates, report.compared, report.batches) == (7, 7, "order exact")


def test_the_graph_may_be_a_file_and_have_no_model(tmp_path):
    path = tmp_path / "graph.yaml"
    path.write_text(PLAIN, encoding="utf-8")

    def train(job):
        engine = job.engine()
        for epoch in engine.epochs([1.0, 0.5, 2.0]):
            for value in epoch:
                engine.step(loss=value)

    report = assert_resume_exact(train, path, folder=tmp_path / "runs", cuts="all")
    assert (report.cuts, report.compared) == ((1, 2, 3, 4, 5, 6), 21)


# What is wrong is told


def test_a_model_that_is_not_seeded(tmp_path):
    text = failure(tmp_path, seeded=False)
    assert text.startswith("this run is not deterministic in itself: two uninterrupted runs of it")
    assert "that is not resume's fault.\nThey differ before the first update:\n" in text
    assert "  weight inp.weight\n" in text
    assert "call random.seed, numpy.random.seed and torch.manual_seed at the beginning" in text


def test_a_counter_that_is_in_no_checkpoint(tmp_path):
    text = failure(tmp_path, counts=True)
    assert text.startswith("this run does not resume exactly.\nIt was ended after update 2 (in tra")
    assert "resumed from the checkpoint of update 2.\nThe first update that differs is" in text
    assert "differs is update 3 (in train):\n" in text
    assert "  weight inp.weight\n" in text
    assert "and 13 more like it\n" in text
    assert "optimizer state exp_avg of inp.weight" in text
    assert "training depends on something that is in no checkpoint: a counter or flag" in text
    assert "perhaps the reason: the variable seen: 1, and should be 3" in text
    assert text.endswith(f"Its folder: {tmp_path / 'cut-2'}")


def test_a_loader_whose_order_nobody_knows(tmp_path):
    text = failure(tmp_path, own_order=True)
    assert "It was ended after update 6 (in train)" in text  # within the second pass
    assert "update 7 (in train):\n  the batches\n" in text
    assert "the batches (not exact): a OwnOrder tells nothing of its order" in text
    assert "sampler=stagegraph.SeededSampler(dataset, seed=...)" in text


def test_a_scheduler_that_the_engine_was_not_given(tmp_path):
    text = failure(tmp_path, forgets_scheduler=True)
    assert "Not brought back, before any update:\n  scheduler (CosineAnnealingLR)\n" in text
    assert "  lr of optimizer group 0: 0.0" in text
    assert "give it to job.engine(...) as optimizer=, scheduler=, scaler= or ema=" in text


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_forgotten_is_found_in_any_kind_of_callable(tmp_path, wrapped):
    run = Run(forgets_scheduler=True)

    @functools.wraps(run.__call__)
    def inner(*arguments):
        return run(*arguments)

    task = functools.partial(inner) if wrapped else run.__call__
    with pytest.raises(AssertionError, match=r"scheduler \(CosineAnnealingLR\)"):
        assert_resume_exact(task, sg.load(PLAIN), folder=tmp_path, cuts=[2])


def test_a_scheduler_that_is_stepped_after_the_boundary(tmp_path):
    text = failure(tmp_path, steps_scheduler_late=True)
    assert "  scheduler: last_epoch: 1, and should be 2\n" in text
    assert "it is stepped after engine.step(...)" in text


def test_averaged_weights_that_the_engine_was_not_given(tmp_path):
    text = failure(tmp_path, forgets_ema=True)
    assert "  ema (AveragedModel)\n" in text
    assert "weight" not in text.split("What usually causes it:")[0]


def test_what_the_task_wants_watched(tmp_path):
    text = failure(tmp_path, watches=True)
    assert "  batches_seen: 1, and should be 3\n" in text
    assert "job.watch(...) names it, and nobody saves it" in text


def test_random_numbers_that_are_seeded_after_the_resume(tmp_path):
    text = failure(tmp_path, seeded_after=True)
    assert "  torch's random numbers\n" in text
    assert "seed before job.engine(...)" in text


def test_a_metric_from_the_wall_clock(tmp_path):
    text = failure(tmp_path, timed=True)
    assert text.startswith("this run is not deterministic in itself")
    assert "They differ first after update 1 (in train):\n" in text
    assert "  metric 'speed': " in text
    assert "depends on the wall clock: a speed given as a metric" in text
    assert "weight" not in text.split("What usually causes it:")[0]


# Misuse


def test_a_task_without_an_engine(tmp_path):
    with pytest.raises(sg.StageGraphError, match=r"takes the job and calls job\.engine\(\.\.\.\)"):
        assert_resume_exact(lambda job: None, sg.load(PLAIN), folder=tmp_path)


@pytest.mark.parametrize("cuts", [(7,), (0, 2), ()])
def test_a_cut_that_is_no_update(tmp_path, cuts):
    with pytest.raises(sg.StageGraphError, match=r"can be ended after the updates 1 to 6"):
        assert_resume_exact(Run(), sg.load(PLAIN), folder=tmp_path, cuts=cuts)


def test_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "whole").mkdir()
    with pytest.raises(sg.StageGraphError, match="give assert_resume_exact an empty folder"):
        assert_resume_exact(Run(), sg.load(PLAIN), folder=tmp_path)


def test_an_error_of_the_task_is_the_tasks(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            raise OSError("no data")

    def train(job):
        model = Broken()
        job.engine(model=model)
        model(1)

    with pytest.raises(OSError, match="no data"):
        assert_resume_exact(train, sg.load(PLAIN), folder=tmp_path)
