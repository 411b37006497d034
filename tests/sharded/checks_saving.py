"""What two ranks do, and must find, when a sharded model is saved and taken up."""

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from stagegraph.errors import SnapshotError
from tests.actions.models import (
    accept,
    back_to,
    boundary,
    deepen,
    growth,
    snapshot,
)
from tests.sharded.small import HELD, listed, made, sharded, train


def saved_in_mid_run(folder, dropout):
    """Trained, grown, saved in the middle of a ramp; then trained on, and returned."""
    torch.manual_seed(distributed.get_rank())
    rank = distributed.get_rank()
    model, optimizer, actor = made(sharded(dropout=dropout))
    torch.manual_seed(rank)
    train(model, optimizer, range(3))
    deeds = [snapshot(), growth(deepen(how="stack", add=1, state="copy"))]
    actor.transact(boundary(3, deeds=deeds, held=HELD, alphas={"main:grow#1": 0.5}), accept)
    train(model, optimizer, range(3, 5))
    actor.save_sharded(folder, {"rank": rank, "kept": torch.arange(3) + rank})
    state = actor.state_dict()
    return state, _go_on(model, optimizer, actor)


def taken_up(folder, state, dropout):
    model, optimizer, actor = made(sharded(seed=99, dropout=dropout))
    torch.manual_seed(5)
    actor.load_state_dict(state)
    beside = actor.load_sharded(folder)
    rank = distributed.get_rank() if distributed.get_world_size() > 1 else 0
    assert (beside["rank"], beside["kept"].tolist()) == (rank, [rank, rank + 1, rank + 2])
    actor.hold(HELD, {"main:grow#1": 0.5})
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return _go_on(model, optimizer, actor)


def _go_on(model, optimizer, actor):
    train(model, optimizer, range(5, 9))
    ends = [listed(model, optimizer)]
    actor.transact(boundary(9, restore=back_to()), accept)
    train(model, optimizer, range(3, 5))
    return [*ends, listed(model, optimizer)]


def ranks_that_differ(folder):
    rank = distributed.get_rank()
    model, optimizer, actor = made(sharded())
    train(model, optimizer, range(1))
    from stagegraph.actions.sharding.checkpoint import save_sharded

    first = next(iter(model.parameters())).detach()
    with pytest.raises(SnapshotError, match=r"ranks 0 and 1 have other sharded tensors.*'b'"):
        save_sharded(folder, {"a": first, **({"b": first.clone()} if rank else {})})
    with pytest.raises(SnapshotError, match=r"rank 1: .*a checkpoint cannot hold"):
        actor.save_sharded(folder, object() if rank else None)
    with pytest.raises(SnapshotError, match="holds no whole checkpoint"):
        actor.load_sharded(folder)
    actor.save_sharded(folder)
    with pytest.raises(SnapshotError, match="holds a checkpoint already"):
        actor.save_sharded(folder)
    actor.load_sharded(folder)
    distributed.barrier()
    if rank == 0:
        name = next(path for path in sorted(folder.iterdir()) if path.name.startswith("shards-1"))
        content = bytearray(name.read_bytes())
        content[-1] ^= 1
        name.write_bytes(content)
    distributed.barrier()
    with pytest.raises(SnapshotError, match=r"shards-1-00000.safetensors is not as it was"):
        actor.load_sharded(folder)
    distributed.barrier()
    if rank == 0:
        name.write_bytes(content[:-1])
    distributed.barrier()
    with pytest.raises(SnapshotError, match=r"is not whole: shards-1-00000.safetensors is lost"):
        actor.load_sharded(folder)


def another_optimizer_is_refused(folder):
    from torch.optim import SGD

    model, optimizer, actor = made(sharded())
    train(model, optimizer, range(2))
    actor.save_sharded(folder)
    model = sharded()
    _, _, other = made(model, SGD(model.parameters(), lr=0.1))
    with pytest.raises(SnapshotError, match="with the optimizers AdamW, and this engine has SGD"):
        other.load_sharded(folder)


def a_plain_checkpoint_is_refused():
    from stagegraph.errors import UnsupportedError

    _, _, actor = made(sharded())
    with pytest.raises(UnsupportedError, match=r"sharded over ranks .*trainers\.fsdp2\.save"):
        actor.take_checkpoint()
