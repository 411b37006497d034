import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler

from stagegraph.actions.optimizing.learning_rates import Factor, LearningRates
from stagegraph.actions.optimizing.scales import Scale
from stagegraph.errors import UnsupportedError


def parameters(num=3):
    return [nn.Parameter(torch.ones(2)) for _ in range(num)]


def give_gradients(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)


def everything(value):
    return [Factor("all", None)], {"all": value}


class Seeing(SGD):
    """SGD that remembers what learning rates it stepped with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    @torch.no_grad()
    def step(self, closure=None):
        self.seen.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.9**s),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.3, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def host_rates(make, *, factors, tensor_lr=False):
    ps = parameters()
    lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
    optimizer = Seeing([{"params": ps[:2]}, {"params": ps[2:]}], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    rates = LearningRates([optimizer])
    if factors:
        rates.hold(
            [Factor("a", frozenset({id(ps[0])})), Factor("b", None)],
            {"a": 0.5, "b": 0.25},
            lasting=1.0,
        )
    seen = []
    for _ in range(10):
        give_gradients(optimizer)
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    return seen, optimizer.seen


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_sees_its_own_values_only(name, tensor_lr):
    plain, stepped = host_rates(SCHEDULERS[name], factors=False, tensor_lr=tensor_lr)
    scaled, seen = host_rates(SCHEDULERS[name], factors=True, tensor_lr=tensor_lr)
    assert scaled == plain
    for host, effective in zip(stepped, seen, strict=True):
        first, second = host
        assert effective == pytest.approx([first * 0.125, first * 0.25, second * 0.25], rel=1e-12)


@pytest.mark.parametrize("how", ["for", "foreach", "fused"])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_factor_scales_the_update(kind, tensor_lr, how):
    def moved(factor, lr):
        torch.manual_seed(0)
        ps = parameters()
        rate = torch.tensor(lr) if tensor_lr else lr
        options = {} if how == "for" else {how: True}
        optimizer = kind(ps, lr=rate, weight_decay=0.0, **options)
        rates = LearningRates([optimizer])
        rates.hold(*everything(factor), lasting=1.0)
        for _ in range(3):
            give_gradients(optimizer)
            optimizer.step()
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(lr)
        if tensor_lr:
            assert optimizer.param_groups[0]["lr"] is rate
        return ps[0].detach()

    if kind is not SGD and tensor_lr and how == "foreach":
        pytest.skip("torch wants capturable for this")
    assert torch.allclose(moved(0.25, 0.4), moved(1.0, 0.1), rtol=0, atol=1e-7)


def test_a_group_with_different_factors_is_split_while_it_steps_only():
    ps = parameters(4)
    optimizer = Seeing(ps, lr=0.1, momentum=0.9)
    group, members = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    rates = LearningRates([optimizer])
    rates.hold([Factor("x", frozenset({id(ps[1]), id(ps[3])}))], {"x": 0.0}, lasting=1.0)
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[0.1, 0.0]]
    assert optimizer.param_groups == [group] and optimizer.param_groups[0] is group
    assert group["params"] is members and [id(p) for p in members] == [id(p) for p in ps]
    assert group["lr"] == 0.1
    assert [float(p.detach()[0]) for p in ps] == pytest.approx([0.9, 1.0, 0.9, 1.0])
    assert set(optimizer.state) == set(ps)


def test_split_groups_keep_their_names_in_step():
    model = nn.Linear(2, 2)
    optimizer = SGD(model.named_parameters(), lr=0.1)
    names = []
    optimizer.register_step_pre_hook(
        lambda o, *_: names.extend(group["param_names"] for group in o.param_groups)
    )
    rates = LearningRates([optimizer])
    rates.hold([Factor("x", frozenset({id(model.bias)}))], {"x": 0.5}, lasting=1.0)
    late = []
    optimizer.register_step_pre_hook(
        lambda o, *_: late.extend(group["param_names"] for group in o.param_groups)
    )
    give_gradients(optimizer)
    optimizer.step()
    assert names == [["weight", "bias"]] and late == [["weight"], ["bias"]]
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("call", ["positional", "named"])
def test_a_closure_sees_the_hosts_learning_rates(call):
    ps = parameters()
    optimizer = Seeing(ps, lr=0.1)
    rates = LearningRates([optimizer])
    rates.hold([Factor("x", frozenset({id(ps[0])}))], {"x": 0.5}, lasting=1.0)
    seen = []

    def closure():
        seen.append([(group["lr"], len(group["params"])) for group in optimizer.param_groups])
        give_gradients(optimizer)
        return torch.tensor(1.0)

    loss = optimizer.step(closure) if call == "positional" else optimizer.step(closure=closure)
    assert float(loss) == 1.0
    assert seen == [[(0.1, 3)]]
    assert [float(p.detach()[0]) for p in ps] == pytest.approx([0.95, 0.9, 0.9])


def test_a_scheduler_stepped_in_the_closure_is_heard():
    ps = parameters()
    optimizer = Seeing(ps, lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    LearningRates([optimizer]).hold(*everything(0.1), lasting=1.0)

    def closure():
        give_gradients(optimizer)
        return torch.tensor(1.0)

    optimizer.step(closure)
    scheduler.step()
    optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert float(ps[0].detach()[0]) == pytest.approx(1 - 0.01 - 0.005)


def test_a_failing_closure_leaves_the_hosts_learning_rates_at_once():
    optimizer = SGD(parameters(), lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.99)
    LearningRates([optimizer]).hold(*everything(0.3), lasting=1.0)
    give_gradients(optimizer)
    optimizer.step()

    def fails():
        raise RuntimeError("no data")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="no data"):
            optimizer.step(fails)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.99**3)


class Failing(SGD):
    fails = False

    @torch.no_grad()
    def step(self, closure=None):
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step(closure)


def test_a_raising_step_is_healed_before_the_next_one():
    ps = parameters()
    optimizer = Failing(ps, lr=0.1)
    rates = LearningRates([optimizer])
    rates.hold([Factor("x", frozenset({id(ps[0])}))], {"x": 0.5}, lasting=1.0)
    give_gradients(optimizer)
    optimizer.fails = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step()
    optimizer.fails = False
    optimizer.step()
    assert [float(p.detach()[0]) for p in ps] == pytest.approx([0.95, 0.9, 0.9])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


def test_a_raising_step_is_healed_on_demand():
    optimizer = Failing(parameters(), lr=0.1)
    rates = LearningRates([optimizer])
    rates.hold(*everything(0.5), lasting=1.0)
    optimizer.fails = True
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    rates.heal()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_written_onto_a_scaled_one_is_said():
    optimizer = Failing(parameters(), lr=0.1)
    rates = LearningRates([optimizer])
    rates.hold(*everything(0.5), lasting=1.0)
    optimizer.fails = True
    with pytest.raises(RuntimeError):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.07
    with pytest.warns(RuntimeWarning, match=r"Failing: the learning rate was written while"):
        rates.heal()
    assert optimizer.param_groups[0]["lr"] == 0.07


class Nested(Seeing):
    """Its step calls the step of its base class, whose hooks fire again."""

    @torch.no_grad()
    def step(self, closure=None):
        return super().step(closure)


def test_nested_steps_scale_once():
    ps = parameters()
    optimizer = Nested(ps, lr=0.3)
    Seeing(parameters(), lr=0.1), SGD(parameters(), lr=0.1)  # hooks their classes' step
    LearningRates([optimizer]).hold(*everything(0.3), lasting=1.0)
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[pytest.approx(0.09)]]
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert float(ps[0].detach()[0]) == pytest.approx(1 - 0.09)


def test_the_outer_step_restores_though_an_inner_one_failed():
    class Inner(Failing):
        @torch.no_grad()
        def step(self, closure=None):
            try:
                return super().step(closure)
            except RuntimeError:
                return None

    Failing(parameters(), lr=0.1)
    optimizer = Inner(parameters(), lr=0.1)
    LearningRates([optimizer]).hold(*everything(0.5), lasting=1.0)
    optimizer.fails = True
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_factors_multiply_with_each_other_and_the_lasting_one():
    ps = parameters(2)
    optimizer = Seeing(ps, lr=1.0)
    rates = LearningRates([optimizer])
    rates.hold(
        [Factor("a", None), Factor("b", frozenset({id(ps[0])}))], {"a": 0.5, "b": 0.5}, lasting=0.5
    )
    give_gradients(optimizer)
    optimizer.step()
    rates.tune("b", 1.0)
    optimizer.step()
    assert optimizer.seen == [[0.125, 0.25], [0.25]]


def test_nothing_is_touched_without_factors():
    optimizer = Seeing(parameters(), lr=0.1)
    rates = LearningRates([optimizer])
    lr = optimizer.param_groups[0]["lr"]
    give_gradients(optimizer)
    optimizer.step()
    assert not rates.active and optimizer.param_groups[0]["lr"] is lr


def test_factors_that_begin_while_a_step_runs_hold_for_that_step():
    optimizer = Seeing(parameters(), lr=0.1)
    rates = LearningRates([optimizer])
    optimizer.register_step_pre_hook(lambda *_: rates.hold(*everything(0.5), lasting=1.0))
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[0.05]] and optimizer.param_groups[0]["lr"] == 0.1


def test_a_group_added_later_is_under_factors_for_all():
    optimizer = Seeing(parameters(1), lr=0.1)
    LearningRates([optimizer]).hold(*everything(0.5), lasting=1.0)
    optimizer.add_param_group({"params": parameters(1), "lr": 0.2})
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[0.05, 0.1]]


class GroupMemory(SGD):
    """An optimizer that counts its steps, and keeps something of its rate, per group."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            if self.keeps_rate:
                group["highest"] = max(group.get("highest", 0.0), group["lr"])
        return super().step(closure)


