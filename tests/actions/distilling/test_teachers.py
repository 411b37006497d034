"""Teachers: they compute what the model computed, and leave no trace."""

import io
import math

import pytest
import torch
from torch import nn

from stagegraph.actions import TorchActor
from stagegraph.actions.copying import copy_model
from stagegraph.actions.distilling.teachers import Teacher, make
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.randomness import RandomState
from stagegraph.engine.ports import Deed
from stagegraph.errors import ActionError, SnapshotError, UnsupportedError
from stagegraph.schema.actions import TeacherAction
from tests.actions.models import (
    Counting,
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

COUNTS = ("config.num_hidden_layers", "config.layer_types")


def teach(key="teacher:old@0.0", name="old", place="main:train.actions[0]"):
    return Deed(place, TeacherAction(type="teacher", name=name), None, None, 7, key)


def made(model, **more):
    given = {"name": "old", "lineage": Lineage(), "alphas": {}, "probe": None, "place": "here"}
    return make(model, **{**given, **more})[0]


def evaluated(model, x):
    mode = model.training
    with torch.no_grad():
        out = model.eval()(x)
    model.train(mode)
    return out


def grown(*, deeds=(), alpha=0.4):
    """A model with a growth half blended in, its actor, and its optimizer."""
    model = Counting()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=batch())
    train(model, optimizer, 2)
    deed = growth(deepen(at="spread", count=COUNTS))
    held = [alpha_ramp(value=alpha)]
    actor.transact(
        boundary(3, deeds=[*deeds, deed], held=held, alphas={"main:grow#1": alpha}), accept
    )
    train(model, optimizer, 2)
    return model, optimizer, actor


