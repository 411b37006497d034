"""Pruning on real models: what goes, what stays, and the way back."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor, replay
from stagegraph.engine.ports import Deed, Selected
from stagegraph.errors import ActionError, SnapshotError
from stagegraph.schema.actions import Attach, Prune, TeacherAction, Upcycle, Widen
from tests.actions.models import (
    Counting,
    Model,
    accept,
    alpha_ramp,
    back_to,
    batch,
    boundary,
    deepen,
    digest,
    growth,
    snapshot,
    train,
    values,
)

DEEPER = growth(deepen(count=["config.num_hidden_layers", "config.layer_types"]), cohort="tall")


def prune(*cohorts, modules=(), place="main:cut.actions[0]", **fields):
    of = Selected(cohorts=cohorts, modules=tuple(modules))
    action = Prune(type="prune", of=["worst" if modules else "grown"], **fields)
    return Deed(place, action, None, None, 7, None, of)


def attached(*hosts, cohort="beside", init="keep", **fields):
    written = {"module": "adapter", "bottleneck": 2, **fields}
    action = Attach(type="attach", host=list(hosts), init=init, **written)
    return Deed("main:beside.actions[0]", action, cohort, None, 11)


def standing(model=None, optimizer=AdamW, **more):
    torch.manual_seed(3)
    model = Counting(3) if model is None else model
    optimizer = optimizer(model.parameters(), lr=0.05)
    return model, optimizer, TorchActor(model, optimizer, probe=batch(), **more)


def grown(deed=DEEPER, steps=2, **more):
    model, optimizer, actor = standing(**more)
    actor.transact(boundary(deeds=[snapshot(), deed]), accept)
    train(model, optimizer, steps)
    return model, optimizer, actor


def cut(actor, *deeds, step=2, **more):
    return actor.transact(boundary(step, deeds=deeds, **more), accept)


def test_a_block_leaves_its_stack_counts_numbers_groups_and_state():
    model, optimizer, actor = grown()
    blocks, params = list(model.blocks), actor.facts().params
    outcome = cut(actor, prune(modules=["blocks.g1-0"]))
    assert list(model.blocks) == [blocks[0], blocks[1], blocks[2], blocks[4]]
    assert [block.layer_idx for block in model.blocks] == [0, 1, 2, 3]
    assert (model.config.num_hidden_layers, model.config.layer_types) == (4, ["full"] * 4)
    gone = {id(p) for p in blocks[3].parameters()}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in trained] == [id(p) for p in model.parameters()]
    assert not gone & {id(p) for p in optimizer.state}
    own = sum(p.numel() for p in blocks[3].parameters())
    evidence = outcome.evidence["main:cut.actions[0]"]
    assert evidence["params"] == {"before": params, "after": params - own, "removed": own}
    assert outcome.facts.params == params - own == sum(p.numel() for p in model.parameters())
    assert evidence["names"] == ["blocks.3"] and evidence["cohorts"] == []
    train(model, optimizer, 2)


def test_what_stays_goes_on_as_if_the_block_had_never_been_run():
    """The kept parameters have their own moments still; a model made by hand says the same."""
    model, optimizer, actor = grown(optimizer=SGD)
    twin = copy.deepcopy(model)
    cut(actor, prune("tall"))
    del twin.blocks[3:]
    twin.config.num_hidden_layers = 3
    rest = SGD(twin.parameters(), lr=0.05)
    torch.manual_seed(5)
    mine = train(model, optimizer, 3)
    torch.manual_seed(5)
    assert train(twin, rest, 3) == mine
    assert values(model) == values(twin)


def test_moments_of_what_stays_are_not_touched():
    model, optimizer, actor = grown()
    before = {id(p): copy.deepcopy(optimizer.state[p]) for p in model.blocks[0].parameters()}
    cut(actor, prune("tall"))
    for parameter in model.blocks[0].parameters():
        for key, value in before[id(parameter)].items():
            assert torch.equal(optimizer.state[parameter][key], value)


def test_at_gate_0_nothing_changes_and_the_certificate_says_exact():
    model, _, actor = grown(steps=2, model=None)
    ramp = alpha_ramp(cohort="tall", value=0.0)
    actor.transact(boundary(2, held=[ramp], alphas={"tall": 0.0}), accept)
    with torch.no_grad():
        for parameter in model.blocks[4].parameters():
            parameter.fill_(float("nan"))  # whatever it holds, nobody sees it
        expected = model.eval()(batch())
        model.train()
    evidence = cut(actor, prune("tall")).evidence["main:cut.actions[0]"]
    assert evidence["change"] == {"eval": 0.0, "train": 0.0}
    assert evidence["exactness"] == "exact"
    assert evidence["alphas"] == {"blocks.g1-0": 0.0, "blocks.g1-1": 0.0}
    assert torch.equal(model.eval()(batch()), expected)
    assert all(not block._forward_hooks for block in model.blocks)


def test_with_the_gate_open_the_jump_is_measured_and_recorded():
    model, _, actor = grown()
    with torch.no_grad():
        model.blocks[3].fc2.bias.add_(1.0)
        before = model.eval()(batch())
        model.train()
    evidence = cut(actor, prune("tall")).evidence["main:cut.actions[0]"]
    with torch.no_grad():
        jump = float((model.eval()(batch()) - before).abs().max())
    assert evidence["change"]["eval"] == jump > 0.1
    assert evidence["exactness"] == "approximate"


def test_a_jump_past_the_tolerance_is_refused_and_undone():
    model, optimizer, actor = grown()
    with torch.no_grad():
        model.blocks[3].fc2.bias.add_(1.0)
    model.zero_grad()
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"changed by .* and the prune's tolerance is 0\.01"):
        cut(actor, prune("tall", tolerance=0.01))
    assert digest(model, optimizer) == before
    assert actor.state_dict()["lineage"][-1]["kind"] == "deepen"


def test_branches_leave_their_hosts_hooks_included():
    model, optimizer, actor = grown(attached("blocks.0", "blocks.2.fc1"))
    assert hasattr(model.blocks[0], "adapter")
    names = [name for name, _ in standing()[0].named_parameters()]
    evidence = cut(actor, prune("beside")).evidence["main:cut.actions[0]"]
    assert [name for name, _ in model.named_parameters()] == names
    assert not model.blocks[0]._forward_hooks and not model.blocks[2].fc1._forward_hooks
    assert evidence["cohorts"] == ["beside"]
    assert len(optimizer.state) == len(names)


def test_one_branch_of_several_goes_alone():
    model, _, actor = grown(attached("blocks.0", "blocks.1", "blocks.2"))
    evidence = cut(actor, prune(modules=["blocks.1.adapter"])).evidence["main:cut.actions[0]"]
    assert [hasattr(block, "adapter") for block in model.blocks] == [True, False, True]
    assert evidence["cohorts"] == []
    again = cut(actor, prune("beside"), step=3).evidence["main:cut.actions[0]"]
    assert sorted(again["modules"]) == ["blocks.0.adapter", "blocks.2.adapter"]
    assert again["cohorts"] == ["beside"]


def test_a_branch_of_a_pruned_block_goes_with_it():
    model, optimizer, actor = grown()
    cut(actor, attached("blocks.3", cohort="beside"))
    cut(actor, prune("tall"), step=3)
    assert len(model.blocks) == 3
    assert {id(p) for p in optimizer.state} <= {id(p) for p in model.parameters()}
    with pytest.raises(ActionError, match="nothing of what is to be pruned is in the model"):
        cut(actor, prune("beside"), step=4)


class Chained(nn.Module):
    """Blocks that are nn.Sequential: a branch of one is a child of the model around them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(2)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_branch_that_lies_outside_of_its_host_goes_and_returns_with_it():
    model = Chained()
    deed = growth(deepen(add=1, how="stack"), cohort="tall")
    _, optimizer, actor = standing(model)
    actor.transact(boundary(deeds=[deed]), accept)
    cut(actor, attached("blocks.2", cohort="beside"), step=1)
    train(model, optimizer, 1)
    assert len(list(model.children())) == 2
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    expected, modules = values(model, optimizer), list(model.modules())
    evidence = cut(actor, prune("tall")).evidence["main:cut.actions[0]"]
    assert len(evidence["modules"]) == 2 and evidence["cohorts"] == ["tall", "beside"]
    assert [name for name, _ in model.named_children()] == ["blocks"]
    assert not {id(p) for p in optimizer.state} - {id(p) for p in model.parameters()}
    actor.transact(boundary(3, restore=back_to("whole@2")), accept)
    assert values(model, optimizer) == expected
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))


