import json

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stagegraph.actions import TorchActor
from stagegraph.engine.ports import Actor, Selected
from stagegraph.errors import ActionError, UnsupportedError
from stagegraph.schema.actions import Widen
from tests.actions.models import (
    Block,
    Counting,
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
    effect,
    freeze,
    growth,
    lr_factor,
    train,
)


def made(model=None, **options):
    model = model or Model()
    optimizer = AdamW(model.parameters(), lr=0.01)
    return model, optimizer, TorchActor(model, optimizer, probe=batch(), **options)


def grown(**options):
    model, optimizer, actor = made(**options)
    outcome = actor.transact(boundary(deeds=[growth()]), accept)
    return model, optimizer, actor, outcome.evidence["main:grow.actions[0]"]


def test_it_is_an_actor():
    _, _, actor = made()
    filled: Actor = actor
    assert filled.facts().params == sum(p.numel() for p in Model().parameters())


def test_a_growth_keeps_the_function_and_says_so():
    model, _, actor = made()
    x = batch()
    model.eval()
    before = model(x)
    model.train()
    outcome = actor.transact(boundary(deeds=[growth()]), accept)
    model.eval()
    assert torch.equal(model(x), before)
    evidence = outcome.evidence["main:grow.actions[0]"]
    assert evidence["change"] == {"eval": 0.0, "train": 0.0, "alpha_1": 0.0}
    assert evidence["exactness"] == evidence["exactness_at_alpha_1"] == "exact"
    assert evidence["blocks"] == {"before": 2, "after": 4} and len(model.blocks) == 4
    assert evidence["zeroed"] == ["fc2.weight", "fc2.bias", "o.weight", "o.bias"]
    assert (evidence["promise"], evidence["symmetry"], evidence["state"]) == (
        "exact",
        "none",
        "fresh",
    )
    assert json.loads(json.dumps(evidence)) == evidence


def test_params_and_costs_are_counted():
    model = Model()
    actor = TorchActor(
        model,
        SGD(model.parameters(), lr=0.1),
        {
            "main:grow": (deepen(),),
            "main:twice": (deepen(add=1), deepen(add=None, factor=2)),
            "main:full": (deepen(add=None, to=2),),
            "main:widen": (Widen(type="widen", space="mlp", add=1),),
        },
        probe=batch(),
    )
    one = sum(p.numel() for p in Block().parameters())
    assert actor.facts().costs == {"main:grow": 2 * one, "main:twice": one + 3 * one}
    before = actor.facts().params
    outcome = actor.transact(boundary(deeds=[growth()]), accept)
    assert outcome.facts.params == before + 2 * one == actor.facts().params


def test_a_growth_leaves_no_trace_beside_itself():
    model, optimizer, actor = made()
    train(model, optimizer, 2)
    old = {name: (id(m), m.training) for name, m in model.named_modules()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    weights = [p.detach().clone() for p in model.parameters()]
    state, numbers = {p: dict(s) for p, s in optimizer.state.items()}, torch.get_rng_state()
    survivors = list(model.parameters())
    actor.transact(boundary(deeds=[growth()]), accept)
    assert {n: old[n] for n in old} == {
        n: (id(m), m.training) for n, m in model.named_modules() if n in old
    }
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    assert all(torch.equal(p, w) for p, w in zip(survivors, weights, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert {p: dict(s) for p, s in optimizer.state.items()}.keys() == state.keys()
    assert all(optimizer.state[p][k] is v for p, s in state.items() for k, v in s.items())
    assert torch.equal(numbers, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_new_blocks_are_trained():
    model, optimizer, _, _ = grown()
    train(model, optimizer, 2)
    assert model.blocks[3].fc2.weight.any()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.9**s),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
        lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 8),
    ],
)
def test_schedulers_go_on_after_a_growth(scheduler):
    def rates(*, grows):
        model, optimizer, actor = made()
        made_scheduler = scheduler(optimizer)
        seen = []
        for step in range(8):
            if grows and step == 3:
                actor.transact(boundary(3, deeds=[growth()]), accept)
            train(model, optimizer, 1, scheduler=made_scheduler)
            seen.append([group["lr"] for group in optimizer.param_groups])
        return seen

    assert rates(grows=True) == rates(grows=False)


