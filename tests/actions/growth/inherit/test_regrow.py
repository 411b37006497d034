"""The action ``regrow``: the model becomes, in place, a larger instance of its class."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.operations import costs
from stagegraph.actions.replaying import replay
from stagegraph.engine.ports import Boundary, Deed
from stagegraph.errors import ActionError
from stagegraph.schema.actions import Inherit, Regrow
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.sized import F64, SIZED_GPT, SizedGpt, SizedMlp
from tests.actions.growth.wide import MLP, grow, ids
from tests.actions.models import accept, back_to, boundary, deepen, digest, snapshot

X = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
BIGGER = {"d": 16, "groups": 4, "up": 20, "num": 4}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def regrow(fields=None, **more):
    return Regrow(type="regrow", **{"build": "big", "fields": fields or BIGGER, **more})


def made(model, *, build=SizedGpt, spaces=SIZED_GPT, probe=None, optimizer=AdamW, **more):
    optimizer = optimizer(model.parameters(), lr=0.01)
    standing = TorchActor(
        model,
        optimizer,
        spaces=spaces,
        probe=ids() if probe is None else probe,
        parts={} if build is None else {"big": build},
        **more,
    )
    return optimizer, standing


def step(model, optimizer, batch):
    model(batch).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def out(model, batch):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(batch)


def test_the_model_becomes_larger_and_stays_itself():
    model = SizedGpt().to(F64)
    optimizer, standing = made(model)
    step(model, optimizer, ids())
    modules, parameters = list(model.modules()), dict(model.named_parameters())
    kept = model.blocks[1].up.weight.detach().clone()
    numbers = torch.get_rng_state()
    certificate = grow(standing, regrow())
    assert torch.equal(torch.get_rng_state(), numbers)
    fresh = SizedGpt(**BIGGER)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in fresh.named_parameters()
    }
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert all(model.get_parameter(name) is p for name, p in parameters.items())
    assert set(map(id, modules)) < set(map(id, model.modules()))
    assert torch.equal(model.blocks[1].up.weight[:10, :8], kept)
    assert model.blocks[0].att.groups == 4
    assert model.blocks[0].up.out_features == 20
    assert model.head.weight is model.emb.weight
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert certificate["modules"] == ["blocks.2", "blocks.3"]
    assert certificate["exactness"] == "approximate"
    assert certificate["params"]["added"] == sum(p.numel() for p in fresh.parameters()) - sum(
        p.numel() for p in SizedGpt().parameters()
    )
    step(model, optimizer, ids())
    json.dumps(certificate)


def test_declared_spaces_keep_the_function():
    model = SizedGpt().to(F64)
    _, standing = made(model)
    before = out(model, ids())
    certificate = grow(standing, regrow(how="split", stacks="identity"))
    torch.testing.assert_close(out(model, ids()), before, rtol=0, atol=1e-12)
    assert certificate["promised"]
    assert certificate["exactness"].startswith("exact")


def test_the_state_of_what_keeps_its_shape_stays():
    model = SizedMlp().to(F64)
    optimizer, standing = made(model, build=SizedMlp, spaces=MLP, probe=X)
    step(model, optimizer, X)
    kept = optimizer.state[model.three.bias]["exp_avg"]
    grow(standing, regrow({"first": 9}))
    assert optimizer.state[model.three.bias]["exp_avg"] is kept
    step(model, optimizer, X)


def test_the_state_of_what_grows_into_a_corner_goes_there_too():
    model = SizedMlp().to(F64)
    optimizer, standing = made(model, build=SizedMlp, spaces=MLP, probe=X)
    step(model, optimizer, X)
    old = {k: v.clone() for k, v in optimizer.state[model.one.weight].items()}
    certificate = grow(standing, regrow({"first": 9}))
    new = optimizer.state[model.one.weight]
    assert torch.equal(new["exp_avg"][:6], old["exp_avg"])
    assert not new["exp_avg"][6:].any()
    assert torch.equal(new["exp_avg_sq"][:6], old["exp_avg_sq"])
    assert torch.allclose(new["exp_avg_sq"][6:], old["exp_avg_sq"].mean())
    assert new["step"] == old["step"]
    assert certificate["state"] == {"new": "fill_v", "grown": 3, "reset": {}}


def test_the_state_of_a_block_that_takes_over_another_is_that_of_the_other():
    model = SizedGpt(num=2).to(F64)
    optimizer, standing = made(model)
    step(model, optimizer, ids())
    first = optimizer.state[model.blocks[0].up.weight]["exp_avg"].clone()
    grow(standing, regrow({"num": 4}, stacks="interleave"))
    assert torch.equal(optimizer.state[model.blocks[1].up.weight]["exp_avg"], first)
    assert optimizer.state[model.blocks[0].up.weight]["exp_avg"].equal(first)
    step(model, optimizer, ids())


class Unknown(SGD):
    """An optimizer with a state that nobody knows."""

    def step(self, closure=None):
        super().step(closure)
        for parameter, entry in self.state.items():
            entry["mystery"] = torch.zeros_like(parameter)


def test_state_that_nobody_knows_begins_anew_and_is_told_of():
    model = SizedMlp().to(F64)
    optimizer, standing = made(model, build=SizedMlp, spaces=MLP, probe=X, optimizer=momentous)
    step(model, optimizer, X)
    certificate = grow(standing, regrow({"first": 9}))
    assert set(certificate["state"]["reset"]) == {"one.weight", "one.bias", "two.weight"}
    assert "mystery" in certificate["state"]["reset"]["one.weight"]
    assert not optimizer.state.get(model.one.weight)
    assert optimizer.state[model.two.bias]["mystery"].shape == (5,)
    step(model, optimizer, X)


def momentous(parameters, lr):
    return Unknown(parameters, lr=lr, momentum=0.9)


def test_new_parameters_join_the_group_of_their_siblings():
    model = SizedGpt().to(F64)
    last = list(model.blocks[1].parameters())
    inside = set(map(id, last))
    rest = [p for p in model.parameters() if id(p) not in inside]
    optimizer = SGD([{"params": rest}, {"params": last, "lr": 0.5}], lr=0.1)
    standing = TorchActor(model, optimizer, probe=ids(), parts={"big": SizedGpt})
    grow(standing, regrow({"num": 4}))
    assert optimizer.param_groups[1]["params"] == [
        *model.blocks[1].parameters(),
        *model.blocks[2].parameters(),
        *model.blocks[3].parameters(),
    ]


class Branching(nn.Module):
    """A model that gets a new module and a new bias with its number."""

    def __init__(self, extra=False):
        super().__init__()
        self.config = Numbers(extra)
        self.one = nn.Linear(4, 3, bias=extra)
        if extra:
            self.branch = nn.Linear(4, 3)

    def forward(self, x):
        return self.one(x) + (self.branch(x) if self.config.extra else 0)


class Numbers:
    def __init__(self, extra):
        self.extra, self.names = extra, ["a", "b"] if extra else ["a"]


def test_branches_and_biases_come_in_and_configs_follow():
    model = Branching().to(F64)
    config = model.config
    optimizer, standing = made(model, build=Branching, spaces=Spaces(), probe=X)
    before, weight = model.one.weight.detach().clone(), model.one.weight
    standing.transact(boundary(deeds=[snapshot()]), accept)
    certificate = grow(standing, regrow({"extra": True}))
    assert certificate["parameters"] == ["one.bias"]
    assert model.config is config
    assert config.extra
    assert config.names == ["a", "b"]
    assert len(optimizer.param_groups[0]["params"]) == 4
    assert model.branch.weight.dtype == F64
    standing.transact(boundary(restore=back_to()), accept)
    assert not config.extra
    assert config.names == ["a"]
    assert "branch" not in model._modules
    assert model.one.bias is None
    assert model.one.weight is weight
    assert torch.equal(weight, before)
    assert optimizer.param_groups[0]["params"] == [weight]


def test_a_failure_afterwards_leaves_no_trace():
    model = SizedGpt().to(F64)
    optimizer, standing = made(model)
    step(model, optimizer, ids())
    before, state = digest(model, optimizer), standing.state_dict()

    def refuse(_outcome):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        standing.transact(Boundary(0, None, (Deed("p", regrow(), "c", None, 7),), (), {}), refuse)
    assert digest(model, optimizer) == before
    assert standing.state_dict() == state


def test_a_rollback_makes_it_small_again():
    model = SizedGpt().to(F64)
    optimizer, standing = made(model)
    step(model, optimizer, ids())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    standing.transact(boundary(deeds=[snapshot()]), accept)
    grow(standing, regrow())
    step(model, optimizer, ids())
    standing.transact(boundary(restore=back_to()), accept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (len(model.blocks), model.blocks[0].att.groups) == (2, 2)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    step(model, optimizer, ids())


def test_a_fresh_process_rebuilds_it_with_the_builder():
    model = SizedGpt().to(F64)
    optimizer, standing = made(model)
    grow(standing, deepen(stack="blocks", how="stack"), cohort="a")
    grow(standing, regrow({**BIGGER, "num": 5}), cohort="b")
    grow(standing, deepen(stack="blocks", how="stack"), cohort="c")
    step(model, optimizer, ids())
    state = json.loads(json.dumps(standing.state_dict()))
    fresh = SizedGpt().to(F64)
    again, other = made(fresh)
    numbers = torch.get_rng_state()
    other.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), numbers)
    fresh.load_state_dict(model.state_dict(), strict=True)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        step(model, optimizer, ids())
        step(fresh, again, ids())
    assert torch.equal(fresh(ids()), model(ids()))
    assert other.state_dict() == json.loads(json.dumps(standing.state_dict()))
    with pytest.raises(sg.SelectorError, match=r"nobody gave a builder 'big'; give Engine\(parts="):
        replay(SizedGpt(), (), state["lineage"])
    replay(SizedGpt(), (), state["lineage"], parts={"big": SizedGpt})
    with pytest.raises(sg.UnsupportedError, match="'big' builds another structure than it did"):
        replay(
            SizedGpt(), (), state["lineage"], parts={"big": lambda **f: SizedGpt(**{**f, "up": 21})}
        )


def test_the_averaged_copy_grows_too():
    model = SizedGpt().to(F64)
    averaged = AveragedModel(model)
    optimizer, standing = made(model, ema=averaged)
    grow(standing, regrow())
    assert torch.equal(averaged(ids()), model(ids()))
    assert averaged.module.blocks[3] is not model.blocks[3]
    step(model, optimizer, ids())
    averaged.update_parameters(model)


class Hidden(SizedMlp):
    """Keeps what depends on its numbers where nobody sees it."""

    def __init__(self, first=6, second=5):
        super().__init__(first, second)
        self.scale = lambda x: x * first

    def forward(self, x):
        return self.scale(super().forward(x))


class Narrow(SizedMlp):
    def __init__(self, first=6, second=5):
        super().__init__(first, second)
        if first > 6:
            del self.three
            self.four = nn.Linear(second, 3)


class Other(SizedMlp):
    def __init__(self, first=6, second=5):
        super().__init__(first, second)
        if first > 6:
            self.two = nn.Bilinear(first, first, second)


@pytest.mark.parametrize(
    ("model", "build", "fields", "message"),
    [
        (SizedMlp, None, {"first": 9}, "nobody gave a builder 'big'; give Engine"),
        (SizedMlp, SizedMlp, {"frist": 9}, r"big\(frist=9\) cannot be built: TypeError: .*frist"),
        (SizedMlp, SizedMlp, {"first": 6}, "with first=6 the model does not become larger"),
        (SizedMlp, SizedMlp, {"first": 9, "second": 4}, "is .* here and .* there: nothing is cut"),
        (SizedMlp, Other, {"first": 9}, "'big' builds a Other, the model is a SizedMlp"),
        (Narrow, Narrow, {"first": 9}, "it has no module 'three', which would be lost"),
        (Other, Other, {"first": 9}, "'two' is a Linear here and a Bilinear there"),
        (Hidden, Hidden, {"first": 9}, "does not compute what the built one did: something in it"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(model, build, fields, message):
    model = model().to(F64)
    optimizer, standing = made(model, build=build, spaces=Spaces(), probe=X)
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(standing, regrow(fields))
    assert digest(model, optimizer) == before


def test_a_class_without_a_config_needs_a_builder():
    _, standing = made(SizedMlp().to(F64), spaces=Spaces(), probe=X)
    with pytest.raises(ActionError, match="SizedMlp has no config to be made from; name a builder"):
        grow(standing, Regrow(type="regrow", fields={"first": 9}))


@pytest.mark.parametrize("fields", [{"num": 4}, {"num": 4, "up": 13}])
def test_new_blocks_can_be_blended_in(fields):
    model = SizedGpt().to(F64)
    _, standing = made(model)
    before = out(model, ids())
    deed = Deed("p", regrow(fields, how="split"), "c", None, 7)
    evidence = standing.transact(Boundary(0, None, (deed,), (), {"c": 0.0}), accept).evidence["p"]
    assert standing.state_dict()["alphas"] == {"blocks.2": 0.0, "blocks.3": 0.0}
    torch.testing.assert_close(model.eval()(ids()), before, rtol=0, atol=1e-12)
    assert evidence["change"]["eval"] < 1e-12 < evidence["change"]["alpha_1"]


def test_layers_of_a_sequence_come_in_without_a_gate():
    def build(num=1):
        return nn.Sequential(nn.Linear(4, 4), *(nn.Linear(4, 4) for _ in range(num)))

    model = build().to(F64)
    _, standing = made(model, build=build, spaces=Spaces(), probe=X)
    certificate = grow(standing, regrow({"num": 3}))
    assert certificate["modules"] == ["2", "3"]
    assert standing.state_dict()["alphas"] == {}
    assert model(X).shape == (5, 4)


GRAPH = """
stagegraph: 1
name: regrown
initial: small
stages:
  small: {kind: train, duration: 4 steps, next: more}
  more:
    kind: grow
    actions:
      - {type: snapshot, name: here}
      - {type: regrow, build: big, fields: {first: 9, second: 7}}
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: done}
  done: {kind: final}
