"""Every part of a checkpoint is needed: a resume without one of them is seen to differ.

One run visits every kind of stage and uses everything that a checkpoint holds, but for what is
listed as idle; each resume has one part left out, or as it was at the very beginning.
"""

import copy
import json
import random
import shutil
from fractions import Fraction

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import stagegraph as sg
from stagegraph.actions import actor
from stagegraph.engine.core import Core
from stagegraph.engine.state import State
from stagegraph.runs.folder import RunFolder
from stagegraph.testing.lives import Plan, live
from stagegraph.testing.resume import compare_lives
from tests.session.training import PROBE, Net

GRAPH = sg.load("""
stagegraph: 1
name: needs everything
metrics: {val_loss: {goal: minimize, every: 2 steps}}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: deeper, when: "plateau(val_loss, patience=3 steps)"}]
  deeper:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during: [{type: alpha_ramp, of: grown, end: 0.5, over: 4 steps}]
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: consolidate}
  consolidate:
    kind: consolidate
    during: [{type: freeze, of: inp}]
    duration: 6 steps
    next: done
  again: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
interrupts:
  - name: undo
    within: [consolidate]
    when: elapsed(4 steps) and visits(deeper) >= 1
    actions: [{type: roll_back, to: before, rng: fork, lr_factor: 0.5}]
    target: again
    at_most: 1
""")


def train(job):
    torch.manual_seed(1)
    random.seed(1)
    model = Net(dropout=0.1)
    optimizer = AdamW(model.parameters(), lr=0.02)
    scheduler = CosineAnnealingLR(optimizer, 40)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    model.register_buffer("seen", torch.zeros(()))
    engine = job.engine(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        ema=ema,
        probe=PROBE,
    )
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    items = TensorDataset(x, x.sum(1, keepdim=True).sin())
    for epoch in engine.epochs(DataLoader(items, 3, sampler=sg.SeededSampler(items, seed=3))):
        for x, y in epoch:
            noise = 0.01 * random.random()
            loss = engine.loss((model(x + noise) - y).pow(2).mean())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
            ema.update_parameters(model)
            model.seen += 1
            engine.step(loss=loss, samples=len(x))
            if engine.wants_evaluation:
                engine.observe(val_loss=5.0)
            if engine.progress.step == 2:
                model.blocks[0].drop.eval()
            if engine.progress.step == 13:
                model.inp.bias.requires_grad_(False)


PLACES = {"train": 4, "warmup": 8, "settle": 12, "consolidate": 15, "again": 18}
"""Stages in which to end the run, and after which update."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The whole run, and the folders of runs that were ended."""
    base = tmp_path_factory.mktemp("runs")
    whole = live(train, GRAPH, base / "whole", seed=0)
    for place, cut in PLACES.items():
        live(train, GRAPH, base / place, seed=0, plan=Plan(cut=cut, every=whole.clocks[cut]))
    return whole, base


def resumed(runs, place, tmp_path, monkeypatch, forget):
    """What is seen of a resume that is made to forget something; ``None``: no difference."""
    whole, base = runs
    folder = shutil.copytree(base / place, tmp_path / place)
    states = {}
    load, read = Core.load_state_dict, actor.read_checkpoint

    def engine_loads(core, state):
        states["engine"] = copy.deepcopy(state)
        forget(states["engine"], {"model": None, "beside": None})
        load(core, states["engine"])

    def reads(files):
        state = read(files)
        forget(copy.deepcopy(states["engine"]), state)
        return state

    with monkeypatch.context() as patched:
        patched.setattr(Core, "load_state_dict", engine_loads)
        patched.setattr(actor, "read_checkpoint", reads)
        try:
            life = live(train, GRAPH, folder, seed=9, resume=True)
        except (sg.StageGraphError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            return f"refused: {error}"
    if life.began != PLACES[place]:
        return f"goes on at update {life.began}"
    return compare_lives(whole, life)


# What can be left out: a function of the engine's state and the checkpoint's


def of_engine(key):
    fresh = State().to_json("")

    def forget(engine, _):
        engine["engine"][key] = fresh[key]

    return forget


def of_actor(key, fresh):
    def forget(engine, _):
        engine["actor"][key] = fresh

    return forget


def of_tensors(change):
    def forget(_, checkpoint):
        if checkpoint["model"] is not None:
            change(checkpoint["model"], checkpoint["model"]["now"], checkpoint["beside"])

    return forget


def zeroed(tensors):
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def fresh_companions(model, now, beside, *, of):
    optimizer = AdamW([torch.zeros(1)], lr=0.02)
    fresh = {
        "scheduler0": CosineAnnealingLR(optimizer, 40).state_dict(),
        "scaler": torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3).state_dict(),
        "ema": zeroed(now["companions"]["ema"]),
    }
    now["companions"][of] = fresh[of]


