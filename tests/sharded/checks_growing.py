"""What two ranks do, and must find, when a sharded model grows."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adagrad, AdamW

from stagegraph.actions.sharding.units import groups_of
from stagegraph.errors import ActionError
from tests.actions.models import (
    accept,
    alpha_ramp,
    back_to,
    boundary,
    deepen,
    freeze,
    growth,
    lr_factor,
    snapshot,
)
from tests.sharded.small import (
    Model,
    batch,
    digest,
    everything,
    furthest,
    grow,
    loss_of,
    made,
    mesh,
    moments,
    plain,
    sharded,
    train,
    weights,
)

PLACE = "main:grow.actions[0]"


def pair(policy=None, make=AdamW, **more):
    """The sharded model and the same in one process, each trained for three updates."""
    model = sharded(**{**(policy or {}), **more})
    first = made(model, make(model.parameters(), lr=0.01))
    other = plain()
    second = made(other, make(other.parameters(), lr=0.01))
    train(*first[:2], range(3))
    train(*second[:2], range(3), part=everything)
    return first, second


def go_on(first, second, steps):
    train(*first[:2], steps)
    train(*second[:2], steps, part=everything)


def distance(first, second):
    return max(
        furthest(weights(first[0]), weights(second[0])),
        furthest(moments(*first[:2]), moments(*second[:2])),
    )


def is_joined(model, optimizer):
    """Every parameter is a shard, in the one group, in the model's order."""
    assert all(isinstance(p, DTensor) for p in model.parameters())
    members = optimizer.param_groups[0]["params"]
    assert [id(p) for p in members] == [id(p) for p in model.parameters()]


def knows_its_units(model):
    """One root, and no block is a root of its own."""
    states = [m._get_fsdp_state() for m in model.modules() if isinstance(m, FSDPModule)]
    assert [state._is_root for state in states] == [True] + [False] * (len(states) - 1)
    assert [id(s) for s in states[0]._state_ctx.all_states] == [id(state) for state in states]


def grown_as_in_one_process(fields, policy, optimizer):
    make = {"adamw": AdamW, "sgd": _momentum, "adagrad": Adagrad}[optimizer]
    first, second = pair(policy, make)
    action = deepen(add=1, **fields)
    seen, expected = (grow(one[2], action)[PLACE] for one in (first, second))
    is_joined(*first[:2])
    for key in ("inserted", "zeroed", "params", "gradient", "promise"):
        assert seen[key] == expected[key], key
    go_on(first, second, range(3, 7))
    knows_its_units(first[0])
    return distance(first, second)


def _momentum(parameters, lr):
    return SGD(parameters, lr=lr, momentum=0.9)


def grown_twice_and_in_the_middle():
    first, second = pair()
    for cohort, action, at in (
        ("main:grow#1", deepen(how="stack", add=2), 3),
        ("main:grow#2", deepen(how="interleave", add=1, state="copy"), 5),
    ):
        for one in (first, second):
            one[2].transact(boundary(at, deeds=[growth(action, cohort=cohort)]), accept)
        is_joined(*first[:2])
        go_on(first, second, range(at, at + 2))
    knows_its_units(first[0])
    assert len(first[0].blocks) == 5
    return distance(first, second)


def held_as_in_one_process():
    """A gate that opens, a factor on what is new, and the rest frozen; then all released."""
    first, second = pair()
    action = deepen(how="stack", add=1)
    held = [
        alpha_ramp(),
        lr_factor(0.5, cohorts=("main:grow#1",)),
        freeze("emb*", "blocks.0"),
    ]
    for one in (first, second):
        deeds = [growth(action)]
        one[2].transact(boundary(3, deeds=deeds, held=held, alphas={"main:grow#1": 0.0}), accept)
    for step in range(3, 6):
        for one in (first, second):
            one[2].tune({"main:warmup.during[0]": (step - 2) / 4})
        go_on(first, second, [step])
    found = [distance(first, second)]
    still = weights(first[0])
    assert float((still["emb.weight"] - weights(first[0])["emb.weight"]).abs().max()) == 0.0
    for one in (first, second):
        one[2].transact(boundary(6, alphas={"main:grow#1": 1.0}), accept)
    go_on(first, second, range(6, 9))
    return max(*found, distance(first, second))