def test_what_an_optimizer_keeps_per_group_survives_a_split():
    ps = parameters(2)
    optimizer = GroupMemory(ps, lr=0.1)
    optimizer.keeps_rate = False
    LearningRates([optimizer]).hold([Factor("x", frozenset({id(ps[0])}))], {"x": 0.5}, lasting=1.0)
    for _ in range(3):
        give_gradients(optimizer)
        optimizer.step()
    assert optimizer.param_groups[0]["k"] == 3


def test_what_differs_per_part_of_a_group_is_refused():
    ps = parameters(2)
    optimizer = GroupMemory(ps, lr=0.1)
    optimizer.keeps_rate = True
    LearningRates([optimizer]).hold([Factor("x", frozenset({id(ps[0])}))], {"x": 0.5}, lasting=1.0)
    give_gradients(optimizer)
    with pytest.raises(UnsupportedError, match=r"GroupMemory keeps 'highest' per parameter group"):
        optimizer.step()
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_grad_scaler_unscales_once_for_split_groups():
    ps = parameters(2)
    optimizer = SGD(ps, lr=0.1)
    LearningRates([optimizer]).hold([Factor("x", frozenset({id(ps[0])}))], {"x": 0.5}, lasting=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss = ps[0].sum() + ps[1].sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert [float(p.detach()[0]) for p in ps] == pytest.approx([0.95, 0.9])


def test_closing_takes_every_hook_away():
    optimizer = SGD(parameters(), lr=0.1)
    rates = LearningRates([optimizer])
    rates.hold(*everything(0.5), lasting=1.0)
    rates.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def stepped(optimizer, step=None):
    """By how much the first number of the first parameter goes down."""
    (first, *_) = optimizer.param_groups[0]["params"]
    give_gradients(optimizer)
    before = float(first.detach()[0])
    (step or optimizer.step)()
    return before - float(first.detach()[0])


def hooks_of(optimizer):
    return len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)


