"""DistributedDataParallel: growth, freezing and gates in place, ranks alike, resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import stagegraph as sg
from stagegraph.actions.ranks.replicated import Replicated
from tests.ranks.processes import on_ranks
from tests.ranks.small import GROWING, SIZE, Net, batches, train, weights

pytestmark = pytest.mark.xdist_group("ranks")


def growing(rank: int, size: int, folder: Path) -> Any:
    """A whole run, the same cut and gone on with at several updates, and it all on each rank."""
    whole = train(rank, size, folder / "whole", seen=lambda _, model: id(model))
    again = []
    for cut in (4, 10):
        train(rank, size, folder / f"cut-{cut}", updates=cut)
        again.append(train(rank, size, folder / f"cut-{cut}"))
    return whole, again


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("runs")
    return on_ranks(2, growing, 2, folder, folder=folder, seconds=120)


def test_ranks_stay_alike_through_growth_freeze_and_gates(runs: list[Any]) -> None:
    (first, _), (second, _) = runs
    assert first["weights"] == second["weights"]
    assert first["stages"] == second["stages"] == {"main": "done"}
    assert first["losses"] != second["losses"]  # each has a share of its own
    assert first["samples"] == first["step"] * 8
    assert len(first["names"]) == 4 * 4 + 2  # two blocks more


def test_the_wrapper_stays_the_same_object(runs: list[Any]) -> None:
    assert len(set(runs[0][0]["seen"])) == 1


def test_cut_anywhere_and_gone_on_with_it_is_the_same_run_on_every_rank(runs: list[Any]) -> None:
    for whole, again in runs:
        for one in again:
            assert one["weights"] == whole["weights"]
            assert one["losses"] == whole["losses"][-len(one["losses"]) :]


def at_every_update(rank: int, size: int, folder: Path) -> Any:
    whole = train(rank, size, folder / "whole")
    again = []
    for cut in range(1, 14):
        train(rank, size, folder / f"cut-{cut}", updates=cut)
        again.append(train(rank, size, folder / f"cut-{cut}")["weights"])
    return whole["weights"], again


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_cut_at_every_update_it_is_the_same_run(tmp_path: Path, size: int) -> None:
    for whole, again in on_ranks(
        size, at_every_update, size, tmp_path, folder=tmp_path, seconds=600
    ):
        assert again == [whole] * 13


def dry(rank: int, size: int) -> Any:
    """A run without random numbers."""
    return train(rank, size, None, wrap=size > 1, dropout=0.0)


def test_four_ranks_and_one_process_come_to_the_same(tmp_path: Path) -> None:
    found = on_ranks(4, dry, 4, folder=tmp_path, seconds=90)
    assert all(one["weights"] == found[0]["weights"] for one in found)
    alone = dry(0, 1)
    assert alone["stages"] == found[0]["stages"]
    assert alone["samples"] == found[0]["samples"]
    torch.testing.assert_close(
        torch.tensor(found[0]["weights"]), torch.tensor(alone["weights"]), rtol=0, atol=2e-6
    )


def failing(rank: int, size: int) -> Any:
    """A growth that fails on the last rank alone; then the run goes on without it."""
    import stagegraph.actions.actor as module

    grow = module.grow

    def fails(*args: Any, **kwargs: Any) -> Any:
        evidence = grow(*args, **kwargs)
        if rank == size - 1:
            raise torch.OutOfMemoryError("no memory for the new blocks")
        return evidence

    before, told = list[Any](), list[str]()

    def loop() -> Any:
        torch.manual_seed(0)
        net = Net(0.0)
        model = DistributedDataParallel(net)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        engine = sg.Engine(
            sg.load(GROWING), model=model, optimizer=optimizer, probe=torch.ones(2, SIZE)
        )
        for number, x in enumerate(batches(rank, size)):
            module.grow = fails if number == 2 else grow
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            try:
                engine.step()
                if engine.wants_evaluation:
                    engine.observe(val_loss=1.0)
            except sg.ActionError as error:
                told.append(str(error))
                before.append((len(net.blocks), engine.stages))
            if number == 6:
                break
        return len(net.blocks), engine.stages, weights(net)

    found = loop()
    return told, before[0], found


def test_a_growth_that_fails_on_one_rank_is_taken_back_on_all(tmp_path: Path) -> None:
    first, second = on_ranks(2, failing, 2, folder=tmp_path)
    assert first == second
    told, stood, (blocks, stages, _) = first
    assert told == [
        "main:deepen.actions[0]: rank 1: OutOfMemoryError: no memory for the new blocks"
    ]
    assert stood == (2, {"main": "train"})
    assert blocks == 4  # the next boundary tried again
    assert stages["main"] in ("warmup", "frozen")


def meddling(rank: int, size: int) -> Any:
    """What one rank does alone, and what all are told of it."""
    found = []
    for meddle in ("freeze", "rate", "model"):
        torch.manual_seed(0)
        net = Net(0.0)
        if meddle == "model" and rank:
            net.head = nn.Linear(SIZE, 2)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        try:
            engine = sg.Engine(
                sg.load(GROWING), model=net, optimizer=optimizer, probe=torch.ones(2, SIZE)
            )
            for number in range(4):
                if rank and number == 2:
                    if meddle == "freeze":
                        net.head.weight.requires_grad_(False)
                    else:
                        optimizer.param_groups[0]["lr"] = 1e-3
                engine.step()
                if engine.wants_evaluation:
                    engine.observe(val_loss=1.0)
        except sg.StageGraphError as error:
            found.append(str(error))
            if meddle != "model":
                assert engine.stages == {"main": "train"}
                assert len(net.blocks) == 2
    return found


def test_ranks_that_hold_different_things_are_told_at_the_next_boundary(tmp_path: Path) -> None:
    first, second = on_ranks(2, meddling, 2, folder=tmp_path)
    assert first == second
    freeze, rate, model = first
    assert freeze == (
        "boundary 3: the ranks hold different structures: head.weight [1, 8] torch.float32 trained "
        "on rank 0, and head.weight [1, 8] torch.float32 not trained on rank 1; every rank must "
        "build the same model and optimizer, and change them by the graph alone"
    )
    assert rate.startswith(
        "boundary 3: the ranks hold different structures: AdamW group 0 lr 0.01: "
    )
    assert model.startswith("the ranks have begun different things: structure: ")
    assert "head.weight [1, 8] torch.float32 trained on rank 0" in model
    assert "head.weight [2, 8] torch.float32 trained on rank 1" in model


def unlike(rank: int, size: int) -> Any:
    """Probes of other lengths, and an average of the wrapper."""
    graph = GROWING.replace("budget: {steps: 18}", "budget: {steps: 18, flops: 1e15}")
    net = Net(0.0)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = torch.ones(2 + rank, SIZE)
    engine = sg.Engine(sg.load(graph), model=model, optimizer=optimizer, probe=probe)
    for number, x in enumerate(batches(rank, size)):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step(samples=len(x))
        if engine.wants_evaluation:
            engine.observe(val_loss=1.0)
        if number == 6:
            break
    flops = engine.progress.flops
    engine.close()
    try:
        sg.Engine(
            sg.load(GROWING),
            model=model,
            optimizer=optimizer,
            ema=torch.optim.swa_utils.AveragedModel(model),
            probe=probe,
        )
    except sg.UnsupportedError as error:
        return flops, str(error)


@pytest.mark.slow
def test_what_is_each_ranks_own_is_made_one_or_refused(tmp_path: Path) -> None:
    first, second = on_ranks(2, unlike, 2, folder=tmp_path)
    assert first == second
    assert first[0] > 0
    assert "ema= averages the DistributedDataParallel" in first[1]


def short_of_memory(rank: int, size: int) -> Any:
    """The last rank has no memory for the buckets of gradients, where flops are counted too."""
    initialise = Replicated._initialise

    def fails(self: Replicated, *, searches: bool) -> None:
        if len(net.blocks) > 2 and rank == size - 1:
            raise torch.OutOfMemoryError("no memory for the buckets")
        initialise(self, searches=searches)

    net = Net(0.0)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    graph = GROWING.replace("budget: {steps: 18}", "budget: {steps: 18, flops: 1e15}")
    engine = sg.Engine(sg.load(graph), model=model, optimizer=optimizer, probe=torch.ones(2, SIZE))
    Replicated._initialise = fails  # type: ignore[method-assign]
    told = ""
    for x in batches(rank, size)[:3]:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        try:
            engine.step(samples=len(x))
            if engine.wants_evaluation:
                engine.observe(val_loss=1.0)
        except sg.ActionError as error:
            told = str(error)
    model(torch.ones(2, SIZE)).square().mean().backward()  # the wrapper still works
    return told, len(net.blocks), engine.stages


def test_no_memory_for_buckets_on_one_rank_takes_the_growth_back_on_all(tmp_path: Path) -> None:
    first, second = on_ranks(2, short_of_memory, 2, folder=tmp_path)
    assert first == second
    told, blocks, stages = first
    assert told == "boundary 3: rank 1: OutOfMemoryError: no memory for the buckets"
    assert (blocks, stages) == (2, {"main": "train"})


def listening(rank: int, size: int) -> None:
    """A listener on the last rank that fails when the boundary has been written down."""

    class Fails:
        def write(self, records: tuple[Any, ...]) -> None:
            if rank == size - 1 and any(one["type"] == "growth" for one in records):
                raise RuntimeError("a listener of one rank")

    net = Net(0.0)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine = sg.Engine(
        sg.load(GROWING), model=model, optimizer=optimizer, probe=torch.ones(2, SIZE)
    )
    engine.listen(Fails())
    for _ in range(4):
        engine.step()
        if engine.wants_evaluation:
            engine.observe(val_loss=1.0)


def test_what_fails_on_one_rank_when_all_is_done_ends_all_with_the_reason(tmp_path: Path) -> None:
    first, second = on_ranks(2, listening, 2, folder=tmp_path, failing=True)
    assert "rank 1: RuntimeError: a listener of one rank" in first
    assert second.startswith("RuntimeError: a listener of one rank")


def own_group(rank: int, size: int) -> Any:
    """Two pairs of ranks, a run each."""
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    engine = sg.Engine(
        sg.load(GROWING), params=10, costs={"main:deepen": 1}, group=pairs[rank // 2]
    )
    engine.step(samples=rank)
    return engine.progress.samples


@pytest.mark.slow
def test_a_group_of_some_decides_by_itself(tmp_path: Path) -> None:
    assert on_ranks(4, own_group, 4, folder=tmp_path) == [1, 1, 5, 5]


class Normed(Net):
    """With running statistics, which each rank keeps of its own share."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.norm = nn.BatchNorm1d(SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(x))


