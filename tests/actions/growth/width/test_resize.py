"""What a growth in width does beside the weights: state, scales, slices, and the ways back."""

import copy
import hashlib
import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Muon, RMSprop

from stagegraph.actions import TorchActor, replay
from stagegraph.actions.optimizing.optimizers import state_shapes
from stagegraph.engine.ports import Boundary, Deed, Restore, Selected
from stagegraph.errors import ActionError, UnsupportedError
from tests.actions.growth.wide import GPT, Gpt, actor, grow, ids, widen
from tests.actions.models import digest, effect, snapshot, values

F64 = torch.float64


def made(make=AdamW, *, dtype=F64, lr=0.01, device="cpu", **options):
    torch.manual_seed(1)
    model = Gpt().to(device, dtype)
    optimizer = make(model.parameters(), lr=lr, **options)
    return model, optimizer, actor(model, optimizer, GPT, ids().to(device))


def train(model, optimizers, steps, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    several = optimizers if isinstance(optimizers, list) else [optimizers]
    for _ in range(steps):
        batch = torch.randint(0, 11, (4, 5), generator=generator).to(model.pos.device)
        for optimizer in several:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten()).backward()
        for optimizer in several:
            optimizer.step()


OPTIMIZERS = {
    "sgd": (SGD, {"momentum": 0.9}),
    "adam": (Adam, {}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {"foreach": False}),
    "foreach": (AdamW, {"foreach": True}),
    "fused": (AdamW, {"fused": True}),
    "rmsprop": (RMSprop, {"centered": True}),
    "adagrad": (Adagrad, {}),
    "adafactor": (torch.optim.Adafactor, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "how"), [(torch.float32, "split"), (F64, "zero_in")])
def test_state_grows_with_its_parameter_and_the_next_steps_work(name, dtype, how):
    make, options = OPTIMIZERS[name]
    model, optimizer, standing = made(make, dtype=dtype, **options)
    train(model, optimizer, 2)
    grow(standing, widen(space=["stream", "mlp"], factor=2, how=how))
    if name != "adafactor":
        assert all(state == shape for state, shape in state_shapes([optimizer]).values())
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 2)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "foreach", "fused"])
@pytest.mark.parametrize("spaces", [["mlp"], ["groups"], ["stream"], ["mlp", "groups", "stream"]])
def test_with_scales_kept_the_grown_model_trains_on_as_the_small_one(name, spaces):
    make, options = OPTIMIZERS[name]
    model, optimizer, standing = made(make, weight_decay=0.1, **options)
    train(model, optimizer, 3)
    small = copy.deepcopy(model)
    twin = make(small.parameters(), lr=0.01, weight_decay=0.1, **options)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    certificate = grow(standing, widen(space=spaces, factor=2, scales="keep"))
    assert certificate["state"]["scales"] == "kept for good"
    for one, other in ((model, optimizer), (small, twin)):
        train(one, other, 25, seed=5)
    torch.testing.assert_close(model(ids()), small(ids()), rtol=0, atol=1e-9)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_without_scales_it_does_not():
    model, optimizer, standing = made()
    train(model, optimizer, 3)
    small = copy.deepcopy(model)
    twin = AdamW(small.parameters(), lr=0.01)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    grow(standing, widen(space="mlp", factor=2))
    for one, other in ((model, optimizer), (small, twin)):
        train(one, other, 5, seed=5)
    assert (model(ids()) - small(ids())).abs().max() > 1e-4


def test_scales_survive_a_save_and_are_undone_by_a_rollback():
    model, _, standing = made()
    standing.transact(Boundary(0, None, (snapshot(),), (), {}), lambda _: None)
    grow(standing, widen(space="mlp", factor=2, scales="keep"), step=1)
    fc = model.blocks[0]["up"].weight
    kept = standing._standing.rates.lasting_scales
    assert kept[id(model.blocks[0]["down"].weight)].lr == 0.5
    state = json.loads(json.dumps(standing.state_dict()))
    other, _, fresh = made()
    fresh.load_state_dict(state)
    names = {id(p): n for n, p in model.named_parameters()}
    others = {id(p): n for n, p in other.named_parameters()}
    again = fresh._standing.rates.lasting_scales
    assert {names[k]: v for k, v in kept.items()} == {others[k]: v for k, v in again.items()}
    back = Restore("undo", "before@0", False, None, None)
    standing.transact(Boundary(2, back, (), (), {}), lambda _: None)
    assert standing._standing.rates.lasting_scales == {}
    assert fc.shape == (10, 8)