def test_hooks_are_off_while_nothing_is_in_force():
    optimizer = SGD(parameters(), lr=0.5)
    rates = LearningRates([optimizer])
    rates.hold([], {}, lasting=1.0)
    rates.rest()
    assert hooks_of(optimizer) == (1, 1)  # before the first step something may come in force in it
    assert stepped(optimizer) == 0.5
    rates.rest()
    assert hooks_of(optimizer) == (0, 0) and stepped(optimizer) == 0.5
    for put, back in (
        (lambda: rates.hold(*everything(0.5), lasting=1.0), lambda: rates.hold([], {}, lasting=1)),
        (lambda: setattr(rates, "batch", 0.5), lambda: setattr(rates, "batch", 1.0)),
        (lambda: setattr(rates, "lasting", 0.5), lambda: setattr(rates, "lasting", 1.0)),
    ):
        put()
        rates.rest()
        assert hooks_of(optimizer) == (1, 1) and stepped(optimizer) == 0.25
        back()
        rates.rest()
        assert hooks_of(optimizer) == (0, 0) and stepped(optimizer) == 0.5


def test_hooks_come_back_to_the_place_they_had():
    optimizer = SGD(parameters(), lr=0.5)
    seen = []

    def note(name):
        return lambda o, *_: seen.append((name, o.param_groups[0]["lr"]))

    optimizer.register_step_pre_hook(note("earlier"))
    rates = LearningRates([optimizer])
    optimizer.register_step_pre_hook(note("later"))
    optimizer.register_step_post_hook(note("over"))
    rates.hold([], {}, lasting=1.0)
    stepped(optimizer)
    rates.rest()
    stepped(optimizer)
    seen.clear()
    rates.hold(*everything(0.5), lasting=1.0)
    stepped(optimizer)
    assert seen == [("earlier", 0.5), ("later", 0.25), ("over", 0.5)]