def test_alpha_runs_from_zero_to_a_folded_gate():
    model, _, actor = made()
    place = "main:warmup.during[0]"
    start = boundary(deeds=[growth()], held=[alpha_ramp()], alphas={"main:grow#1": 0.0})
    actor.transact(start, accept)
    assert actor.state_dict()["alphas"] == {"blocks.g1-0": 0.0, "blocks.g1-1": 0.0}
    actor.tune({place: 0.5})
    assert set(actor.state_dict()["alphas"].values()) == {0.5}
    actor.transact(boundary(1, alphas={"main:grow#1": 1.0}), accept)
    assert actor.state_dict()["alphas"] == {}
    assert not any(block._forward_hooks for block in model.blocks)


def test_a_stacked_growth_is_approximate_and_exact_behind_its_gate():
    model, _, actor = made()
    deed = growth(deepen(how="stack"))
    outcome = actor.transact(
        boundary(deeds=[deed], held=[alpha_ramp()], alphas={"main:grow#1": 0.0}), accept
    )
    evidence = outcome.evidence[deed.place]
    assert evidence["exactness"] == "exact" and evidence["change"]["train"] == 0.0
    assert (
        evidence["exactness_at_alpha_1"] == "approximate" and evidence["change"]["alpha_1"] > 0.01
    )
    assert torch.equal(model.blocks[2].fc1.weight, model.blocks[0].fc1.weight)
    assert evidence["zeroed"] == []


def test_new_blocks_go_between_and_old_ones_stay_the_same_objects():
    model, optimizer, actor = made()
    old = list(model.blocks)
    outcome = actor.transact(boundary(deeds=[growth(deepen(at="spread"))]), accept)
    assert [model.blocks[0], model.blocks[2]] == old
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]
    assert outcome.evidence["main:grow.actions[0]"]["inserted"] == [
        {"at": 1, "copy_of": "0", "label": "g1-0"},
        {"at": 3, "copy_of": "1", "label": "g1-1"},
    ]


def test_two_growths_of_one_boundary_are_one_cohort():
    _, _, actor = made()
    deeds = [growth(deepen(add=1)), growth(deepen(add=1), place="main:grow.actions[1]")]
    actor.transact(boundary(deeds=deeds, held=[alpha_ramp()], alphas={"main:grow#1": 0.0}), accept)
    assert actor.state_dict()["alphas"] == {"blocks.g1-0": 0.0, "blocks.g2-0": 0.0}


def test_a_cohorts_learning_rate_and_freeze():
    model, optimizer, actor = made()
    held = [lr_factor(0.0, cohorts=("main:grow#1",)), freeze("inp", "bn", norms="eval")]
    actor.transact(boundary(deeds=[growth()], held=held), accept)
    new, frozen = model.blocks[3].fc2.weight, model.inp.weight.detach().clone()
    mean, old = model.bn.running_mean.clone(), model.blocks[0].fc2.weight.detach().clone()
    train(model, optimizer, 3)
    assert not new.any() and torch.equal(model.inp.weight, frozen)
    assert torch.equal(model.bn.running_mean, mean)
    assert not torch.equal(model.blocks[0].fc2.weight, old)
    actor.transact(boundary(3), accept)
    train(model, optimizer, 1)
    assert new.any() and not torch.equal(model.inp.weight, frozen)
    assert not torch.equal(model.bn.running_mean, mean)


def test_copies_of_frozen_blocks_are_trained_if_only_an_activity_froze_them():
    model, _, actor = made()
    model.blocks[1].ln1.weight.requires_grad_(False)
    actor.transact(boundary(held=[freeze("blocks.1")]), accept)
    actor.transact(boundary(1, deeds=[growth()], held=[freeze("blocks.1")]), accept)
    assert not model.blocks[1].fc1.weight.requires_grad
    assert model.blocks[2].fc1.weight.requires_grad
    assert not model.blocks[2].ln1.weight.requires_grad


def test_counts_and_numbers_follow():
    model, _, actor = made(Counting())
    action = deepen(count=("config.num_hidden_layers", "config.layer_types"))
    outcome = actor.transact(boundary(deeds=[growth(action)]), accept)
    assert model.config.num_hidden_layers == 4 and model.config.layer_types == ["full"] * 4
    assert [block.layer_idx for block in model.blocks] == [0, 1, 2, 3]
    evidence = outcome.evidence["main:grow.actions[0]"]
    assert evidence["counts"] == {"config.num_hidden_layers": [2, 4], "config.layer_types": [2, 4]}
    assert evidence["renumbered"] == ["layer_idx"]