def frozen_from_the_first_update():
    """Blocks that are frozen when FSDP first looks at them, released later, under bfloat16."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, optimizer, actor = made(sharded(mp_policy=policy))
    actor.transact(boundary(0, held=[freeze("blocks.0")]), accept)
    before = weights(model)
    train(model, optimizer, range(2))
    now = weights(model)
    still = [name for name in before if torch.equal(before[name], now[name])]
    assert still == [name for name in before if name.startswith("blocks.0.")]
    actor.transact(boundary(2), accept)
    states = [m._get_fsdp_state() for m in model.modules() if isinstance(m, FSDPModule)]
    groups = [group for state in states for group in groups_of(state)]
    assert {(group._orig_dtype, group._reduce_dtype) for group in groups} == {(torch.float32,) * 2}
    train(model, optimizer, range(2, 4))
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    after = weights(model)
    assert not any(torch.equal(now[name], after[name]) for name in after)


def grown_in_low_precision(how):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, optimizer, actor = made(sharded(mp_policy=policy))
    train(model, optimizer, range(3))
    seen = grow(actor, deepen(how=how, add=1))[PLACE]
    if how == "identity":
        assert seen["exactness"] == "exact", seen
    new = model.blocks[2]._get_fsdp_state()
    assert new._mp_policy == policy
    assert all(p.dtype == torch.float32 for p in model.blocks[2].parameters())
    train(model, optimizer, range(3, 6))
    is_joined(model, optimizer)
    return {name: tensor.tolist() for name, tensor in weights(model).items()}


def policies_are_read_from_the_sibling():
    over = mesh()
    model = plain()
    late = "set_reduce_scatter_unused_params" in vars(FSDPModule)  # not in torch 2.11
    policy = MixedPrecisionPolicy(param_dtype=torch.float64, output_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block.fc1, mesh=over, reshard_after_forward=False, mp_policy=policy)
        fully_shard(
            [block.ln2, block.fc2], mesh=over, offload_policy=CPUOffloadPolicy(pin_memory=False)
        )
        fully_shard(
            block,
            mesh=over,
            reshard_after_forward=True,
            shard_placement_fn=lambda p: None,
        )
        if late:
            block.set_reduce_scatter_unused_params(True, recurse=True)
    fully_shard(model, mesh=over)
    model, optimizer, actor = made(model)
    train(model, optimizer, range(2))
    grow(actor, deepen(how="stack", add=1))
    old, new = model.blocks[0], model.blocks[2]
    for name in ("fc1", "ln2", "fc2", ""):
        a, b = (one.get_submodule(name)._get_fsdp_state() for one in (old, new))
        (p,), (q,) = groups_of(a), groups_of(b)
        assert a is not b
        assert a._mp_policy == b._mp_policy
        assert a._auto_reshard_after_forward == b._auto_reshard_after_forward
        assert len(a._modules) == len(b._modules)
        assert (p.post_forward_mesh_info is None) == (q.post_forward_mesh_info is None), name
        assert p.offload_policy == q.offload_policy
        if late:
            assert p.reduce_scatter_unused_params == q.reduce_scatter_unused_params is True
        assert p.mesh_info.mesh == q.mesh_info.mesh
        assert len(p.fsdp_params) == len(q.fsdp_params)
    assert new.get_submodule("ln2")._get_fsdp_state() is new.get_submodule("fc2")._get_fsdp_state()
    is_joined(model, optimizer)
    train(model, optimizer, range(2, 4))


def shards_lie_where_the_siblings_lie():
    from torch.distributed.tensor import Shard

    model = plain()

    def place(parameter):
        return Shard(1) if parameter.dim() == 2 and parameter.shape[1] % 2 == 0 else None

    for block in model.blocks:
        fully_shard(block, mesh=mesh(), shard_placement_fn=place)
    fully_shard(model, mesh=mesh())
    other = plain()
    first, second = made(model), made(other)
    go_on(first, second, range(3))
    for one in (first, second):
        grow(one[2], deepen(how="stack", add=1))
    for a, b in zip(model.blocks[0].parameters(), model.blocks[2].parameters(), strict=True):
        assert a.placements == b.placements
    go_on(first, second, range(3, 6))
    return distance(first, second)


def without_a_root_or_without_units():
    found = []
    for more in ({"root": False}, {"each": False}):
        first, second = pair(**more)
        for one in (first, second):
            grow(one[2], deepen(how="stack", add=1))
        if more == {"each": False}:
            is_joined(*first[:2])
            go_on(first, second, range(3, 6))
            found.append(distance(first, second))
        else:  # what is not sharded each rank trains alone, which is the user's to see to
            train(*first[:2], range(3, 6))
            assert all(isinstance(p, DTensor) for p in first[0].blocks[2].parameters())
    return max(found)


def what_fails_is_undone(kind):
    model, optimizer, actor = made(sharded())
    train(model, optimizer, range(3))
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        model(batch(0)[:, :-1])  # leaves the root whole
    model.reshard()
    action, confirm, remove = FAILURES[kind](model)
    before = digest(model, optimizer)
    with pytest.raises((ActionError, RuntimeError)):
        actor.transact(boundary(3, deeds=[growth(action)]), confirm)
    assert digest(model, optimizer) == before
    remove()
    knows_its_units(model)
    train(model, optimizer, range(3, 6))
    other, its, _ = made(sharded())
    train(other, its, range(6))
    assert furthest(weights(model), weights(other)) == 0.0
    if kind != "build":
        grow(actor, deepen(add=1))
        train(model, optimizer, range(6, 8))
        is_joined(model, optimizer)


def nothing():
    return None


def _vote(_model):
    def confirm(_outcome):
        raise RuntimeError("another rank said no")

    return deepen(add=1), confirm, nothing


def _build(model):
    def fail(_self, _memo):
        raise TypeError("this cannot be copied")

    model.blocks[1].drop.__class__ = type("Dropout", (nn.Dropout,), {"__deepcopy__": fail})
    return deepen(add=1), accept, nothing


def _forward(model):
    """In the middle of a pass, with blocks gathered."""
    handle = model.norm.register_forward_pre_hook(_fails_when_deep(model))
    return deepen(add=1), accept, handle.remove


FAILURES = {
    "vote": _vote,
    "tolerance": lambda _: (deepen(how="stack", add=1, tolerance=1e-9), accept, nothing),
    "zero": lambda _: (deepen(add=1, zero=["nothing"]), accept, nothing),
    "build": _build,
    "forward": _forward,
}


def _fails_when_deep(model):
    def fail(*_):
        if len(model.blocks) > 2:
            raise RuntimeError("too deep")

    return fail


def returned_to_before_the_growth():
    model, optimizer, actor = made(sharded(dropout=0.2))
    other, its, _ = made(sharded(dropout=0.2))
    torch.manual_seed(distributed.get_rank())
    train(other, its, range(6))
    torch.manual_seed(distributed.get_rank())
    train(model, optimizer, range(3))
    actor.transact(boundary(3, deeds=[snapshot(), growth(deepen(how="stack", add=1))]), accept)
    train(model, optimizer, range(3, 5))
    grow(actor, deepen(how="stack", add=1), step=5)
    train(model, optimizer, range(5, 6))
    actor.transact(boundary(6, restore=back_to()), accept)
    assert len(model.blocks) == 2
    knows_its_units(model)
    train(model, optimizer, range(3, 6))
    assert furthest(weights(model), weights(other)) == 0.0
    assert furthest(moments(model, optimizer), moments(other, its)) == 0.0
    grow(actor, deepen(how="stack", add=1), step=6)
    train(model, optimizer, range(6, 8))
    is_joined(model, optimizer)


def after_an_evaluation_the_same():
    """An evaluation leaves the root's parameters whole, and others than the optimizer's."""
    results = []
    for evaluates in (False, True):
        model, optimizer, actor = made(sharded(), growths={"main:grow": [deepen(add=1)]})
        train(model, optimizer, range(3))
        if evaluates:
            with torch.no_grad():
                loss_of(model, batch(9))
            assert not all(isinstance(p, DTensor) for p in model.parameters())
        facts = actor.facts()
        grow(actor, deepen(how="stack", add=1))
        if evaluates:
            with torch.no_grad():
                loss_of(model, batch(9))
        actor.transact(boundary(4, held=[freeze("emb*")]), accept)
        train(model, optimizer, range(3, 6))
        results.append((weights(model), facts))
    assert furthest(results[0][0], results[1][0]) == 0.0
    assert results[0][1] == results[1][1]
    return results[0][1].params, dict(results[0][1].costs)


def an_update_is_rehearsed():
    found = []
    for action in (deepen(how="stack", add=1), deepen(how="stack", add=1, probe="train")):
        model, optimizer, actor = made(sharded())
        train(model, optimizer, range(3))
        grow(actor, action)
        train(model, optimizer, range(3, 5))
        found.append({**weights(model), **moments(model, optimizer)})
    assert furthest(*found) == 0.0


def who_steps_in_the_backward_pass_does_not_step_in_a_look():
    model = sharded()
    optimizers = {p: SGD([p], lr=0.01) for p in model.parameters()}
    steps = []

    def step(parameter):
        steps.append(parameter)
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    _, _, actor = made(model, list(optimizers.values()))
    loss_of(model, batch(0)).backward()
    assert len(steps) == len(optimizers)
    before = weights(model)
    grow(actor, deepen(how="stack", add=1))
    assert len(steps) == len(optimizers)
    now = weights(model)
    assert all(torch.equal(before[name], now[name]) for name in before)


def dropout_differs_and_ranks_stay_in_step():
    model, optimizer, actor = made(sharded(dropout=0.3))
    torch.manual_seed(distributed.get_rank())
    train(model, optimizer, range(3))
    drawn = torch.get_rng_state()
    grow(actor, deepen(how="stack", add=1))
    assert torch.equal(drawn, torch.get_rng_state())
    train(model, optimizer, range(3, 5))
    is_joined(model, optimizer)


def begun_anew_and_noisy():
    found = []
    for fields in ({"how": "random"}, {"how": "stack", "noise": 0.1}):
        first, second = pair()
        for one in (first, second):
            grow(one[2], deepen(add=1, **fields))
        found.append(distance(first, second))
        go_on(first, second, range(3, 5))
        found.append(distance(first, second))
    return max(found)


def shared_over_blocks_is_refused():
    model = Model()
    model.blocks[1].gain = model.blocks[0].gain
    fully_shard(model, mesh=mesh())
    _, _, actor = made(model)
    with pytest.raises(ActionError, match=r"'gain' is shared with the rest of the model, and sh"):
        grow(actor, deepen(add=1))
