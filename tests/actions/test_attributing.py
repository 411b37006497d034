"""Attribution on real models: every module has its own number, that of leaving it out by hand."""

import math

import pytest
import torch
from torch.optim import SGD

from stagegraph.actions.actor import TorchActor
from stagegraph.actions.monitoring import Monitor
from stagegraph.engine.ports import Deed, Selected
from stagegraph.errors import ActionError
from stagegraph.schema.actions import Attach, Attribute, Upcycle
from stagegraph.schema.stagegraph import Metric
from tests.actions.models import (
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
    growth,
    train,
)

DEEPER = growth(deepen(add=3, how="interleave"), cohort="tall")
PLACE = "main:judge.actions[0]"


def attributing(*cohorts, metric="probe_loss"):
    of = Selected(cohorts=cohorts)
    return Deed(PLACE, Attribute(type="attribute", metric=metric), None, None, 7, None, of)


def beside(*hosts, **fields):
    written = {"module": "adapter", "bottleneck": 2, "init": "keep", **fields}
    action = Attach(type="attach", host=list(hosts), **written)
    return Deed("main:beside.actions[0]", action, "beside", None, 11)


def score(model):
    return float(model(batch().double()).pow(2).mean())


def standing(measure=lambda model: {"probe_loss": score(model)}, *, goal="minimize", deeds=()):
    torch.manual_seed(3)
    model = Model(3).double()
    optimizer = SGD(model.parameters(), lr=0.01)
    metrics = {"probe_loss": Metric(goal=goal)}
    watch = Monitor(measure, model, metrics)
    actor = TorchActor(model, optimizer, probe=batch().double(), monitor=watch)
    actor.transact(boundary(deeds=[DEEPER, *deeds]), accept)
    return model, optimizer, actor


def measured(actor, *cohorts, step=2, **more):
    outcome = actor.transact(boundary(step, deeds=[attributing(*cohorts)], **more), accept)
    evidence = outcome.evidence[PLACE]
    values = {one["name"]: one["contribution"] for one in evidence["contributions"]}
    return evidence, values, outcome.attributions[0]


def by_hand(model, skipped):
    """The score of the model's own loop without some of its blocks."""
    model.eval()
    with torch.no_grad():
        x = model.inp(batch().double())
        for index, block in enumerate(model.blocks):
            x = x if index in skipped else block(x)
        value = float(model.head(model.bn(x.mean(1))).pow(2).mean())
    model.train()
    return value


def test_every_block_has_the_number_of_skipping_it_by_hand():
    model, _, actor = standing()
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            block.fc2.bias.add_(0.3 * index)
    evidence, values, _ = measured(actor, "tall")
    assert evidence["base"] == by_hand(model, ())
    assert set(values) == {"blocks.1", "blocks.3", "blocks.5"}
    for index in (1, 3, 5):
        assert values[f"blocks.{index}"] == by_hand(model, {index}) - by_hand(model, ())
    assert len(set(values.values())) == 3, "not the same number for each"
    (whole,) = evidence["cohorts"]
    assert whole["contribution"] == by_hand(model, {1, 3, 5}) - by_hand(model, ())
    assert evidence["evaluations"] == 5


@pytest.mark.parametrize(
    ("goal", "sign", "offset"),
    [("minimize", 1, 0), ("maximize", -1, 0), ("minimize", 1, -1e3), ("maximize", -1, -1e3)],
)
def test_the_block_that_harms_is_the_worst_in_either_goal_and_below_zero(goal, sign, offset):
    """A loss made large by one block; or its negative as a score; or both far below zero."""
    model, _, actor = standing(
        lambda model: {"probe_loss": sign * score(model) + offset}, goal=goal
    )
    with torch.no_grad():
        for block in model.blocks:
            block.fc2.weight.zero_()
            block.o.weight.zero_()
        model.blocks[3].fc2.bias.add_(5.0)
    evidence, values, found = measured(actor, "tall")
    assert min(values, key=values.get) == "blocks.3" and values["blocks.3"] < 0
    assert found.worst.module == evidence["worst"] == "blocks.g1-1"
    assert evidence["contributions"][-1]["name"] == "blocks.3"


def test_blocks_before_the_growth_are_not_touched_by_it():
    _, _, actor = standing()
    _, values, _ = measured(actor, "tall")
    assert not {"blocks.0", "blocks.2", "blocks.4"} & set(values)


def test_branches_are_left_out_one_by_one():
    model, _, actor = standing(deeds=[beside("blocks.0", "blocks.2.fc1")])
    _, values, _ = measured(actor, "beside")
    base = {name: module for name, module in model.named_modules() if name.endswith("adapter")}
    for name, branch in base.items():
        last = list(branch.parameters())
        kept = [p.detach().clone() for p in last]
        with torch.no_grad():
            for parameter in last[-2:]:
                parameter.zero_()
        model.eval()
        with torch.no_grad():
            without = score(model)
        model.train()
        with torch.no_grad():
            for parameter, content in zip(last, kept, strict=True):
                parameter.copy_(content)
        assert values[name] == pytest.approx(without - by_hand(model, ()), rel=1e-9, abs=1e-15)


