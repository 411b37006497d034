"""The action ``inherit``: a transaction of contents alone."""

import copy
import json

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.engine.ports import Boundary, Deed
from stagegraph.errors import ActionError
from stagegraph.schema.actions import Inherit
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.sized import F64, SIZED_GPT, SizedGpt, SizedMlp
from tests.actions.growth.wide import MLP, grow, ids, widen
from tests.actions.models import accept, back_to, boundary, digest, snapshot

X = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def inherit(**fields):
    return Inherit(type="inherit", source="small", **fields)


def made(small, large, spaces, probe, *, optimizer=SGD, **more):
    optimizer = optimizer(large.parameters(), lr=0.01)
    standing = TorchActor(
        large, optimizer, spaces=spaces, probe=probe, parts={"small": small}, **more
    )
    return optimizer, standing


def gpts(given=lambda small: small, **more):
    small, large = SizedGpt().to(F64), SizedGpt(19, 4, 15, 4).to(F64)
    return small, large, *made(given(small), large, SIZED_GPT, ids(), **more)


def out(model, batch):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(batch)


def test_the_certificate_compares_with_the_smaller_model():
    small, large, _, standing = gpts()
    certificate = grow(standing, inherit())
    torch.testing.assert_close(out(large, ids()), out(small, ids()), rtol=0, atol=1e-12)
    assert certificate["kind"] == "inherit"
    assert certificate["promised"]
    assert certificate["from_source"]["change"] < 1e-13
    assert certificate["from_source"]["exactness"].startswith("exact")
    assert certificate["tensors"] == {"copied": 0, "grown": 60, "left": 0, "refused": 0}
    assert certificate["units"] == {"stream": [8, 19], "groups": [2, 4], "mlp": [10, 15]}
    assert certificate["stacks"] == {"blocks": [2, 4]}
    assert sorted(certificate["zeroed"]["blocks.3"]) == [
        "att.o.bias",
        "att.o.weight",
        "down.bias",
        "down.weight",
    ]
    assert certificate["params"]["added"] == 0
    json.dumps(certificate)


def test_weights_alone_have_nothing_to_compare_with():
    small, large, _, standing = gpts(lambda small: small.state_dict())
    certificate = grow(standing, inherit(sizes={"groups": 2, "per_group": 2}))
    assert certificate["from_source"] is None
    torch.testing.assert_close(out(large, ids()), out(small, ids()), rtol=0, atol=1e-12)


def test_a_failure_afterwards_leaves_no_trace():
    _, large, optimizer, standing = gpts(optimizer=AdamW)
    large(ids()).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = digest(large, optimizer)
    lineage = standing.state_dict()

    def refuse(_outcome):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        standing.transact(Boundary(0, None, (Deed("p", inherit(), "c", None, 7),), (), {}), refuse)
    assert digest(large, optimizer) == before
    assert standing.state_dict() == lineage


def test_the_function_that_was_promised_is_held():
    class Sigmoid(SizedMlp):
        def forward(self, x):
            return self.three(torch.sigmoid(self.two(torch.sigmoid(self.one(x)))))

    small, large = SizedMlp().to(F64), Sigmoid(9, 5).to(F64)
    optimizer, standing = made(small, large, MLP, X)
    before = digest(large, optimizer)
    with pytest.raises(ActionError, match=r"was to compute what 'small' does.*write strict: false"):
        grow(standing, inherit())
    assert digest(large, optimizer) == before
    assert grow(standing, inherit(strict=False))["from_source"]["exactness"] == "approximate"


def test_what_is_refused_is_an_error_with_every_tensor():
    small, large = SizedMlp(8, 5), SizedMlp(6, 7)
    optimizer, standing = made(small, large, Spaces(), X.float())
    before = digest(large, optimizer)
    with pytest.raises(
        ActionError, match=r"5 of the weights cannot be taken:\n  one.weight \(8, 4"
    ):
        grow(standing, inherit())
    assert digest(large, optimizer) == before
    certificate = grow(standing, inherit(strict=False))
    assert set(certificate["refused"]) == {
        "one.weight",
        "one.bias",
        "two.weight",
        "two.bias",
        "three.weight",
    }


@pytest.mark.parametrize("state", ["reset", "keep"])
def test_the_optimizer_state_follows_the_policy(state):
    small, large = SizedMlp().to(F64), SizedMlp().to(F64)
    optimizer, standing = made(small, large, MLP, X, optimizer=AdamW)
    large(X).sum().backward()
    optimizer.step()
    certificate = grow(standing, inherit(state=state))
    kept = 0 if state == "reset" else 6
    assert certificate["state"] == {"policy": state, "forgotten": 6 - kept}
    assert len(optimizer.state) == kept


