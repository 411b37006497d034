"""Epochs, samples, tokens and seconds: what is counted, and what is said if nobody does."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import stagegraph as sg
from tests.session.training import PROBE, Net

SHORT = """
stagegraph: 1
name: counted
budget: {{{budget}}}
initial: train
stages:
  train: {{kind: train, duration: {duration}, next: rest}}
  rest: {{kind: train, {rest}}}
  {done}
"""


def graph(*, budget="steps: 500", duration="1 epoch", rest="", done="", text=SHORT):
    if rest:
        rest, done = f"duration: {rest}, next: done", "done: {kind: final}"
    return sg.load(text.format(budget=budget, duration=duration, rest=rest, done=done))


def loader(rows=10, batch=3):
    return DataLoader(TensorDataset(torch.randn(rows, 4)), batch_size=batch)


class Stream(IterableDataset):
    """Rows of which nobody knows how many there are."""

    def __iter__(self):
        return iter(torch.randn(10, 4))


def train(engine, model, optimizer, batches, **counts):
    """The loop of the documentation; per pass, how many updates it had."""
    sizes = []
    for epoch in engine.epochs(batches):
        sizes.append(0)
        for batch in epoch:
            x = batch[0] if isinstance(batch, list) else batch
            loss = engine.loss(model(x).pow(2).mean())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            sizes[-1] += 1
            engine.step(loss=loss, **counts)
    return sizes


@pytest.fixture
def net():
    model = Net()
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def moves_of(engine):
    seen = []

    class Moves:
        def write(self, records):
            seen.extend((r["step"], r["target"]) for r in records if r["type"] == "move")

    engine.listen(Moves())
    return seen


# Epochs


def test_a_loader_with_a_length_counts_fractions_of_a_pass(net):
    model, optimizer = net
    engine = sg.Engine(
        graph(duration="1.5 epochs", rest="1 epoch"), model=model, optimizer=optimizer
    )
    moves = moves_of(engine)
    assert train(engine, model, optimizer, loader()) == [4, 4, 2]
    assert moves == [(0, "main:train"), (6, "main:rest"), (10, "main:done")]
    assert engine.progress.epoch == Fraction(5, 2)
    assert engine.ended == "final"


def test_a_loader_without_a_length_counts_whole_passes(net):
    model, optimizer = net
    engine = sg.Engine(graph(duration="2 epochs", rest="1 epoch"), model=model, optimizer=optimizer)
    moves = moves_of(engine)
    sizes = train(engine, model, optimizer, DataLoader(Stream(), batch_size=3))
    # that a pass is over is known when the loader has nothing more; the next update is the first
    # boundary after it
    assert moves == [(0, "main:train"), (9, "main:rest"), (13, "main:done")]
    assert sizes == [4, 4, 4, 1]
    assert engine.ended == "final"


def test_the_pass_ends_in_its_middle_when_the_run_does(net):
    model, optimizer = net
    engine = sg.Engine(graph(duration="2 steps", rest="1 step"), model=model, optimizer=optimizer)
    assert train(engine, model, optimizer, loader()) == [3]
    assert engine.done


def test_a_budget_of_epochs_ends_the_run(net):
    model, optimizer = net
    engine = sg.Engine(
        graph(budget="epochs: 3", duration="2 epochs"), model=model, optimizer=optimizer
    )
    assert train(engine, model, optimizer, loader()) == [4, 4, 4]
    assert (engine.ended, engine.stages) == ("budget", {"main": "rest"})


def test_passes_have_their_number(net):
    model, optimizer = net
    engine = sg.Engine(graph(budget="epochs: 3"), model=model, optimizer=optimizer)
    numbers = []
    for epoch in engine.epochs(loader()):
        numbers.append(epoch.index)
        for _ in epoch:
            engine.step()
    assert numbers == [0, 1, 2]


def test_a_loader_that_gives_nothing_is_refused(net):
    model, optimizer = net
    engine = sg.Engine(graph(), model=model, optimizer=optimizer)
    once = iter(loader())
    with pytest.raises(sg.ProgressError, match="gave no batch; if it is an iterator"):
        train(engine, model, optimizer, once)


def test_epochs_can_be_given_with_each_step_instead(net):
    model, optimizer = net
    engine = sg.Engine(graph(rest="1 epoch"), model=model, optimizer=optimizer)
    moves = moves_of(engine)
    for step in range(1, 9):
        engine.step(epoch=Fraction(step, 4))
    assert moves == [(0, "main:train"), (4, "main:rest"), (8, "main:done")]
    again = sg.Engine(graph(rest="1 epoch"), params=1)
    again.step(epoch=0.5)
    with pytest.raises(sg.ProgressError, match="goes backwards"):
        again.step(epoch=0.25)


# Other amounts


@pytest.mark.parametrize("amount", ["samples", "tokens"])
def test_budgets_and_durations_in_samples_and_tokens(net, amount):
    model, optimizer = net
    engine = sg.Engine(
        graph(budget=f"{amount}: 100", duration=f"25 {amount}"), model=model, optimizer=optimizer
    )
    moves = moves_of(engine)
    sizes = train(engine, model, optimizer, loader(), **{amount: 10})
    assert moves == [(0, "main:train"), (3, "main:rest")]
    assert sum(sizes) == 10
    assert engine.ended == "budget"


def test_a_budget_of_flops(net):
    model, optimizer = net
    engine = sg.Engine(
        graph(budget="flops: 1e6", duration="1 step"), model=model, optimizer=optimizer
    )
    assert sum(train(engine, model, optimizer, loader(), flops=300_000)) == 4
    assert engine.ended == "budget"


def test_durations_in_seconds_read_a_monotonic_clock(net, monkeypatch):
    model, optimizer = net
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    engine = sg.Engine(graph(duration="10 s"), model=model, optimizer=optimizer)
    moves = moves_of(engine)
    engine.start()
    for _ in range(12):
        now[0] += 2.5
        engine.step()
    assert moves == [(0, "main:train"), (4, "main:rest")]
    assert engine.progress.seconds == pytest.approx(30)


@pytest.mark.parametrize(
    ("amount", "argument"),
    [("samples", "samples="), ("tokens", "tokens="), ("epochs", r"epoch= \(or loop over engine")],
)
def test_an_amount_that_nobody_counts_is_asked_for(net, amount, argument):
    model, optimizer = net
    engine = sg.Engine(graph(duration=f"9 {amount}"), model=model, optimizer=optimizer)
    with pytest.raises(sg.MissingFact, match=rf"reads {amount}; give step\({argument}"):
        engine.step()


def test_a_metric_that_is_not_declared_is_named():
    engine = sg.Engine(
        sg.load(
            "stagegraph: 1\nname: x\nmetrics: {val_loss: {goal: minimize}}\ninitial: a\n"
            "stages: {a: {kind: train, duration: 9 steps, next: done}, done: {kind: final}}\n"
        )
    )
    with pytest.raises(sg.MetricError, match="did you mean 'val_loss'"):
        engine.step(val_los=1.0)
    with pytest.raises(sg.MetricError, match="must be one number, got list"):
        engine.observe(val_loss=[1.0])


def test_an_event_that_is_not_declared_is_named():
    engine = sg.Engine(graph(duration="3 steps", rest="1 step"))
    with pytest.raises(sg.ProgressError, match="'grown' is not declared"):
        engine.send("grown")


# The beginning

BEFORE_FORWARD = """
stagegraph: 1
name: acts at once
initial: start
stages:
  start: {{kind: {kind}, during: [{during}], {time}}}
  done: {{kind: final}}