def normed(rank: int, size: int, folder: Path, updates: int) -> Any:
    torch.manual_seed(0)
    net = Normed()
    model = DistributedDataParallel(net, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine = sg.Engine(
        sg.load(GROWING),
        model=model,
        optimizer=optimizer,
        probe=torch.ones(2, SIZE),
        run=folder,
        checkpoints=sg.Checkpoints(every="1 steps"),
    )
    with engine:
        engine.resume()
        data = batches(rank, size)
        while not engine.done and engine.progress.step < updates:
            x = data[engine.progress.step]
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step()
            if engine.wants_evaluation:
                engine.observe(val_loss=1.0)
        if not engine.done:
            engine.finish()
    return [b.tolist() for b in net.buffers()], weights(net)


def normed_twice(rank: int, size: int, folder: Path) -> Any:
    whole = normed(rank, size, folder / "whole", 12)
    normed(rank, size, folder / "cut", 6)
    return whole, normed(rank, size, folder / "cut", 12)


@pytest.mark.slow
def test_running_statistics_of_each_rank_are_kept(tmp_path: Path) -> None:
    first, second = on_ranks(2, normed_twice, 2, tmp_path, folder=tmp_path)
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0][0] != second[0][0]
    assert first[0][1] == second[0][1]


def wrapping(rank: int, size: int) -> Any:
    """What the wrapper keeps when it is initialised again, and what is refused."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    net = Net(0.0)
    model = DistributedDataParallel(net, gradient_as_bucket_view=True, bucket_cap_mb=1)
    heard: list[str] = []
    model.register_forward_hook(lambda *_: heard.append("after"))
    model.register_comm_hook(None, allreduce_hook)
    model.note = "mine"  # type: ignore[assignment]
    model.eval()
    group, replicas = model.process_group, Replicated(model)
    reducer = model.reducer
    replicas.follow(unused=False)
    untouched = model.reducer is reducer
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.add_(0.0 if number else rank)  # as ranks that drew different numbers
    replicas.let_go()
    net.blocks.append(Net(0.0).blocks[0])
    replicas.follow(unused=True)
    replicas.align()
    searches = model.find_unused_parameters
    model(torch.ones(2, SIZE))
    model.train()
    loss = model(torch.full((2, SIZE), float(rank))).square().mean()
    loss.backward()
    gradients = [None if p.grad is None else p.grad.sum().item() for p in net.parameters()]
    replicas.follow(unused=False)
    refused = []
    for arguments in ({"static_graph": True}, {}):
        other = DistributedDataParallel(Net(0.0), **arguments)
        optimizer = torch.optim.AdamW(other.parameters())
        how = {} if arguments else {"group": None}
        try:
            sg.Engine(
                sg.load(GROWING), model=other, optimizer=optimizer, probe=torch.ones(2, SIZE), **how
            )
        except sg.UnsupportedError as error:
            refused.append(str(error))
    return {
        "untouched": untouched,
        "searches": (searches, model.find_unused_parameters),
        "heard": len(heard),
        "kept": (model.note, model.gradient_as_bucket_view, model.bucket_bytes_cap, model.training),
        "group": model.process_group is group,
        "hooks": len(model._comm_hooks),
        "gradients": gradients,
        "weights": weights(net),
        "refused": refused,
    }


def test_a_wrapper_that_is_initialised_again_keeps_what_it_had(tmp_path: Path) -> None:
    first, second = on_ranks(2, wrapping, 2, folder=tmp_path)
    assert first == second  # gradients averaged, and rank 0's weights on both
    assert first["untouched"]
    assert first["searches"] == (True, False)
    assert first["heard"] == 2
    assert first["kept"] == ("mine", True, 2**20, True)
    assert first["group"]
    assert first["hooks"] == 1
    assert None not in first["gradients"]
    static, alone = first["refused"]
    assert static.startswith(
        "main:deepen.actions[0]: DistributedDataParallel(static_graph=True) promises"
    )
    assert alone.startswith("the model is in a DistributedDataParallel of several ranks")