def test_a_frozen_model_inherits_too():
    small, large = SizedMlp().to(F64), SizedMlp(9).to(F64)
    large.requires_grad_(False)
    last = large.three.requires_grad_(True)
    optimizer = SGD(last.parameters(), lr=0.1)
    standing = TorchActor(large, optimizer, spaces=MLP, probe=X, parts={"small": small})
    grow(standing, inherit())
    assert not large.one.weight.requires_grad


def test_the_averaged_copy_begins_anew_with_the_same_contents():
    small, large = SizedMlp().to(F64), SizedMlp(9).to(F64)
    averaged = AveragedModel(large)
    _, standing = made(small, large, MLP, X, ema=averaged)
    grow(standing, inherit())
    assert torch.equal(averaged.module.one.weight, large.one.weight)
    assert averaged.module.one.weight.data_ptr() != large.one.weight.data_ptr()


def test_a_growth_on_top_keeps_the_function():
    small, large = SizedMlp().to(F64), SizedMlp(9, 5).to(F64)
    _, standing = made(small, large, MLP, X)
    grow(standing, inherit(), cohort="a")
    grow(standing, widen(space="first", to=13), cohort="b")
    torch.testing.assert_close(out(large, X), out(small, X), rtol=0, atol=1e-12)


def test_the_lineage_tells_what_is_new_and_rebuilds_attributes_alone():
    _, large, _, standing = gpts()
    grow(standing, inherit(), cohort="inherited", step=3)
    state = json.loads(json.dumps(standing.state_dict()))
    (change,) = state["lineage"]
    assert change["kind"] == "inherit"
    assert dict(change["grown"])["blocks.0.up.weight"] == [[[[10, 15]]], [[[8, 19]]]]
    assert dict(change["grown"])["blocks.3.up.bias"] == [[[[0, 15]]]]
    fresh = SizedGpt(19, 4, 15, 4).to(F64)
    other = TorchActor(fresh, SGD(fresh.parameters(), lr=0.01), probe=ids())  # without parts
    other.load_state_dict(state)
    fresh.load_state_dict(large.state_dict())
    assert fresh.last.eps == large.last.eps != 1e-5
    assert torch.equal(fresh(ids()), large(ids()))


def test_a_rollback_takes_contents_and_attributes_back():
    _, large, _, standing = gpts(optimizer=AdamW)
    before = {name: value.clone() for name, value in large.state_dict().items()}
    standing.transact(boundary(deeds=[snapshot()]), accept)
    grow(standing, inherit())
    assert large.last.eps != 1e-5
    standing.transact(boundary(restore=back_to()), accept)
    assert large.last.eps == 1e-5
    assert standing.state_dict()["lineage"] == []
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())


GRAPH = """
stagegraph: 1
name: from a smaller one
initial: start
spaces:
  tensors:
    one.weight: first _
    one.bias: first
    two.weight: _ first
stages:
  start: {kind: grow, actions: [{type: inherit, source: small, name: base}], next: rest}
  rest: {kind: consolidate, duration: 4 steps, next: more}
  more:
    kind: grow
    actions: [{type: snapshot, name: here}, {type: inherit, source: small, state: keep}]
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: done}
  done: {kind: final}
"""


def begun(large, small, **more):
    optimizer = AdamW(large.parameters(), lr=0.01)
    parts = {} if small is None else {"small": small}
    engine = sg.Engine(
        sg.load(GRAPH), model=large, optimizer=optimizer, probe=X, parts=parts, **more
    )
    return optimizer, engine


def trained(engine, optimizer, model, first, last):
    for step in range(first, last):
        batch = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(step))
        loss = engine.loss(model(batch).pow(2).mean())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step(loss=loss)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_run_that_is_cut_goes_on_bit_by_bit(cut):
    small = SizedMlp().to(F64)
    model = SizedMlp(9).to(F64)
    other = copy.deepcopy(model)
    optimizer, engine = begun(model, small)
    trained(engine, optimizer, model, 0, cut)
    state, weights = engine.state_dict(), copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())
    trained(engine, optimizer, model, cut, 10)
    engine.close()

    again, resumed = begun(other, small)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    other.load_state_dict(weights)
    again.load_state_dict(moments)
    trained(resumed, again, other, cut, 10)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    resumed.close()


def test_weights_that_nobody_gave_are_missed_before_the_run():
    with pytest.raises(
        sg.UnsupportedError,
        match=r"main:start.actions\[0\]: nobody gave the weights 'small'; give Engine\(parts=",
    ):
        begun(SizedMlp(9).to(F64), None)