def packed(actor):
    file = io.BytesIO()
    torch.save(actor.snapshots(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def teachers(actor):
    return actor._standing.teachers


def test_a_teacher_computes_what_the_model_computed_bit_for_bit():
    model, optimizer, actor = grown()
    actor.transact(boundary(5, deeds=[teach()], held=[alpha_ramp(value=0.4)]), accept)
    x = batch(9)
    expected = evaluated(model, x)
    train(model, optimizer, 3)
    assert not torch.equal(evaluated(model, x), expected)
    (teacher,) = teachers(actor).values()
    assert torch.equal(teacher.run(x), expected)
    assert teacher.alphas == {"blocks.g1-0": pytest.approx(0.4), "blocks.g1-1": pytest.approx(0.4)}


def test_a_teacher_of_a_boundary_is_of_before_its_growth():
    torch.manual_seed(1)
    model, _, actor = grown(deeds=[teach()])
    (teacher,) = teachers(actor).values()
    assert len(teacher.module.blocks) == 2
    assert teacher.module.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4
    assert teacher.run(batch()).shape == evaluated(model, batch()).shape


def test_making_a_teacher_changes_nothing_of_the_model():
    model, optimizer, actor = grown()
    before = digest(model, optimizer)
    actor.transact(boundary(5, deeds=[teach()], held=[alpha_ramp(value=0.4)]), accept)
    after = digest(model, optimizer)
    assert after == before


def test_a_teacher_shares_nothing_with_the_model_and_learns_nothing():
    model, _, actor = grown(deeds=[teach()])
    (teacher,) = teachers(actor).values()
    mine = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not mine & {
        t.data_ptr() for t in (*teacher.module.parameters(), *teacher.module.buffers())
    }
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert not any(module.training for module in teacher.module.modules())


def test_a_frozen_factored_or_gated_model_has_a_teacher_without_those_hooks():
    model, _, _ = grown()
    assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in copy_model(model).modules())


def test_what_is_tied_in_the_model_is_tied_in_its_teacher():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    teacher = made(model)
    assert teacher.module[0].weight is teacher.module[1].weight


class Restless(nn.Module):
    """Draws random numbers, and moves a buffer in place and one by replacing it, in eval too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        self.seen += 1
        y = self.linear(x) + self.seen + self.last + 0 * torch.rand(3)
        self.last = y.detach().mean(0)
        return nn.functional.dropout(y, 0.5, training=self.training)


def test_a_teacher_draws_no_random_number_and_moves_no_buffer():
    teacher = made(Restless())
    x = torch.ones(2, 4)
    random, buffers = RandomState.capture(), [b.clone() for b in teacher.module.buffers()]
    first = teacher.run(x)
    second = teacher.run(x)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random.cpu)
    assert all(map(torch.equal, buffers, teacher.module.buffers()))


def test_batch_norm_of_a_teacher_stands_still():
    model = Model()
    teacher = made(model)
    x = batch(64) * 9
    before = evaluated(model, batch())
    teacher.run(x)
    assert torch.equal(teacher.run(batch()), before)
    assert int(teacher.module.bn.num_batches_tracked) == 0


def test_a_packed_teacher_is_rebuilt_from_a_model_that_has_grown_since():
    _, _, actor = grown(deeds=[teach()], alpha=1.0)
    (teacher,) = teachers(actor).values()
    state, tensors = actor.state_dict(), packed(actor)
    fresh = Counting()
    rebuilt = TorchActor(fresh, torch.optim.AdamW(fresh.parameters()), probe=batch())
    rebuilt.load_state_dict(state)
    before = digest(fresh)
    rebuilt.load_snapshots(tensors)
    (again,) = teachers(rebuilt).values()
    assert len(fresh.blocks) == 4
    assert len(again.module.blocks) == 2
    assert torch.equal(again.run(batch(9)), teacher.run(batch(9)))
    assert digest(fresh) == before


def test_a_packed_teacher_keeps_its_open_gates():
    model, _, actor = grown()
    actor.transact(boundary(5, deeds=[teach()], held=[alpha_ramp(value=0.4)]), accept)
    expected = evaluated(model, batch(9))
    state, tensors = actor.state_dict(), packed(actor)
    fresh = Counting()
    rebuilt = TorchActor(fresh, torch.optim.AdamW(fresh.parameters()), probe=batch())
    rebuilt.load_state_dict(state)
    rebuilt.load_snapshots(tensors)
    assert torch.equal(teachers(rebuilt)["teacher:old@0.0"].run(batch(9)), expected)


def test_a_teacher_of_a_model_that_has_not_grown_yet_is_refused():
    _, _, actor = grown()
    actor.transact(boundary(5, deeds=[teach()], held=[alpha_ramp(value=0.4)]), accept)
    fresh = TorchActor(Counting(), (), probe=batch())
    with pytest.raises(
        SnapshotError, match=r"through growths that this model has not; .* after load_state"
    ):
        fresh.load_snapshots(packed(actor))


def test_a_teacher_of_another_model_is_refused():
    tensors = made(nn.Linear(4, 3)).pack()
    with pytest.raises(SnapshotError, match=r"'weight' is \(3, 4\) float32, the model's \(2, 4\)"):
        Teacher.unpack(tensors, model=nn.Linear(4, 2), lineage=Lineage())
    with pytest.raises(SnapshotError, match="only the saved teacher has a parameter 'bias'"):
        Teacher.unpack(tensors, model=nn.Linear(4, 3, bias=False), lineage=Lineage())
    with pytest.raises(SnapshotError, match=r"cannot be read: KeyError\('alphas'\)"):
        Teacher.unpack({"lineage": []}, model=nn.Linear(4, 3), lineage=Lineage())


def test_a_boundary_that_fails_leaves_no_teacher():
    model = Model()
    actor = TorchActor(model, (), probe=batch())

    def refuse(_outcome):
        raise RuntimeError("the journal cannot be written")

    with pytest.raises(RuntimeError, match="journal"):
        actor.transact(boundary(0, deeds=[teach()]), refuse)
    assert not teachers(actor)
    actor.transact(boundary(0, deeds=[teach()]), accept)
    first = teachers(actor)["teacher:old@0.0"]
    with pytest.raises(RuntimeError, match="journal"):
        actor.transact(boundary(0, deeds=[teach()], forget=["teacher:old@0.0"]), refuse)
    assert teachers(actor) == {"teacher:old@0.0": first}


def test_a_forgotten_teacher_is_gone():
    actor = TorchActor(Model(), (), probe=batch())
    actor.transact(boundary(0, deeds=[teach()]), accept)
    actor.transact(boundary(3, deeds=[teach("b")], forget=["teacher:old@0.0"]), accept)
    assert list(teachers(actor)) == ["b"]


def test_a_hook_of_the_users_is_told_of_and_harmless_if_it_only_looks():
    model, seen = Model(), []
    model.head.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(ActionError, match=r"hooks of yours on head, .* give probe="):
        made(model)
    teacher, evidence = make(
        model, name="old", lineage=Lineage(), alphas={}, probe=batch(), place="here"
    )
    assert evidence == {
        "kind": "teacher",
        "teacher": "old",
        "params": sum(p.numel() for p in model.parameters()),
        "hooks_left_out": ["head"],
        "difference": 0.0,
    }
    count = len(seen)
    teacher.run(batch())
    assert len(seen) == count


def test_a_hook_of_the_users_that_takes_part_is_refused():
    model = Model()
    model.head.register_forward_hook(lambda _module, _args, out: out * 2)
    with pytest.raises(ActionError, match=r"here: in eval mode the copy does not .* hooks on head"):
        made(model, probe=batch())


def test_a_diverged_model_can_be_kept_all_the_same():
    model = Model()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    assert made(model, probe=batch()).run(batch()).isnan().all()


def test_a_model_that_cannot_be_copied_says_why():
    with pytest.raises(UnsupportedError, match="no shape yet"):
        made(nn.LazyLinear(3))
    model = nn.Linear(2, 2)
    model.kept = model.weight * 2
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        made(model)


def test_a_wrapped_model_is_refused_before_the_run():
    class DataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    actor = TorchActor(DataParallel(Model()), (), probe=batch())
    with pytest.raises(UnsupportedError, match="wrapped in DataParallel, of which no copy"):
        actor.require([("main:a.actions[0]", TeacherAction(type="teacher", name="old"))])