"""


def begun(model):
    optimizer = AdamW(model.parameters(), lr=0.01)
    parts = {"big": SizedMlp}
    engine = sg.Engine(sg.load(GRAPH), model=model, optimizer=optimizer, probe=X, parts=parts)
    return optimizer, engine


def trained(engine, optimizer, model, first, last):
    for number in range(first, last):
        x = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(number))
        loss = engine.loss(model(x).pow(2).mean())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step(loss=loss)


@pytest.mark.parametrize("cut", [2, 4, 7])
def test_a_run_that_is_cut_goes_on_bit_by_bit(cut):
    model = SizedMlp().to(F64)
    other = copy.deepcopy(model)
    optimizer, engine = begun(model)
    trained(engine, optimizer, model, 0, cut)
    state, weights = engine.state_dict(), copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())
    trained(engine, optimizer, model, cut, 10)
    assert model.one.out_features == 9
    engine.close()

    again, resumed = begun(other)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    other.load_state_dict(weights)
    again.load_state_dict(moments)
    trained(resumed, again, other, cut, 10)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    resumed.close()


def test_the_cost_of_several_growths_is_known_beforehand():
    site = Site(
        SizedGpt(16),
        probe=ids(),
        spaces=SIZED_GPT,
        parts={"small": SizedGpt(), "big": SizedGpt},
    )
    actions = [
        Inherit(type="inherit", source="small"),
        regrow({"d": 16, "num": 3}, how="split", stacks="identity"),
        deepen(stack="blocks", how="stack"),
    ]
    block = sum(p.numel() for p in site.model.blocks[0].parameters())
    assert costs(site, actions, place="here") == 3 * block
