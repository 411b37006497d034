import pytest
import torch
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from stagegraph.actions.snapshots import Snapshot
from stagegraph.errors import ActionError, SnapshotError
from tests.actions.models import (
    Model,
    accept,
    alpha_ramp,
    back_to,
    batch,
    boundary,
    deepen,
    freeze,
    growth,
    snapshot,
    train,
    values,
)


class Position:
    """A loader that knows how far it is."""

    def __init__(self):
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def run(**options):
    model = Model()
    optimizer = AdamW(model.parameters(), lr=0.01)
    return model, optimizer, TorchActor(model, optimizer, probe=batch(), **options)


def test_a_return_brings_back_every_number_and_the_same_objects():
    model, optimizer, actor = run()
    train(model, optimizer, 2)
    kept, parameters, numbers = (
        values(model, optimizer),
        list(model.parameters()),
        torch.get_rng_state(),
    )
    actor.transact(boundary(2, deeds=[snapshot()]), accept)
    train(model, optimizer, 3)
    outcome = actor.transact(boundary(5, restore=back_to()), accept)
    assert values(model, optimizer) == kept and torch.equal(numbers, torch.get_rng_state())
    assert [id(p) for p in parameters] == [id(p) for p in model.parameters()]
    assert all(p.grad is None for p in parameters)
    assert outcome.evidence["undo.actions[0]"] == {
        "kind": "roll_back",
        "snapshot": "before@0",
        "blocks_removed": [],
        "data": "goes on from where it is",
        "lr_factor": 1.0,
        "rng": "restored",
    }


@pytest.mark.parametrize("at", ["end", "spread"])
def test_a_return_through_a_growth_takes_the_blocks_out(at):
    model, optimizer, actor = run()
    train(model, optimizer, 2)
    blocks, parameters = list(model.blocks), [id(p) for p in model.parameters()]
    kept = values(model, optimizer)
    deeds = [growth(deepen(at=at)), snapshot()]  # the snapshot is of the boundary's start
    actor.transact(
        boundary(
            2, deeds=deeds, held=[alpha_ramp(), freeze("blocks")], alphas={"main:grow#1": 0.5}
        ),
        accept,
    )
    train(model, optimizer, 2)
    outcome = actor.transact(boundary(4, restore=back_to()), accept)
    assert list(model.blocks) == blocks and values(model, optimizer) == kept
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == parameters
    assert set(map(id, optimizer.state)) <= set(parameters)
    assert outcome.evidence["undo.actions[0]"]["blocks_removed"] == ["blocks.g1-0", "blocks.g1-1"]
    assert all(p.requires_grad for p in model.parameters())
    assert actor.state_dict()["alphas"] == {}


def test_after_a_return_the_run_repeats_itself():
    model, optimizer, actor = run()
    actor.transact(boundary(0, deeds=[snapshot()]), accept)
    first = train(model, optimizer, 3)
    actor.transact(boundary(3, restore=back_to()), accept)
    assert train(model, optimizer, 3) == first


def test_forked_numbers_differ_per_attempt_and_are_the_same_each_time():
    model, optimizer, actor = run()
    actor.transact(boundary(0, deeds=[snapshot()]), accept)

    def attempt(fork):
        actor.transact(boundary(3, restore=back_to(fork=fork)), accept)
        return train(model, optimizer, 2)

    first, second = attempt(1), attempt(2)
    assert first != second and attempt(1) == first and attempt(None) not in (first, second)


def test_each_cut_of_the_learning_rate_goes_further_and_lasts():
    model = Model()
    optimizer = SGD(model.parameters(), lr=1.0)
    actor = TorchActor(model, optimizer)
    actor.transact(boundary(0, deeds=[snapshot()]), accept)
    for lasting in (0.5, 0.25):
        outcome = actor.transact(boundary(1, restore=back_to(lr_factor=0.5)), accept)
        assert outcome.evidence["undo.actions[0]"]["lr_factor"] == lasting
    weight = model.head.bias.detach().clone()
    model.head.bias.grad = torch.ones(3)
    optimizer.step()
    assert torch.allclose(model.head.bias, weight - 0.25)
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert actor.state_dict()["lasting_lr_factor"] == 0.25