def test_experts_are_taken_out_and_the_mlp_that_they_came_from_stays():
    up = Upcycle(type="upcycle", host=["blocks.0.fc1"], experts=3, top_k=2)
    model, optimizer, actor = grown(Deed("main:up.actions[0]", up, "many", None, 5))
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    expected = values(model, optimizer)
    names = [name for name, _ in standing()[0].named_parameters()]
    cut(actor, prune("many"))
    assert [name for name, _ in model.named_parameters()] == names
    actor.transact(boundary(3, restore=back_to("whole@2")), accept)
    assert values(model, optimizer) == expected


def test_a_growth_in_width_cannot_be_pruned():
    _model, _optimizer, actor = grown()
    wide = Widen(type="widen", space="mlp", factor=2)
    assert not wide.prunable
    change = {
        "kind": "resize",
        "cohort": "wide",
        "step": 0,
        "grown": [["inp.weight", [[[[8, 9]]]]]],
    }
    change |= {"written": [], "scales": [], "how": "by hand"}
    from stagegraph.actions.changes import read_change
    from stagegraph.actions.lineage import Lineage

    held = actor._standing
    held.lineage = Lineage([*held.lineage.changes, read_change(change)])
    with pytest.raises(ActionError, match="'wide' cannot be pruned: it is a resize"):
        cut(actor, prune("wide"))