def test_asymmetric_copies_have_no_moments_but_the_first():
    model, optimizer, standing = made()
    train(model, optimizer, 3)
    grow(standing, widen(space="mlp", factor=2, copies="asymmetric"))
    moments = optimizer.state[model.blocks[0]["up"].weight]["exp_avg"]
    assert bool(moments[:10].any()) and not bool(moments[10:].any())


def test_muon_and_adamw_side_by_side():
    torch.manual_seed(1)
    model = Gpt(tied=False).double()
    matrices = [p for n, p in model.blocks.named_parameters() if p.dim() == 2]
    taken = {id(p) for p in matrices}
    several = [
        Muon(matrices, lr=0.01),
        AdamW([p for p in model.parameters() if id(p) not in taken], lr=0.01),
    ]
    standing = TorchActor(model, several, spaces=GPT, probe=ids())
    train(model, several, 2)
    grow(standing, widen(space=["mlp", "stream"], factor=2))
    train(model, several, 2)
    assert several[0].state[model.blocks[0]["up"].weight]["momentum_buffer"].shape == (20, 16)


def test_a_loss_that_is_still_held_does_not_stand_in_the_way():
    """Its graph keeps what autograd knows of the old shapes."""
    model, optimizer, standing = made()
    kept = model(ids()).pow(2).sum()
    kept.backward()
    seen = []
    weight = model.blocks[0]["up"].weight
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    grow(standing, widen(space="mlp", factor=2))
    train(model, optimizer, 1)
    assert seen[-1] == (20, 8)
    held = model(ids()).pow(2).sum()
    with pytest.raises(ActionError, match="there are 20 already"):
        grow(standing, widen(space="mlp", to=20), step=1)
    held.backward()


# What is new inside of tensors


def lr_ramp(value, cohort="wider"):
    of = Selected(cohorts=(cohort,))
    return effect("w.during[0]", of, value, type="lr_ramp", start=0, end=1, over="10 steps")


@pytest.mark.parametrize("kind", ["lr_ramp", "freeze"])
def test_what_is_new_can_be_held_still_alone(kind):
    model, optimizer, standing = made()
    train(model, optimizer, 2)
    grow(standing, widen(space="mlp", how="zero_out", add=4))
    of = Selected(cohorts=("wider",))
    held = lr_ramp(0.0) if kind == "lr_ramp" else effect("w.during[0]", of, type="freeze")
    standing.transact(Boundary(1, None, (), (held,), {}), lambda _: None)
    up, down = model.blocks[0]["up"].weight, model.blocks[0]["down"].weight
    before = up.detach().clone(), down.detach().clone()
    train(model, optimizer, 2)
    assert torch.equal(up[10:], before[0][10:]) and torch.equal(down[:, 10:], before[1][:, 10:])
    assert not torch.equal(up[:10], before[0][:10])
    standing.transact(Boundary(2, None, (), (), {}), lambda _: None)
    train(model, optimizer, 1)
    assert not torch.equal(up[10:], before[0][10:])


def test_a_cohort_is_followed_through_later_growths_and_a_save():
    model, optimizer, standing = made()
    grow(standing, widen(space="mlp", how="zero_out", add=2), cohort="first")
    grow(standing, widen(space="mlp", how="zero_out", add=3), cohort="second", step=1)
    grow(standing, widen(space="stream", factor=2), cohort="third", step=2)
    held = lr_ramp(0.0, "first")
    other, other_optimizer, fresh = made()
    fresh.load_state_dict(json.loads(json.dumps(standing.state_dict())))
    other.load_state_dict(model.state_dict())
    for here, optim, one in ((model, optimizer, standing), (other, other_optimizer, fresh)):
        one.transact(Boundary(3, None, (), (held,), {}), lambda _: None)
        up = here.blocks[0]["up"].weight
        before = up.detach().clone()
        train(here, optim, 1)
        still = (up == before)[:, :8].all(1).tolist()  # the other columns are the third's
        assert still == [False] * 10 + [True] * 2 + [False] * 3