def test_schedulers_scaler_ema_and_data_return():
    model = Model()
    optimizer = SGD(model.parameters(), lr=torch.tensor(0.1))
    rate = optimizer.param_groups[0]["lr"]
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, 20)
    scaler, ema, data = torch.amp.GradScaler("cpu"), AveragedModel(model), Position()
    actor = TorchActor(
        model, optimizer, scheduler=scheduler, scaler=scaler, ema=ema, data=data, probe=batch()
    )
    ema.update_parameters(model)
    scaler.scale(torch.ones(1))
    averaged = [b.clone() for b in ema.state_dict().values()]
    kept, lr = scheduler.state_dict(), float(rate)
    actor.transact(boundary(0, deeds=[snapshot(), growth()]), accept)
    train(model, optimizer, 3, scheduler=scheduler)
    ema.update_parameters(model)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0})
    data.at = 3
    outcome = actor.transact(boundary(3, restore=back_to(rewind_data=True)), accept)
    assert scheduler.state_dict() == kept and float(optimizer.param_groups[0]["lr"]) == lr
    assert optimizer.param_groups[0]["lr"] is rate
    assert all(torch.equal(a, b) for a, b in zip(averaged, ema.state_dict().values(), strict=True))
    assert scaler.state_dict()["scale"] == 65536.0 and data.at == 0
    assert outcome.evidence["undo.actions[0]"]["data"] == "rewound"


def test_data_may_be_skipped_or_not_be_known():
    model = Model()
    data = Position()
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1), data=data)
    actor.transact(boundary(0, deeds=[snapshot()]), accept)
    data.at = 3
    actor.transact(boundary(3, restore=back_to()), accept)
    assert data.at == 3
    other = TorchActor(model, SGD(model.parameters(), lr=0.1))
    other.transact(boundary(0, deeds=[snapshot()]), accept)
    outcome = other.transact(boundary(3, restore=back_to(rewind_data=True, fork=1)), accept)
    assert outcome.evidence["undo.actions[0]"]["data"] == "position not known: not rewound"


def test_an_unknown_snapshot_is_named():
    _, _, actor = run()
    actor.transact(boundary(0, deeds=[snapshot(key="before@0")]), accept)
    with pytest.raises(
        ActionError,
        match=r"undo\.actions\[0\]: the tensors of snapshot 'before@1' are not here \(held: 'bef",
    ):
        actor.transact(boundary(3, restore=back_to("before@1")), accept)


def test_forgotten_snapshots_are_gone_and_a_failed_boundary_keeps_them():
    _, _, actor = run()
    actor.transact(boundary(0, deeds=[snapshot()]), accept)

    def refuse(_):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        actor.transact(boundary(1, forget=["before@0"]), refuse)
    assert list(actor.snapshots()) == ["before@0"]
    actor.transact(boundary(1, forget=["before@0"]), accept)
    assert actor.snapshots() == {}


def test_a_snapshot_of_another_branch_is_refused():
    model, _, actor = run()
    actor.transact(boundary(0, deeds=[snapshot(key="a")]), accept)
    actor.transact(boundary(1, deeds=[growth()]), accept)
    actor.transact(boundary(2, deeds=[snapshot(key="b")]), accept)
    actor.transact(boundary(3, restore=back_to("a")), accept)
    with pytest.raises(ActionError, match="the snapshot belongs to another branch"):
        actor.transact(boundary(4, restore=back_to("b")), accept)
    assert len(model.blocks) == 2


def test_a_model_that_somebody_else_changed_is_refused():
    model, _, actor = run()
    actor.transact(boundary(0, deeds=[snapshot()]), accept)
    model.extra = torch.nn.Linear(1, 1)
    with pytest.raises(
        ActionError,
        match=r"changed by something else than a growth of the graph: 'extra\.weight' has come",
    ):
        actor.transact(boundary(1, restore=back_to()), accept)
    with pytest.raises(  # it has been told, and is taken as it is; the snapshot does not know it
        ActionError,
        match=r"the model has \['extra\.bias', 'extra\.weight'\], unknown to the snapshot",
    ):
        actor.transact(boundary(1, restore=back_to()), accept)


def test_a_broken_snapshot_is_said():
    with pytest.raises(SnapshotError, match=r"this snapshot cannot be read: KeyError\('lineage'\)"):
        Snapshot.unpack({})