def test_experts_are_left_out_together_with_their_router():
    up = Upcycle(type="upcycle", host=["blocks.0.fc1"], experts=3, top_k=3, noise=0.5)
    deed = Deed("main:up.actions[0]", up, "many", None, 5)
    model, optimizer, actor = standing(deeds=[deed])
    train_in_double(model, optimizer)
    host = model.blocks[0].fc1
    _evidence, values, _ = measured(actor, "many")
    hooks = dict(host._forward_hooks)
    host._forward_hooks.clear()
    alone = by_hand(model, ())
    host._forward_hooks.update(hooks)
    assert values == {"blocks.0.fc1.moe": alone - by_hand(model, ())}


def train_in_double(model, optimizer):
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 4, dtype=torch.float64)).pow(2).sum().backward()
        optimizer.step()
    optimizer.zero_grad()


def test_a_half_open_gate_is_measured_as_it_is_and_stays_so():
    model, _, actor = standing()
    held = {"held": [alpha_ramp(cohort="tall", value=0.5)], "alphas": {"tall": 0.5}}
    evidence, _values, _ = measured(actor, "tall", **held)
    assert {one["alpha"] for one in evidence["contributions"]} == {0.5}
    model.eval()
    with torch.no_grad():
        assert evidence["base"] == score(model) != by_hand(model, {1, 3, 5})
    assert set(actor.state_dict()["alphas"].values()) == {0.5}


def test_it_leaves_no_trace():
    model, optimizer, actor = standing(deeds=[beside("blocks.0")])
    train_in_double(model, optimizer)
    model.blocks[2].eval()
    before = digest(model, optimizer)
    measured(actor, "tall", "beside")
    assert digest(model, optimizer) == before


def test_a_monitor_that_fails_half_way_leaves_no_trace_and_is_named():
    calls = []

    def measure(model):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the disk is gone")
        return {"probe_loss": score(model)}

    model, optimizer, actor = standing(measure)
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match="monitor= failed: RuntimeError: the disk is gone") as one:
        measured(actor, "tall")
    assert one.value.action == PLACE
    assert len(calls) == 4
    assert digest(model, optimizer) == before


def test_a_value_that_is_not_finite_is_unknown_and_not_the_worst():
    _model, _, actor = standing(
        lambda model: {"probe_loss": math.nan if _skipped(model, 3) else score(model)}
    )
    evidence, values, found = measured(actor, "tall")
    assert values["blocks.3"] is None and None not in (values["blocks.1"], values["blocks.5"])
    assert evidence["contributions"][-1]["name"] == "blocks.3", "what is unknown comes last"
    assert found.worst is None or found.worst.module != "blocks.g1-1"


def _skipped(model, index):
    return len(model.blocks) > 3 and bool(model.blocks[index]._forward_hooks)


def test_with_nothing_finite_nothing_is_known():
    _, _, actor = standing(lambda model: {"probe_loss": math.inf})
    evidence, values, found = measured(actor, "tall")
    assert set(values.values()) == {None}
    assert (found.base, found.worst, evidence["worst"]) == (None, None, None)


def test_an_actor_without_a_monitor_says_what_is_missing():
    torch.manual_seed(3)
    model = Model(2)
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1), probe=batch())
    actor.transact(boundary(deeds=[growth()]), accept)
    with pytest.raises(ActionError, match="give monitor="):
        actor.transact(boundary(1, deeds=[attributing("main:grow#1")]), accept)


def test_compiled_blocks_are_left_out_too(monkeypatch):
    """Compiled code may not look at a hook that came later; here it is run as it is written."""
    seen = []
    import sys

    sys.modules.setdefault("torch._dynamo", __import__("torch._dynamo"))
    real = torch.compiler.set_stance
    monkeypatch.setattr(torch.compiler, "set_stance", lambda s: (seen.append(s), real(s))[1])
    _, _, actor = standing()
    measured(actor, "tall")
    assert set(seen) == {"force_eager"}


def test_train_goes_on_alike_with_and_without_an_attribution():
    def run(*, attributed):
        torch.manual_seed(3)
        model = Model(3)
        optimizer = SGD(model.parameters(), lr=0.01)
        watch = Monitor(
            lambda m: {"probe_loss": m(batch()).mean()},
            model,
            {"probe_loss": Metric(goal="minimize")},
        )
        actor = TorchActor(model, optimizer, probe=batch(), monitor=watch)
        actor.transact(boundary(deeds=[DEEPER]), accept)
        torch.manual_seed(4)
        losses = train(model, optimizer, 2)
        if attributed:
            measured(actor, "tall")
        return [*losses, *train(model, optimizer, 2)]

    assert run(attributed=True) == run(attributed=False)