def test_the_averaged_copy_is_pruned_too():
    model, optimizer, _ = standing()
    averaged = AveragedModel(model)
    actor = TorchActor(model, optimizer, probe=batch(), ema=averaged)
    actor.transact(boundary(deeds=[snapshot(), DEEPER]), accept)
    block = averaged.module.blocks[4]
    cut(actor, prune(modules=["blocks.g1-0"]))
    assert len(averaged.module.blocks) == 4 and averaged.module.blocks[3] is block
    averaged.update_parameters(model)
    actor.transact(boundary(3, restore=back_to()), accept)
    assert len(averaged.module.blocks) == 3


# The way back


def test_a_rollback_puts_the_same_objects_back():
    model, optimizer, actor = grown()
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    parameters = dict(model.named_parameters())
    modules, state = list(model.modules()), values(model, optimizer)
    outputs = model.eval()(batch()).detach()
    model.train()
    cut(actor, prune("tall"))
    train(model, optimizer, 2)
    actor.transact(boundary(4, restore=back_to("whole@2")), accept)
    assert all(mine is other for mine, other in zip(model.modules(), modules, strict=True))
    assert {name: id(p) for name, p in model.named_parameters()} == {
        name: id(p) for name, p in parameters.items()
    }
    assert values(model, optimizer) == state
    assert (model.config.num_hidden_layers, model.config.layer_types) == (5, ["full"] * 5)
    assert [block.layer_idx for block in model.blocks] == [0, 1, 2, 3, 4]
    assert torch.equal(model.eval()(batch()), outputs)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in trained] == [id(p) for p in model.parameters()]


def test_a_rollback_puts_branches_back_in_the_order_they_ran_in():
    """With 'after', the order in which two branches of one host run is part of the function."""
    first = attached("blocks.0", cohort="one", mode="after", child="one")
    second = attached("blocks.0", cohort="two", mode="after", child="two")
    model, optimizer, actor = grown(first)
    cut(actor, second)
    train(model, optimizer, 2)
    actor.transact(boundary(4, deeds=[snapshot("whole", "whole@4")]), accept)
    outputs, names = model.eval()(batch()).detach(), [n for n, _ in model.named_parameters()]
    model.train()
    cut(actor, prune("one"), step=4)
    train(model, optimizer, 1)
    actor.transact(boundary(5, restore=back_to("whole@4")), accept)
    assert torch.equal(model.eval()(batch()), outputs)
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.blocks[0]._modules)[-2:] == ["one", "two"]


def test_a_failure_after_the_prune_leaves_everything_as_it_was():
    model, optimizer, actor = grown(attached("blocks.0", "blocks.1"))
    model.zero_grad()
    before = digest(model, optimizer)

    def refuse(_outcome):
        raise RuntimeError("the journal is full")

    with pytest.raises(RuntimeError, match="journal"):
        actor.transact(boundary(2, deeds=[prune("beside")]), refuse)
    assert digest(model, optimizer) == before


def test_what_no_snapshot_goes_back_to_is_let_go():
    model, _optimizer, actor = standing()
    actor.transact(boundary(deeds=[DEEPER]), accept)
    early = json.loads(json.dumps(actor.state_dict()))
    cut(actor, prune("tall"))
    change = actor._standing.lineage.changes[-1]
    assert change.aside.of(model) is None
    with pytest.raises(
        SnapshotError, match="not held any more, since no snapshot goes back behind"
    ):
        actor.load_state_dict(early)


def test_a_boundary_that_fails_lets_nothing_go():
    model, optimizer, actor = grown()
    expected = values(model, optimizer)
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    cut(actor, prune("tall"))

    def refuse(_outcome):
        raise RuntimeError("the journal is full")

    with pytest.raises(RuntimeError, match="journal"):
        actor.transact(boundary(3, forget=["before@0", "whole@2"]), refuse)
    actor.transact(boundary(3, restore=back_to("whole@2")), accept)
    assert values(model, optimizer) == expected


def test_it_is_held_as_long_as_a_snapshot_goes_back_to_it():
    model, _optimizer, actor = grown()
    cut(actor, prune("tall"))
    (change,) = actor._standing.lineage.changes[-1:]
    assert change.aside.of(model) is not None
    actor.transact(boundary(3, forget=["before@0"]), accept)
    assert change.aside.of(model) is None