def test_hooks_stay_where_boundaries_are_decided_in_a_closure():
    optimizer = SGD(parameters(), lr=0.5)
    rates = LearningRates([optimizer])
    rates.hold([], {}, lasting=1.0)
    factors = [everything(1.0), everything(0.5), everything(0.5), ([], {})]

    def closure():
        rates.hold(*factors.pop(0), lasting=1.0)
        rates.rest()

    assert [stepped(optimizer, lambda: optimizer.step(closure)) for _ in range(4)] == [
        *(0.5, 0.25, 0.25, 0.5)
    ]
    assert hooks_of(optimizer) == (1, 1)


def test_hooks_stay_where_boundaries_are_decided_in_another_hook():
    optimizer = SGD(parameters(), lr=0.5)
    rates = LearningRates([optimizer])
    rates.hold([], {}, lasting=1.0)
    factors = [everything(1.0), ([], {}), everything(0.5), ([], {})]

    def decide(*_):
        rates.hold(*factors.pop(0), lasting=1.0)
        rates.rest()

    seen = []
    optimizer.register_step_post_hook(decide)
    optimizer.register_step_post_hook(lambda *_: seen.append(len(factors)))
    assert [stepped(optimizer) for _ in range(4)] == [0.5, 0.5, 0.5, 0.25]
    assert seen == [3, 2, 1, 0] and hooks_of(optimizer) == (1, 3)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, as it compiles
def test_a_compiled_step_takes_factors_and_gives_them_back():
    optimizer = SGD(parameters(), lr=0.5)
    rates = LearningRates([optimizer])
    rates.hold([], {}, lasting=1.0)
    step = torch.compile(optimizer.step, backend="eager")
    taken = []
    for factors in (([], {}), everything(0.5), everything(0.25), ([], {})):
        rates.hold(*factors, lasting=1.0)
        for _ in range(2):
            taken.append((stepped(optimizer, step), optimizer.param_groups[0]["lr"]))
            rates.rest()
    torch.compiler.reset()
    assert taken == [(by, 0.5) for by in (0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.5, 0.5)]


def test_rmsprop_and_its_kin_take_factors_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ps = parameters()
        optimizer = RMSprop(ps, lr=0.1, momentum=0.5, centered=True)
        LearningRates([optimizer]).hold(*everything(0.5), lasting=1.0)
        give_gradients(optimizer)
        optimizer.step()


# Scales that last