def test_a_count_that_was_forgotten_is_named():
    model, optimizer, actor = made(Counting())
    before = digest(model, optimizer)
    with pytest.raises(
        ActionError,
        match=r"^main:grow\.actions\[0\]: 'config\.num_hidden_layers', 'config\.layer_types' seems "
        r"to count the 2 blocks of 'blocks'.*"
        r"write count: \[config\.num_hidden_layers, config\.layer_types\]",
    ):
        actor.transact(boundary(deeds=[growth()]), accept)
    assert digest(model, optimizer) == before


def test_a_new_block_that_the_models_loop_passes_by_is_refused():
    class Sly(Model):
        def forward(self, x):
            x = self.inp(x)
            for block in self.blocks[:2]:
                x = block(x)
            return self.head(self.bn(x.mean(1)))

    model, optimizer, actor = made(Sly())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"the new blocks blocks\.g1-0, blocks\.g1-1 did not run"):
        actor.transact(boundary(deeds=[growth()]), accept)
    assert digest(model, optimizer) == before


def test_blocks_that_change_their_input_in_place_cannot_be_blended():
    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = torch.nn.Linear(8, 8)

        def forward(self, x):
            x += self.f(x.clone())
            return x

    model, optimizer, actor = made(Model(block=InPlace))
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"with alpha 0 the new blocks still change the output"):
        actor.transact(
            boundary(deeds=[growth(deepen(how="stack"))], alphas={"main:grow#1": 0.0}), accept
        )
    assert digest(model, optimizer) == before
    actor.transact(boundary(deeds=[growth(deepen())]), accept)


def test_a_new_block_without_gradient_is_refused():
    class Cut(Model):
        def forward(self, x):
            x = self.inp(x)
            for block in self.blocks:
                x = block(x.detach()) if len(self.blocks) > 2 else block(x)
            return self.head(x.mean(1).detach())

    _, _, actor = made(Cut())
    with pytest.raises(
        ActionError, match=r"blocks\.g1-0, blocks\.g1-1 get no gradient on the probe"
    ):
        actor.transact(boundary(deeds=[growth()]), accept)


def test_an_identity_that_the_model_does_not_keep_is_refused():
    class Averaging(Model):
        def forward(self, x):
            x = self.inp(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1)) / len(self.blocks)

    model, optimizer, actor = made(Averaging())
    before = digest(model, optimizer)
    with pytest.raises(
        ActionError, match=r"in eval mode the output on the probe changed by [\d.e-]+ \(zeroed: fc2"
    ):
        actor.transact(boundary(deeds=[growth()]), accept)
    assert digest(model, optimizer) == before


def test_a_growth_whose_output_is_not_finite_is_refused():
    class Broken(Model):
        def forward(self, x):
            return super().forward(x) / (len(self.blocks) == 2)

    _, _, actor = made(Broken())
    with pytest.raises(
        ActionError, match="in eval and train mode the grown model's output on the probe is not"
    ):
        actor.transact(boundary(deeds=[growth(deepen(how="stack"))]), accept)


def test_templates_that_nobody_trains_are_refused():
    model = Model()
    actor = TorchActor(model, SGD(model.head.parameters(), lr=0.1), probe=batch())
    with pytest.raises(
        ActionError, match=r"28 new parameters would never be trained: they are made"
    ):
        actor.transact(boundary(deeds=[growth()]), accept)
    for p in model.blocks.parameters():
        p.requires_grad_(False)
    with pytest.raises(ActionError, match=r"what would grow is frozen by its owner"):
        actor.transact(boundary(deeds=[growth()]), accept)
    assert len(model.blocks) == 2


def test_two_runs_with_and_without_growth_draw_the_same_numbers():
    def after(*, grows):
        torch.manual_seed(3)
        _, _, actor = made()
        if grows:
            actor.transact(boundary(deeds=[growth()]), accept)
        return torch.rand(3)

    assert torch.equal(after(grows=True), after(grows=False))