# Another process


def test_a_pruned_model_is_rebuilt_from_its_lineage():
    model, optimizer, actor = grown(attached("blocks.0", "blocks.1"))
    cut(actor, DEEPER)
    cut(actor, prune(modules=["blocks.0.adapter", "blocks.g2-0"]), step=3)
    train(model, optimizer, 2)
    lineage = json.loads(json.dumps(actor.state_dict()["lineage"]))
    assert [change["kind"] for change in lineage] == ["attach", "deepen", "prune", "prune"]
    again, other, _ = standing()
    replay(again, other, lineage)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert values(again, other) == values(model, optimizer)
    assert torch.equal(again.eval()(batch()), model.eval()(batch()))
    assert again.config.num_hidden_layers == model.config.num_hidden_layers == 4


def test_a_resumed_run_can_still_return_to_before_the_prune():
    model, optimizer, actor = grown()
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    expected = values(model, optimizer)
    cut(actor, prune("tall"))
    train(model, optimizer, 1)
    engine, tensors = json.loads(json.dumps(actor.state_dict())), actor.snapshots()
    again, other, resumed = standing()
    resumed.load_state_dict(engine)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    resumed.load_snapshots(tensors)
    resumed.transact(boundary(4, restore=back_to("whole@2")), accept)
    assert values(again, other) == expected
    assert len(again.blocks) == 5


@pytest.mark.parametrize(
    "deed", [DEEPER, attached("blocks.0", "blocks.1")], ids=["deepen", "attach"]
)
def test_a_teacher_made_before_the_prune_is_read_back(deed):
    """It is put together from a copy of the pruned model, with copies of what was taken out."""
    model, _optimizer, actor = grown(deed)
    teacher = TeacherAction(type="teacher", name="whole")
    made = Deed("main:t.actions[0]", teacher, None, None, 7, "teacher:whole@2")
    actor.transact(boundary(2, deeds=[made]), accept)
    cut(actor, prune(deed.cohort))
    engine, tensors = json.loads(json.dumps(actor.state_dict())), actor.snapshots()
    again, _, resumed = standing()
    resumed.load_state_dict(engine)
    again.load_state_dict(model.state_dict())
    resumed.load_snapshots(tensors)
    old, new = (one._standing.teachers["teacher:whole@2"].module for one in (actor, resumed))
    assert torch.equal(old(batch()), new(batch()))
    assert not {id(p) for p in new.parameters()} & {id(p) for p in again.parameters()}


def test_growing_again_after_a_prune_takes_new_names():
    model, optimizer, actor = grown()
    cut(actor, prune(modules=["blocks.g1-0"]))
    cut(actor, growth(deepen(add=1, count=DEEPER.action.count), cohort="taller"), step=3)
    lineage = actor._standing.lineage
    assert lineage.order("blocks", 5) == ["0", "1", "2", "g1-1", "g3-0"]
    assert lineage.alive(lineage.changes[0]) == ("blocks.g1-1",)
    cut(actor, prune("tall"), step=4)
    assert lineage.alive(lineage.changes[0]) == ("blocks.g1-1",), "a lineage is never changed"
    assert actor._standing.lineage.order("blocks", 4) == ["0", "1", "2", "g3-0"]
    train(model, optimizer, 2)


class Beside(Model):
    """A list of norms and a tensor of scales beside the stack, one for each block."""

    def __init__(self):
        super().__init__(2)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.scales = nn.Parameter(torch.ones(2, 8))

    def forward(self, x):
        x = self.inp(x)
        for index, block in enumerate(self.blocks):
            x = block(self.norms[index](x) * self.scales[index])
        return self.head(self.bn(x.mean(1)))


def test_what_stands_beside_a_stack_shrinks_and_returns_with_it():
    model = Beside()
    deed = growth(deepen(how="stack", count=["norms", "scales"]), cohort="tall")
    _, optimizer, actor = standing(model)
    actor.transact(boundary(deeds=[deed]), accept)
    train(model, optimizer, 2)
    actor.transact(boundary(2, deeds=[snapshot("whole", "whole@2")]), accept)
    expected, norms = values(model, optimizer), list(model.norms)
    cut(actor, prune(modules=["blocks.g1-0"]))
    assert len(model.norms) == 3 and model.scales.shape == (3, 8)
    assert optimizer.state[model.scales]["exp_avg"].shape == (3, 8)
    assert list(model.norms) == [norms[0], norms[1], norms[3]]
    train(model, optimizer, 1)
    actor.transact(boundary(3, restore=back_to("whole@2")), accept)
    assert values(model, optimizer) == expected
    assert list(model.norms) == norms
