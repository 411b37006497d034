"""Growths in the surroundings that people really call them from."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.actions.growth.width.norms import norm_of
from stagegraph.engine.ports import Boundary
from stagegraph.errors import ActionError
from tests.actions.growth.wide import MLP, Mlp, TrueRmsNorm, actor, grow, widen
from tests.actions.models import Model, back_to, batch, deepen, snapshot, train
from tests.session.training import PROBE, WIDTH, Block, Net

TWICE = """
stagegraph: 1
name: twice
budget: {{steps: 60}}
initial: t
stages:
  t: {{kind: train, duration: 2 steps, next: g}}
  g: {{kind: grow, actions: [{first}], next: c}}
  c: {{kind: consolidate, duration: 2 steps, next: g2}}
  g2: {{kind: grow, actions: [{second}], next: c2}}
  c2: {{kind: consolidate, duration: 2 steps, next: d}}
  d: {{kind: final}}
"""


def going(first, second, model, probe=PROBE):
    graph = sg.load(TWICE.format(first=first, second=second))
    optimizer = AdamW(model.parameters(), lr=0.01)
    engine = sg.Engine(graph, model=model, optimizer=optimizer, probe=probe)
    return engine, optimizer


def run(engine, optimizer, model, steps=12):
    for _ in range(steps):
        if engine.done:
            break
        model(PROBE).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step()


def test_a_growth_may_build_on_one_before_it():
    model = Net()
    engine, optimizer = going(
        "{type: deepen, stack: blocks, to: 4}",
        "{type: deepen, stack: blocks, to: 8, how: middle}",
        model,
    )
    run(engine, optimizer, model)
    assert engine.done and len(model.blocks) == 8


def test_experts_of_a_mixture_that_is_still_to_come():
    model = Net()
    engine, optimizer = going(
        "{type: upcycle, host: [blocks.*.up], experts: 2}",
        "{type: add_experts, moe: [blocks.*.up.moe], factor: 2}",
        model,
    )
    run(engine, optimizer, model)
    assert engine.done


def test_what_the_first_growth_cannot_do_is_refused_before_the_run():
    with pytest.raises(sg.UnsupportedError, match="middle at most doubles a stack: 2 blocks"):
        going(
            "{type: deepen, stack: blocks, to: 8, how: middle}",
            "{type: deepen, stack: blocks, to: 9}",
            Net(),
        )


@pytest.mark.parametrize("zero", ["", ", zero: [down]"])
def test_an_identity_is_proven_under_the_autocast_of_its_probe(zero):
    def probe(model):
        with torch.autocast("cpu", torch.bfloat16):
            return model(PROBE)

    model = Net()
    growth = "{type: deepen, stack: blocks, add: 1" + zero + "}"
    engine, optimizer = going(growth, growth, model, probe)
    run(engine, optimizer, model)
    assert engine.done and len(model.blocks) == 4


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_a_boundary_inside_an_evaluation_leaves_a_model_that_trains(guard):
    model = Model()
    optimizer = AdamW(model.parameters(), lr=0.01)
    standing = TorchActor(model, optimizer, probe=batch())
    train(model, optimizer, 1)
    with guard():
        standing.transact(Boundary(0, None, (snapshot(),), (), {}), lambda _: None)
        grow(standing, deepen(), cohort="a", step=1)
    train(model, optimizer, 1)
    with guard():
        standing.transact(Boundary(2, back_to(), (), (), {}), lambda _: None)
    train(model, optimizer, 1)
    assert len(model.blocks) == 2
    widened = Mlp()
    other = SGD(widened.parameters(), lr=0.1, momentum=0.9)
    probe = torch.ones(2, 4)
    with guard():
        grow(actor(widened, other, MLP, probe), widen(space="first", factor=2))
    widened(torch.ones(2, 4)).sum().backward()
    other.step()


def test_a_norm_that_computes_in_single_precision_is_known_in_double():
    class Single(TrueRmsNorm):
        def forward(self, x):
            return self.weight.float() * super().forward(x.float()) / self.weight.float()

    class Real(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.randn(6)), 1e-6

        def forward(self, x):
            y = x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
            return self.weight * y.to(x.dtype)

    found = norm_of(Real().double())
    assert found is not None and found.kind == "rms"


class Numbered(Block):
    def __init__(self, idx):
        super().__init__()
        self.idx = idx


class Caching(nn.Module):
    """Keeps what its blocks make under their numbers."""

    def __init__(self):
        super().__init__()
        self.inp, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 1)
        self.blocks = nn.ModuleList(Numbered(i) for i in range(3))

    def forward(self, x):
        x, self.cache = self.inp(x), {}
        for block in self.blocks:
            x = self.cache[block.idx] = block(x)
        return self.head(x)


def test_numbers_under_any_name_go_on():
    model = Caching()
    standing = TorchActor(model, SGD(model.parameters()), probe=PROBE)
    certificate = grow(standing, deepen(add=1, at="spread"))
    assert [block.idx for block in model.blocks] == [0, 1, 2, 3]
    assert certificate["renumbered"] == ["idx"]


def test_numbers_that_are_so_by_chance_can_stay():
    model = Caching()
    standing = TorchActor(model, SGD(model.parameters()), probe=PROBE)
    grow(standing, deepen(add=1, leave=("idx",)))
    assert [block.idx for block in model.blocks] == [0, 1, 2, 2]


def test_a_count_in_another_object_than_a_config_is_seen():
    class Params:
        n_layers = 2

        def __init__(self):
            self.n_layers = 2

    model = Net()
    model.params = Params()
    standing = TorchActor(model, SGD(model.parameters()), probe=PROBE)
    with pytest.raises(ActionError, match=r"'params.n_layers' seems to count the 2 blocks"):
        grow(standing, deepen(add=1))
    grow(standing, deepen(add=1, count=("params.n_layers",)))
    assert model.params.n_layers == 3
