"""What an engine says when it is held wrong: nothing half-changed, nothing silent."""

import json

import pytest
import torch
from torch.optim import SGD

import stagegraph as sg
from tests.session.training import EVERY_STAGE, PROBE, Net

QUICK = """
stagegraph: 1
name: quick
budget: {steps: 40}
waive: {no-monitor: short}
initial: train
stages:
  train: {kind: train, duration: 4 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}
    next: consolidate
  consolidate: {kind: consolidate, duration: 4 steps, next: done}
  done: {kind: final}
"""


def made(text=QUICK, *, probe=PROBE):
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    return model, sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=probe)


def test_an_initial_growth_is_held_to_the_budget():
    graph = sg.load(
        """
        stagegraph: 1
        name: too large at once
        budget: {params: 10, steps: 20}
        initial: grow
        stages:
          grow: {kind: grow, actions: [{type: widen, space: mlp, factor: 2}], next: rest}
          rest: {kind: consolidate, duration: 9 steps, next: done}
          done: {kind: final}
        """
    )
    with pytest.raises(sg.ActionError, match="main:grow: the run cannot begin with it: it would"):
        sg.simulate(graph, params=5, costs={"grow": 100})


def test_two_regions_cannot_both_begin_with_a_growth():
    region = """
        initial: grow
        stages:
          grow: {kind: grow, actions: [{type: widen, space: mlp, factor: 2}], next: rest}
          rest: {kind: consolidate, duration: 9 steps, next: done}
          done: {kind: final}
    """
    graph = sg.load(
        "stagegraph: 1\nname: both\nbudget: {steps: 20}\nregions:\n  a:"
        + region
        + "\n  b:"
        + region
    )
    with pytest.raises(sg.ActionError, match=r"b:grow: .*region 'a' changes the model"):
        sg.simulate(graph)


def test_a_closed_engine_moves_no_more():
    model, engine = made()
    engine.start()
    engine.close()
    engine.close()
    for act in (engine.step, engine.start, engine.observe):
        with pytest.raises(sg.StageGraphError, match="this engine is closed"):
            act()
    assert len(model.blocks) == 2
    assert not engine.done


def test_a_model_has_one_engine_at_a_time():
    model, first = made()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(sg.UnsupportedError, match="another engine holds this model"):
        sg.Engine(sg.load(QUICK), model=model, optimizer=optimizer, probe=PROBE)
    first.close()
    with sg.Engine(sg.load(QUICK), model=model, optimizer=optimizer, probe=PROBE) as second:
        second.start()


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update(engine=[]),
        lambda state: state.update(reading="1/0"),
        lambda state: state.update(reading=float("inf")),
        lambda state: state["actor"].update(lineage=[]),
        lambda state: state["engine"]["regions"]["main"].update(stage="main:zzz"),
        lambda state: state["engine"]["clock"].update(step="x"),
        lambda state: state["engine"]["clock"].update(step=-5),
        lambda state: state["engine"].update(alphas={"x": 2}),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    _, first = made()
    for _ in range(6):
        first.step()
    state = json.loads(json.dumps(first.state_dict()))
    damage(state)
    model, engine = made()
    parameters = list(model.parameters())
    with pytest.raises(sg.SnapshotError):
        engine.load_state_dict(state)
    assert len(model.blocks) == 2
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    engine.start()
    assert engine.stages == {"main": "train"}


def test_counts_are_whole_numbers():
    engine = sg.Engine(sg.load(QUICK))
    with pytest.raises(sg.ProgressError, match=r"samples are counted in whole numbers, got a fl"):
        engine.step(samples=1.5)
    with pytest.raises(sg.ProgressError, match="samples are counted in whole numbers, got a str"):
        engine.step(samples="a")
    engine.step(samples=torch.tensor(3))
    assert engine.progress.samples == 3
    json.dumps(engine.state_dict())


def test_seconds_are_the_engines_own():
    engine = sg.Engine(sg.load(QUICK))
    with pytest.raises(sg.ProgressError, match="this engine has a clock of its own"):
        engine.step(seconds=50)


def test_a_subclass_may_have_its_own_step():
    class Counting(sg.Engine):
        steps = 0

        def step(self, **metrics):
            self.steps += 1
            super().step(**metrics)

    engine = Counting(sg.load(QUICK))
    engine.step()
    assert (engine.steps, engine.progress.step) == (1, 1)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"Engine takes a StageGraph, got a str; read it with"):
        sg.Engine("grow.yaml")
    with pytest.raises(sg.UnsupportedError, match=r"model= is a int, not an nn.Module"):
        sg.Engine(sg.load(QUICK), model=42)


def test_a_probe_that_the_model_cannot_take_is_refused_before_the_run():
    with pytest.raises(sg.UnsupportedError, match="the model cannot be run on its probe"):
        made(probe=(torch.zeros(2, 99),))


def test_trying_the_probe_draws_no_random_number():
    model = Net(dropout=0.5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sg.Engine(
        sg.load(EVERY_STAGE), model=model, optimizer=SGD(model.parameters(), lr=0.1), probe=PROBE
    )
    assert torch.equal(before, torch.get_rng_state())


def test_a_diverged_model_is_called_by_its_name():
    model, engine = made()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    for _ in range(3):
        engine.step()
    with pytest.raises(sg.ActionError, match="not finite: training has diverged"):
        engine.step()
    assert len(model.blocks) == 2