def test_confirm_sees_the_outcome_and_can_still_refuse():
    model, optimizer, actor = made()
    before, seen = digest(model, optimizer), []

    def refuse(outcome):
        seen.append((outcome.facts.params, len(model.blocks)))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        actor.transact(
            boundary(
                deeds=[growth()], held=[alpha_ramp(), freeze("inp")], alphas={"main:grow#1": 0.0}
            ),
            refuse,
        )
    assert [blocks for _, blocks in seen] == [4]
    assert digest(model, optimizer) == before
    assert actor.state_dict()["lineage"] == [] and actor.facts().params < seen[0][0]


def test_averaged_weights_grow_along():
    model = Model()
    optimizer = SGD(model.parameters(), lr=0.01)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    actor = TorchActor(model, optimizer, ema=ema, probe=batch())
    train(model, optimizer, 2)
    ema.update_parameters(model)
    kept = [p.detach().clone() for p in ema.module.blocks[1].parameters()]
    actor.transact(boundary(deeds=[growth(deepen(at="spread"))]), accept)
    assert [id(b) for b in ema.module.blocks] and len(ema.module.blocks) == 4
    assert all(
        torch.equal(a, b) for a, b in zip(kept, ema.module.blocks[2].parameters(), strict=True)
    )
    for at in (1, 3):
        for a, b in zip(
            model.blocks[at].parameters(), ema.module.blocks[at].parameters(), strict=True
        ):
            assert torch.equal(a, b) and a is not b
    train(model, optimizer, 1)
    ema.update_parameters(model)


def test_a_compiled_model_is_the_users_model():
    model = Model()
    compiled = torch.compile(model, backend="eager")
    actor = TorchActor(compiled, SGD(model.parameters(), lr=0.1), probe=batch())
    actor.transact(boundary(deeds=[growth()], held=[lr_factor(0.5, "blocks.*")]), accept)
    assert len(model.blocks) == 4 and compiled(batch()).shape == (5, 3)


def test_compiled_code_trains_what_is_unfrozen_and_stays_compiled():
    """Torch stops to compile at eight variants, and before 2.12 saw no change of requires_grad."""
    from torch._dynamo.testing import CompileCounterWithBackend

    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(10)))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    actor = TorchActor(compiled, SGD(model.parameters(), lr=0.1))

    def trained():
        model.zero_grad()
        compiled(torch.ones(2, 4)).sum().backward()
        return {at for at, layer in enumerate(model) if layer.weight.grad is not None}

    for step, lowest in enumerate(range(9, 0, -1)):  # from the top down
        below = [str(at) for at in range(lowest)]
        actor.transact(boundary(step, held=[freeze(*below)]), accept)
        assert trained() == trained() == set(range(lowest, 10))
    assert counter.frame_count == 9
    actor.close()
    assert trained() == trained() == set(range(10))
    assert counter.frame_count == 10


def compiled_whole(model):
    model.compile(backend="eager")


def compiled_in_parts(model):
    for block in model.blocks:
        block.compile(backend="eager")


def compiled_in_its_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("how", [compiled_whole, compiled_in_parts, compiled_in_its_forward])
@pytest.mark.parametrize("trains", [True, False])
def test_what_is_compiled_in_place_is_measured_as_it_is_written(how, trains):
    """Compiled code, once it is there, passes over the hooks that growth is measured by."""
    model = Model()
    how(model)
    optimizer = SGD(model.parameters(), lr=0.1)
    actor = TorchActor(model, optimizer, probe=batch())
    model.train(trains)
    with torch.set_grad_enabled(trains):
        model(batch())
    actor.transact(boundary(deeds=[growth(deepen(at="spread"))]), accept)
    assert len(model.blocks) == 4
    train(model, optimizer, 1)
    actor.transact(boundary(1, deeds=[growth(cohort="main:grow#2")]), accept)
    assert len(model.blocks) == 6


def test_a_compiler_that_has_compiled_nothing_is_left_alone(monkeypatch):
    """Others import it; where there is CUDA, its reset takes seconds."""
    import torch._dynamo

    torch.compiler.reset()
    told = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: told.append("reset"))
    model = Model()
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1), probe=batch())
    actor.transact(boundary(deeds=[growth()]), accept)
    assert told == []
    torch.compile(model, backend="eager")(batch())
    actor.transact(boundary(1, deeds=[growth(cohort="main:grow#2")]), accept)
    assert told == ["reset"]