"""
FREEZING = BEFORE_FORWARD.format(
    kind="train", during="{type: freeze, of: inp}", time="duration: 3 steps, next: done"
)
RAMPING = BEFORE_FORWARD.format(
    kind="warmup", during="{type: lr_ramp, start: 0, end: 1, over: 4 steps}", time="next: done"
)


def test_the_first_optimizer_step_begins_and_is_under_the_factors_already(net):
    model, optimizer = net
    engine = sg.Engine(sg.load(RAMPING), model=model, optimizer=optimizer)
    assert engine.stages == {}
    before = model.head.bias.item()
    model(PROBE).sum().backward()
    optimizer.step()
    assert engine.stages == {"main": "start"}
    assert model.head.bias.item() == before  # the ramp begins at 0
    engine.step()
    optimizer.step()
    assert model.head.bias.item() != before


def test_the_first_optimizer_step_is_refused_when_the_forward_came_too_soon(net):
    model, optimizer = net
    engine = sg.Engine(sg.load(FREEZING), model=model, optimizer=optimizer)
    before = [p.clone() for p in model.parameters()]
    model(PROBE).sum().backward()
    with pytest.raises(sg.StageGraphError, match=r"engine.resume\(\), engine.start\(\) or"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert engine.stages == {}
    engine.resume()
    optimizer.zero_grad()
    model(PROBE).sum().backward()
    optimizer.step()
    assert torch.equal(before[0], model.inp.weight)


@pytest.mark.parametrize("begin", ["resume", "start", "loss", "epochs", "step"])
def test_the_beginning_comes_with_the_first_call(net, begin):
    model, optimizer = net
    engine = sg.Engine(sg.load(FREEZING), model=model, optimizer=optimizer)
    if begin == "loss":
        loss = torch.ones(())
        assert engine.loss(loss) is loss
    elif begin == "epochs":
        next(engine.epochs(loader()))
    else:
        getattr(engine, begin)()
    assert engine.stages == {"main": "start"}
    assert not model.inp.weight.requires_grad


def test_there_is_nothing_to_resume_yet(net):
    model, optimizer = net
    engine = sg.Engine(sg.load(FREEZING), model=model, optimizer=optimizer)
    assert engine.resume() is False
    assert engine.resume() is False
    assert engine.stages == {"main": "start"}


def test_a_hook_that_the_user_registers_later_works_at_the_first_step(net):
    model, optimizer = net
    sg.Engine(sg.load(RAMPING), model=model, optimizer=optimizer)
    rates = []
    optimizer.register_step_pre_hook(lambda o, _a, _k: rates.append(o.param_groups[0]["lr"]))
    model(PROBE).sum().backward()
    optimizer.step()
    assert rates == [0.0]


# The end, and numbers alone


def test_calls_after_the_end_do_nothing(net):
    model, optimizer = net
    engine = sg.Engine(graph(duration="2 steps", rest="1 step"), model=model, optimizer=optimizer)
    moves = moves_of(engine)
    train(engine, model, optimizer, loader())
    before = (engine.state_dict(), list(moves))
    engine.step(loss=1.0)
    engine.observe()
    engine.finish()
    engine.start()
    assert list(engine.epochs(loader())) == []
    assert (engine.state_dict(), list(moves)) == before


def test_an_engine_without_a_model_runs_on_numbers():
    engine = sg.Engine(graph(duration="3 steps", rest="2 steps"))
    moves = moves_of(engine)
    while not engine.done:
        engine.step()
    assert moves == [(0, "main:train"), (3, "main:rest"), (5, "main:done")]
    assert engine.params is None


GROWS = """
stagegraph: 1
name: grows
budget: {params: 1000, steps: 50}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: grow, when: elapsed(3 steps) and affordable(grow)}]
    duration: 10 steps
    next: done
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: consolidate}
  consolidate: {kind: consolidate, duration: 2 steps, next: train}
  done: {kind: final}