def initial_rates(model, now, beside):
    for group in now["groups"][0]:
        group["settings"]["lr"] = 0.02


def other_order(model, now, beside):
    for group in now["groups"][0]:
        group["members"].reverse()


def other_numbers(which):
    def change(model, now, beside):
        if which == "python":
            now["random"]["python"][1][0] ^= 1
        else:
            now["random"]["cpu"] = torch.Generator().manual_seed(77).get_state()

    return change


PARTS = {
    "weights": of_tensors(lambda m, now, b: now.update(parameters=zeroed(now["parameters"]))),
    "buffers": of_tensors(lambda m, now, b: now.update(buffers=zeroed(now["buffers"]))),
    "optimizer state": of_tensors(lambda m, now, b: now.update(state=[{}])),
    "learning rates of the groups": of_tensors(initial_rates),
    "order of the groups": of_tensors(other_order),
    "scheduler": of_tensors(lambda *states: fresh_companions(*states, of="scheduler0")),
    "scaler": of_tensors(lambda *states: fresh_companions(*states, of="scaler")),
    "averaged weights": of_tensors(lambda *states: fresh_companions(*states, of="ema")),
    "Python's random numbers": of_tensors(other_numbers("python")),
    "torch's random numbers": of_tensors(other_numbers("torch")),
    "batches that were used": of_tensors(lambda m, now, beside: beside.update(batches=0)),
    "which pass it is": of_tensors(lambda m, now, beside: beside.update(index=0)),
    "passes at the beginning": of_tensors(lambda m, now, beside: beside.update(start=Fraction(0))),
    "snapshots' tensors": of_tensors(lambda model, now, b: model.update(copies={})),
    "modules in eval mode": of_tensors(lambda model, now, b: model.update(in_eval_mode=[])),
    "weights that are not trained": of_tensors(lambda model, now, b: model.update(not_trained=[])),
    "lineage": of_actor("lineage", []),
    "lasting learning-rate factor": of_actor("lasting_lr_factor", 1.0),
    "epochs' reading": lambda engine, _: engine.update(reading="0"),
}
DERIVED = {
    "alphas of the gates": of_actor("alphas", {}),
    "flags of what is frozen": of_actor("frozen", {}),
    "facts": of_engine("facts"),
}
"""What the rest says too: the engine's own state sets the gates, the checkpoint has the flags of
all weights, the model tells its facts."""

IDLE = {"errors", "events", "blocked", "ended", "teachers", "commands", "data_changed"} | {
    *("options", "trial", "baselines", "recent", "attributions", "pruned", "unblended")
}
"""Of the engine's state: what this run never uses; the second line is left out of a run of its own
in ``tests/engine/test_left_out.py``."""

ENGINE = sorted(State().to_json("").keys() - {"version", "graph", "facts"} - IDLE)


def test_what_is_idle_is_never_used(runs):
    _, base = runs
    fresh = State().to_json("")
    for place in PLACES:
        (*_, newest) = RunFolder(base / place).checkpoints().generations()
        state = json.loads(newest.read("engine.json"))
        for key in IDLE:
            assert state["engine"][key] == fresh[key], key


@pytest.mark.parametrize("place", PLACES)
def test_with_everything_nothing_differs(runs, tmp_path, monkeypatch, place):
    assert resumed(runs, place, tmp_path, monkeypatch, lambda engine, checkpoint: None) is None


@pytest.mark.parametrize("part", DERIVED)
def test_what_the_rest_says_too_is_not_missed(runs, tmp_path, monkeypatch, part):
    for place in PLACES:
        assert resumed(runs, place, tmp_path, monkeypatch, DERIVED[part]) is None


@pytest.mark.parametrize("part", [*PARTS, *(f"engine: {key}" for key in ENGINE)])
def test_what_is_left_out_is_seen(runs, tmp_path, monkeypatch, part):
    key = part.removeprefix("engine: ")
    forget = PARTS[part] if part in PARTS else of_engine(key)
    places = (resumed(runs, place, tmp_path, monkeypatch, forget) for place in PLACES)
    assert any(found is not None for found in places), f"nobody saw that {part} was left out"