def test_the_probe_may_be_a_batch_in_any_form_or_a_function():
    class Out(dict):
        pass

    class Wrapped(Model):
        def forward(self, x, scale=1.0):
            return Out(loss=None, logits=super().forward(x) * scale)

    x = batch()
    for probe in ((x,), [x, 2.0], {"x": x, "scale": 2.0}, lambda m: m(x)["logits"]):
        model = Wrapped()
        actor = TorchActor(model, SGD(model.parameters(), lr=0.1), probe=probe)
        actor.transact(boundary(deeds=[growth()]), accept)


def test_closing_leaves_no_hook_and_nothing_frozen():
    model, optimizer, actor = made()
    held = [alpha_ramp(), freeze("inp", "bn", norms="eval"), lr_factor(0.5)]
    actor.transact(boundary(deeds=[growth()], held=held, alphas={"main:grow#1": 0.0}), accept)
    actor.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks


def test_tuning_what_is_not_held_is_refused():
    _, _, actor = made()
    actor.transact(boundary(held=[lr_factor(0.5, place="main:a.during[0]")]), accept)
    with pytest.raises(
        UnsupportedError, match=r"no activity 'main:a\.during\[1\]' is in force; did you mean"
    ):
        actor.tune({"main:a.during[1]": 0.1})


def test_a_selection_that_matches_nothing_undoes_the_boundary():
    model, optimizer, actor = made()
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"main:warmup\.during\[2\]: 'inpt' matches no parameter"):
        actor.transact(boundary(deeds=[growth()], held=[freeze("inpt")]), accept)
    assert digest(model, optimizer) == before


def test_alpha_for_what_never_grew_is_refused():
    _, _, actor = made()
    with pytest.raises(ActionError, match=r"alpha 0\.5 is for 'main:grow#9', which nothing grew"):
        actor.transact(boundary(alphas={"main:grow#9": 0.5}), accept)


def test_a_name_taken_over_leaves_the_older_blocks_alone():
    _, _, actor = made()
    actor.transact(boundary(deeds=[growth(cohort="deep")], alphas={"deep": 0.5}), accept)
    outcome = actor.transact(
        boundary(9, deeds=[growth(cohort="deep")], alphas={"deep": 0.0}), accept
    )
    assert outcome.evidence["main:grow.actions[0]"]["took_over"] == [0]
    assert actor.state_dict()["alphas"] == {
        "blocks.g1-0": 0.5,
        "blocks.g1-1": 0.5,
        "blocks.g2-0": 0.0,
        "blocks.g2-1": 0.0,
    }


def test_an_effect_over_nothing_is_refused():
    model = Model()
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1))
    empty = effect("main:a.during[0]", Selected(), 0.5, type="lr_factor", factor=0.5)
    with pytest.raises(ActionError, match=r"main:a\.during\[0\]: nothing is selected: no growth"):
        actor.transact(boundary(held=[empty]), accept)


def test_hooks_of_the_user_are_left_out_and_said():
    model, _, actor = made()
    model.blocks[1].fc1.register_forward_hook(lambda *_: None)
    held = [freeze("blocks", norms="eval")]
    outcome = actor.transact(boundary(deeds=[growth()], held=held), accept)
    assert outcome.evidence["main:grow.actions[0]"]["hooks_left_out"] == ["blocks.1.fc1"]
    assert not model.blocks[2].fc1._forward_hooks


def test_two_engines_do_not_both_scale_one_optimizer():
    model = Model()
    optimizer = SGD(model.parameters(), lr=0.1)
    first = TorchActor(model, [optimizer, optimizer])
    first.transact(boundary(held=[lr_factor(0.5)]), accept)
    with pytest.raises(UnsupportedError, match="SGD is under the learning-rate factors of"):
        TorchActor(model, optimizer)
    first.close()
    TorchActor(model, optimizer)


def test_seconds_and_rows_of_state_are_json():
    _, _, actor, evidence = grown()
    assert evidence["seconds"] > 0
    assert json.loads(json.dumps(actor.state_dict())) == actor.state_dict()