"""


def test_without_a_model_parameters_and_costs_are_asked_for():
    with pytest.raises(sg.MissingFact, match=r"Engine\(model=...\) or Engine\(params=...\)"):
        sg.Engine(sg.load(GROWS))
    with pytest.raises(sg.MissingFact, match=r"costs=\{'grow': 400_000\}"):
        sg.Engine(sg.load(GROWS), params=600)
    with pytest.raises(sg.MissingFact, match=r"names 'growth'.*did you mean 'grow'"):
        sg.Engine(sg.load(GROWS), params=600, costs={"growth": 1})


def test_numbers_grow_as_far_as_their_budget():
    engine = sg.Engine(sg.load(GROWS), params=600, costs={"grow": 150})
    while not engine.done:
        engine.step()
    assert engine.params == 900
    assert engine.ended == "final"


def test_a_model_and_its_twin_in_numbers_take_the_same_way():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    real = sg.Engine(sg.load(GROWS), model=model, optimizer=optimizer, probe=PROBE)
    numbers = sg.Engine(
        sg.load(GROWS),
        params=sum(p.numel() for p in model.parameters()),
        costs={"grow": sum(p.numel() for p in model.blocks[0].parameters())},
    )
    first, second = moves_of(real), moves_of(numbers)
    for engine in (real, numbers):
        while not engine.done:
            engine.step()
    assert first == second
    assert real.params == numbers.params


@pytest.mark.parametrize("loader", [range(3), (n for n in range(3))])
def test_any_iterable_is_a_loader(loader):
    engine = sg.Engine(graph(duration="2 steps", rest="1 step"))
    assert [[batch for batch in epoch if engine.step() is None] for epoch in engine.epochs(loader)]
    assert engine.ended == "final"


def test_an_explanation_tells_the_way_out_with_what_it_sees(net):
    model, optimizer = net
    engine = sg.Engine(graph(duration="9 steps", rest="1 step"), model=model, optimizer=optimizer)
    for _ in range(4):
        engine.step()
    (way,) = engine.explain()
    assert (way.edge, way.target, way.value) == ("main:train.next", "main:rest", False)
    assert way.guard["sees"] == {"elapsed": 4.0, "of": "9 steps"}
    assert engine.waits() == ["rest: 4/9 steps"]
    assert isinstance(model, nn.Module)