class SeeingAll(AdamW):
    """AdamW that remembers all that a scale is on, per group."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    @torch.no_grad()
    def step(self, closure=None):
        self.seen.append([(g["lr"], g["eps"], g["weight_decay"]) for g in self.param_groups])
        return super().step(closure)


def test_lasting_scales_are_in_force_while_the_optimizer_steps_only():
    ps = parameters(2)
    optimizer = SeeingAll(ps, lr=1.0, eps=1e-8, weight_decay=0.5)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(lr=0.5, eps=0.25, weight_decay=2.0)}
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[(0.5, 0.25e-8, 1.0), (1.0, 1e-8, 0.5)]]
    (group,) = optimizer.param_groups
    assert group["params"] == ps
    assert (group["lr"], group["eps"], group["weight_decay"]) == (1.0, 1e-8, 0.5)


def test_a_lasting_scale_on_a_whole_group_needs_no_split():
    optimizer = SeeingAll(ps := parameters(2), lr=1.0, eps=1e-8, weight_decay=0.5)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(p): Scale(weight_decay=2.0) for p in ps}
    group = optimizer.param_groups[0]
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen == [[(1.0, 1e-8, 1.0)]]
    assert optimizer.param_groups[0] is group and group["weight_decay"] == 0.5


def test_lasting_scales_and_factors_multiply_and_outlive_them():
    ps = parameters(2)
    optimizer = SeeingAll(ps, lr=1.0, eps=1.0, weight_decay=1.0)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(lr=0.5, eps=0.25)}
    rates.hold(*everything(0.5), lasting=1.0)
    give_gradients(optimizer)
    optimizer.step()
    rates.hold([], {}, lasting=1.0)
    optimizer.step()
    assert [[lr for lr, _, _ in seen] for seen in optimizer.seen] == [[0.25, 0.5], [0.5, 1.0]]
    assert rates.active


def test_scales_of_one_are_none():
    rates = LearningRates([SGD(ps := parameters(1), lr=1.0)])
    rates.lasting_scales = {id(ps[0]): Scale()}
    assert not rates.active and rates.lasting_scales == {}


def test_remembered_scales_come_back():
    optimizer = SeeingAll(ps := parameters(1), lr=1.0)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(lr=0.5)}
    back = rates.remember()
    rates.lasting_scales = {}
    back()
    give_gradients(optimizer)
    optimizer.step()
    assert optimizer.seen[0][0][0] == 0.5


def test_scales_on_what_the_optimizer_does_not_have_are_left_out():
    optimizer = SGD(ps := parameters(1), lr=1.0)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(lr=0.5, eps=0.25)}
    give_gradients(optimizer)
    optimizer.step()
    assert ps[0].tolist() == [0.5, 0.5] and "eps" not in optimizer.param_groups[0]


def test_a_closure_and_a_checkpoint_see_the_hosts_eps_and_weight_decay():
    optimizer = SeeingAll(ps := parameters(2), lr=1.0, eps=1e-8, weight_decay=0.5)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(0.5, 0.25, 2.0)}
    saved = []

    def closure():
        saved.append(optimizer.state_dict()["param_groups"])
        give_gradients(optimizer)
        return 1.0

    optimizer.step(closure)
    saved.append(optimizer.state_dict()["param_groups"])
    for ((group,),) in zip(saved, strict=True):
        assert (group["lr"], group["eps"], group["weight_decay"]) == (1.0, 1e-8, 0.5)


def test_a_step_that_raises_leaves_no_scale_behind():
    class Raising(AdamW):
        @torch.no_grad()
        def step(self, closure=None):
            raise RuntimeError("out of memory")

    optimizer = Raising(ps := parameters(1), lr=1.0, eps=1e-8, weight_decay=0.5)
    rates = LearningRates([optimizer])
    rates.lasting_scales = {id(ps[0]): Scale(0.5, 0.25, 2.0)}
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    rates.heal()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (1.0, 1e-8, 0.5)


def test_factors_that_change_in_a_closure_are_applied_once():
    optimizer = Seeing(parameters(), lr=1.0)
    rates = LearningRates([optimizer])
    rates.hold(*everything(0.25), lasting=1.0)
    seen = []

    def closure():
        rates.hold(*everything(0.5), lasting=1.0)
        seen.append(optimizer.param_groups[0]["lr"])
        give_gradients(optimizer)
        return 1.0

    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    optimizer.step(closure)
    assert seen == [1.0]
    assert optimizer.param_groups[0]["lr"] == 1.0
    for p, old in zip(optimizer.param_groups[0]["params"], before, strict=True):
        assert (old - p).tolist() == [0.5, 0.5]