def test_alpha_has_nothing_to_blend_there():
    _, _, standing = made()
    grow(standing, widen(space="mlp", factor=2))
    with pytest.raises(
        ActionError, match="which added no block that could be blended in; ease it in with"
    ):
        standing.transact(Boundary(1, None, (), (), {"wider": 0.5}), lambda _: None)


def test_frozen_parameters_grow_too():
    model, _, standing = made()
    held = effect("w", Selected(globs=("blocks.*.up",)), type="freeze")
    standing.transact(Boundary(0, None, (), (held,), {}), lambda _: None)
    deed = Deed("p", widen(space="mlp", factor=2), "wider", None, 7)
    standing.transact(Boundary(1, None, (deed,), (held,), {}), lambda _: None)
    assert not model.blocks[0]["up"].weight.requires_grad
    assert model.blocks[0]["up"].weight.shape == (20, 8)
    standing.transact(Boundary(2, None, (), (), {}), lambda _: None)
    assert model.blocks[0]["up"].weight.requires_grad


# Ways back


def test_a_rollback_makes_it_small_again():
    model, optimizer, standing = made()
    train(model, optimizer, 2)
    standing.transact(Boundary(0, None, (snapshot(),), (), {}), lambda _: None)
    before, config = values(model, optimizer), model.blocks[0]["up"].out_features
    grow(standing, widen(space=["mlp", "stream"], factor=2), step=1)
    train(model, optimizer, 2)
    back = Restore("undo", "before@0", False, None, None)
    standing.transact(Boundary(2, back, (), (), {}), lambda _: None)
    assert values(model, optimizer) == before
    assert model.blocks[0]["up"].out_features == config
    train(model, optimizer, 1)


def test_a_failure_after_it_leaves_everything_as_it_was():
    model, optimizer, standing = made()
    train(model, optimizer, 2)
    before = digest(model, optimizer)

    def refuse(_outcome):
        raise RuntimeError("the disk is full")

    deed = Deed("p", widen(space=["mlp", "stream"], factor=2), "wider", None, 7)
    with pytest.raises(RuntimeError, match="disk is full"):
        standing.transact(Boundary(1, None, (deed,), (), {}), refuse)
    assert digest(model, optimizer) == before


def test_the_lineage_makes_the_structure_again():
    model, optimizer, standing = made()
    train(model, optimizer, 2)
    grow(standing, widen(space="mlp", how="uneven", add=3), cohort="a")
    grow(standing, widen(space="stream", factor=2), cohort="b", step=1)
    train(model, optimizer, 1)
    state = json.loads(json.dumps(standing.state_dict()))
    again, fresh, _ = made()
    random = torch.get_rng_state()
    replay(again, fresh, state["lineage"])
    assert torch.equal(torch.get_rng_state(), random)
    again.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, other in ((model, optimizer), (again, fresh)):
        train(one, other, 2, seed=9)
    assert values(again, fresh) == values(model, optimizer)
    assert again.head.weight is again.emb.weight
    assert again.last.normalized_shape == (16,)


def test_another_model_is_refused():
    _, _, standing = made()
    grow(standing, widen(space="mlp", add=3))
    lineage = standing.state_dict()["lineage"]
    other = Gpt()
    other.blocks[0]["up"] = nn.Linear(8, 11)
    with pytest.raises(UnsupportedError, match=r"'blocks.0.up.weight' had shape \(10, 8\), this"):
        replay(other, SGD(other.parameters()), lineage)


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.actions.growth.width.test_resize import grown_thrice
print(grown_thrice())
"""


def grown_thrice():
    """The digest of the weights after three growths."""
    model, optimizer, standing = made()
    train(model, optimizer, 2)
    ways = [("mlp", "uneven"), ("groups", "zero_out"), ("mlp", "zero_in")]
    for k, (space, how) in enumerate(ways):
        grow(standing, widen(space=space, how=how, add=2), cohort=str(k), step=k)
    train(model, optimizer, 1)
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(weights).hexdigest()


@pytest.mark.slow
def test_another_process_grows_alike_bit_for_bit(request):
    pytest.importorskip("numpy")
    root = str(request.config.rootpath)
    there = subprocess.run(
        [sys.executable, "-c", CHILD, root], capture_output=True, text=True, check=True
    ).stdout
    assert there.strip() == grown_thrice()
