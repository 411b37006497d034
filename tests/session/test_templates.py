"""Templates on a real model: a trunk that goes on as if it had never been annealed."""

from __future__ import annotations

import torch

import stagegraph as sg


def batch(step):
    numbers = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=numbers), torch.randn(8, 2, generator=numbers)


def trained(part, *, steps=60, watch=None, spike=None, run=None):
    """A model trained with a part; its weights at each entry of a stage, and the engine."""
    part = part if run is not None else part.model_copy(update={"save": False})
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    metrics = {"loss": {"goal": "minimize"}} if watch is not None else {}
    graph = sg.sequential({"lr": part}, name="x", watch=watch, metrics=metrics)
    seen = {}
    with sg.Engine(graph, model=model, optimizer=optimizer, probe=batch(0)[0], run=run) as engine:
        engine.start()
        for spent in range(steps):
            if engine.done:
                break
            stage = engine.stages.get("main", "")
            seen.setdefault(stage.removeprefix("lr."), [p.clone() for p in model.parameters()])
            x, y = batch(engine.progress.step)
            loss = torch.nn.functional.mse_loss(model(x), y)
            if spike is not None and spent == spike:
                loss = loss * 1e6
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step(**({"loss": loss} if metrics else {}))
        seen.setdefault("done", [p.clone() for p in model.parameters()])
        return seen, engine.progress.step, engine.done


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_trunk_goes_on_bit_for_bit_as_if_it_had_not_been_annealed():
    annealed, step, done = trained(
        sg.WarmupStableDecay(warmup="2 steps", stable=["5 steps", "4 steps"], decay="3 steps")
    )
    plain, _, _ = trained(
        sg.WarmupStableDecay(warmup="2 steps", stable=["9 steps"], decay="3 steps")
    )
    assert (step, done) == (14, True)
    assert same(annealed["anneal2"], plain["anneal1"])
    assert same(annealed["done"], plain["done"])
    assert not same(annealed["stable2"], annealed["stable1"])
    assert same(annealed["stable2"], annealed["anneal1"]), "the branch leaves nothing behind"


def test_an_annealed_branch_is_what_a_run_with_that_anneal_alone_comes_to():
    parts = {"warmup": "2 steps", "decay": "3 steps"}
    branches, _, _ = trained(sg.WarmupStableDecay(**parts, stable=["5 steps", "4 steps"]))
    alone, _, _ = trained(sg.WarmupStableDecay(**parts, stable="5 steps"))
    assert same(branches["anneal1"], alone["anneal1"])


def test_every_annealed_model_is_saved_and_none_of_the_trunk(tmp_path):
    parts = {"warmup": "2 steps", "decay": "3 steps"}
    part = sg.WarmupStableDecay(**parts, stable=["5 steps", "4 steps"])
    seen, _, _ = trained(part, run=tmp_path)
    first, last = sg.saved(tmp_path)
    assert [(s.name, s.step, s.boundary, s.stages["main"]) for s in (first, last)] == [
        ("lr.anneal1", 10, 10, "lr.anneal1"),
        ("lr.anneal2", 14, 17, "lr.anneal2"),
    ]
    alone, _, _ = trained(sg.WarmupStableDecay(**parts, stable="5 steps"))
    for one, weights in ((first, alone["done"]), (last, seen["done"])):
        fresh = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
        assert sg.load_saved(fresh, one) == one
        assert same(fresh.parameters(), weights)
    assert not same(alone["done"], seen["stable2"]), "what was saved is not what was returned to"


def test_a_spike_leaves_weights_and_moments_as_before_it():
    watch = sg.SpikeRule(metric="loss", by="900%", every="4 steps", at_most=2)
    part = sg.WarmupStableDecay(stable="10 steps", decay="2 steps")
    calm, _, _ = trained(part, watch=watch)
    spiking, step, done = trained(part, watch=watch, spike=6)
    assert (step, done) == (12, True)
    assert same(spiking["done"], calm["done"]), "the batches are those of the clock here"
