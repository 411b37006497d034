"""The contract of every growth: over operators, optimizers and dtypes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from typing import get_args

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from stagegraph.actions.growth.width.resize import tensors_of
from stagegraph.actions.optimizing.optimizers import check_state_shapes
from stagegraph.schema.actions import Action, GrowthAction
from tests.actions.models import accept, back_to, boundary, freeze, values
from tests.contracts.growths import (
    ALWAYS,
    GROWTHS,
    OPTIMIZERS,
    Scene,
    fingerprint,
    fingerprints,
    sample,
)
from tests.pages import ROOT

EXACT = ("exact", "exact up to rounding")
FIRSTS = {
    name: row
    for number, (name, row) in enumerate(GROWTHS.items())
    if type(row.action) not in {type(r.action) for r in list(GROWTHS.values())[:number]}
}
"""One row per operator, where all would be dear; among the slow tests there are all."""
growths = pytest.mark.parametrize("row", GROWTHS.values(), ids=GROWTHS)
first_growths = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=() if name in FIRSTS else pytest.mark.slow)
        for name, row in GROWTHS.items()
    ],
)


def test_every_growth_that_a_document_can_name_has_a_row():
    named = {kind for kind in get_args(get_args(Action)[0]) if issubclass(kind, GrowthAction)}
    assert named == {type(row.action) for row in GROWTHS.values()}


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        pytest.param(row, dtype, id=f"{name}-{word}", marks=marks)
        for name, row in GROWTHS.items()
        for word, dtype, marks in (
            ("float32", torch.float32, () if name in FIRSTS else pytest.mark.slow),
            ("float64", torch.float64, ()),
        )
    ],
)
def test_a_growth_keeps_the_function_or_says_that_it_does_not(row, dtype):
    scene = Scene(row, dtype=dtype).prepare()
    scene.step(2)
    expected = scene.output(row.reference(scene))
    certificate = scene.grow()
    now = row.compared(scene.output())
    kept = row.reference(scene) is not scene.model
    said = (certificate["from_source"] if kept else certificate)["exactness"]
    if row.exact:
        atol = 1e-12 if dtype == torch.float64 else row.atol
        torch.testing.assert_close(now, expected, rtol=0, atol=atol)
        assert said in EXACT
        assert kept or not row.train or certificate["change"]["train"] < 10 * atol
    else:
        assert (now - expected).abs().max() > 1e-4
        assert said == "approximate"


@pytest.mark.parametrize("row", FIRSTS.values(), ids=FIRSTS)
def test_a_growth_in_bfloat16_trains_on(row):
    scene = Scene(row, dtype=torch.bfloat16).prepare()
    scene.step(1)
    scene.grow()
    assert scene.output().isfinite().all()
    scene.step(1)
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in scene.model.parameters())


def _ties(model):
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [tied for tied in names.values() if len(tied) > 1]


@growths
def test_references_names_and_ties_stay_good(row):
    scene = Scene(row).prepare()
    scene.step(1)
    model = scene.model
    modules, tensors = dict(model.named_modules()), tensors_of(model)
    names, ties, cached = list(model.state_dict()), _ties(model), list(model.parameters())
    scene.grow()
    assert set(map(id, modules.values())) <= set(map(id, model.modules()))
    assert set(map(id, tensors.values())) <= set(map(id, tensors_of(model).values()))
    assert set(map(id, cached)) <= set(map(id, model.parameters()))
    assert set(names) <= set(model.state_dict())
    assert all(any(tied <= now for now in _ties(model)) for tied in ties)
    model(scene.x).pow(2).mean().backward()
    assert clip_grad_norm_(cached, 1.0) > 0
    assert all(p.grad.shape == p.shape for p in cached if p.grad is not None)


@first_growths
def test_no_half_of_what_is_new_is_dead(row):
    """Each row and each column of what is new or larger gets a gradient within three updates."""
    scene = Scene(row, OPTIMIZERS["SGD"], dtype=torch.float64).prepare()
    scene.step(1)
    shapes = {id(p): p.shape for p in scene.model.parameters()}
    scene.grow()
    larger = {n: p for n, p in scene.model.named_parameters() if shapes.get(id(p)) != p.shape}
    felt = {name: torch.zeros_like(p) for name, p in larger.items()}
    for _ in range(3):
        scene.model(scene.x).pow(2).mean().backward()
        for name, p in larger.items():
            felt[name] += 0 if p.grad is None else p.grad.abs()
        scene.update()
    dead = {
        (name, dim): still
        for name, seen in felt.items()
        if not any(fnmatchcase(name, glob) for glob in row.idle)
        for dim in range(seen.dim())
        if (still := (_along(seen, dim).amax(1) < 1e-12).nonzero().flatten().tolist())
    }
    assert dead == {}


def _along(tensor, dim):
    return tensor.transpose(0, dim).reshape(tensor.shape[dim], -1)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(
            row, name, marks=() if row in FIRSTS or name not in ALWAYS else pytest.mark.slow
        )
        for row, name in sample()
    ],
)
def test_optimizers_go_on(row, name):
    scene = Scene(GROWTHS[row], OPTIMIZERS[name]).prepare()
    scene.step(2)
    held = [{id(p) for g in o.param_groups for p in g["params"]} for o in scene.optimizers]
    rates = [s.get_last_lr() for s in scene.schedulers]
    scene.grow()
    trained = Counter(
        id(p) for o in scene.optimizers for group in o.param_groups for p in group["params"]
    )
    assert trained == Counter(id(p) for p in scene.model.parameters())
    for optimizer, before in zip(scene.optimizers, held, strict=True):
        assert before <= {id(p) for g in optimizer.param_groups for p in g["params"]}
    check_state_shapes(scene.optimizers, {})
    scene.step(2)
    check_state_shapes(scene.optimizers, {})
    assert all(p.isfinite().all() for p in scene.model.parameters())
    for optimizer in scene.optimizers:
        for p in optimizer.state:
            assert all(
                v.isfinite().all()
                for v in optimizer.state[p].values()
                if isinstance(v, torch.Tensor)
            )
    for before, scheduler in zip(rates, scene.schedulers, strict=True):
        assert scheduler.get_last_lr() == pytest.approx([rate * 0.9**2 for rate in before])


@first_growths
def test_a_second_growth_on_top_of_the_first(row):
    scene = Scene(row).prepare()
    scene.step(1)
    scene.grow()
    scene.step(2)
    expected = scene.output(row.reference(scene))
    certificate = scene.grow(row.again, "second", step=3)
    if row.exact:
        now = scene.output()[tuple(slice(size) for size in expected.shape)]
        torch.testing.assert_close(now, expected, rtol=0, atol=10 * row.atol)
    assert certificate["cohort"] == "second"
    scene.step(2)
    check_state_shapes(scene.optimizers, {})


@first_growths
def test_what_is_frozen_does_not_move(row):
    scene = Scene(row).prepare()
    held = [freeze(*row.frozen)]
    scene.actor.transact(boundary(held=held), accept)

    def still():
        parts = [scene.model.get_submodule(path) for path in row.frozen]
        return [p.detach().clone() for part in parts for p in part.parameters()]

    first = still()
    scene.step(2)
    assert all(map(torch.equal, first, still()))
    scene.grow(held=held, step=2)
    grown = still()
    scene.step(2)
    assert all(map(torch.equal, grown, still()))
    scene.actor.transact(boundary(4), accept)
    scene.step(1)
    assert not all(map(torch.equal, grown, still()))
    scene.actor.transact(boundary(5, held=held), accept)
    again = still()
    scene.step(1)
    assert all(map(torch.equal, again, still()))


@first_growths
def test_a_checkpoint_of_a_grown_model_goes_on_bit_for_bit(row):
    make = OPTIMIZERS["Muon and AdamW"]
    scene = Scene(row, make).prepare()
    scene.step(2)
    scene.grow()
    scene.step(1)
    state = json.loads(json.dumps(scene.actor.state_dict()))
    other = Scene(row, make)
    other.actor.load_state_dict(state)
    other.model.load_state_dict(copy.deepcopy(scene.model.state_dict()))
    for mine, theirs in (
        (other.optimizers, scene.optimizers),
        (other.schedulers, scene.schedulers),
    ):
        for one, saved in zip(mine, theirs, strict=True):
            one.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert torch.equal(other.output(), scene.output())
    torch.manual_seed(3)
    losses = scene.step(2)
    torch.manual_seed(3)
    assert other.step(2) == losses
    assert fingerprint(other.model) == fingerprint(scene.model)


@first_growths
def test_a_rollback_brings_everything_back(row):
    scene = Scene(row).prepare()
    scene.step(2)
    before, shown = values(scene.model, *scene.optimizers), repr(scene.model)
    names, expected = list(scene.model.state_dict()), scene.output()
    scene.grow(step=2)
    scene.step(2)
    scene.actor.transact(boundary(4, restore=back_to()), accept)
    assert values(scene.model, *scene.optimizers) == before
    assert list(scene.model.state_dict()) == names
    assert repr(scene.model) == shown
    assert torch.equal(scene.output(), expected)
    scene.step(1)
    scene.grow(step=5)
    scene.step(1)


@pytest.mark.parametrize(
    "rows",
    [tuple(FIRSTS), pytest.param(tuple(GROWTHS), marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def test_a_fresh_process_grows_the_same_bits(rows):
    program = (
        "import json, torch; torch.set_num_threads(1);"
        "from tests.contracts.growths import fingerprints;"
        f"print(json.dumps(fingerprints({rows})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    assert json.loads(done.stdout) == fingerprints(rows)
