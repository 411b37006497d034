"""Warm-ups count updates, are alike in training and evaluation, and leave nothing behind.

A sketch's ramp had one alpha in training and another in evaluation, counted forwards, so that
accumulated and recomputed ones counted twice, and kept its wrapper for ever.
"""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.utils.checkpoint import checkpoint

import stagegraph as sg
from stagegraph.engine.curves import curve_value
from tests.session.training import PROBE, WIDTH, Net, Training, rates_in_step

GRAPH = """
stagegraph: 1
name: warm-up
budget: {steps: 60}
initial: train
stages:
  train: {kind: train, duration: 2 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1, how: HOW}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 6 steps, curve: CURVE}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 6 steps, curve: CURVE}
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 2 steps, next: consolidate}
  consolidate: {kind: consolidate, duration: 2 steps, next: done}
  done: {kind: final}
"""
BENT = ((0.0, 0.0), (0.5, 0.1), (1.0, 1.0))
CURVES = {
    "linear": "linear",
    "cosine": "cosine",
    "exponential": "exponential",
    "points": "[[0, 0], [0.5, 0.1], [1, 1]]",
}


def document(curve="linear", how="stack"):
    return GRAPH.replace("CURVE", CURVES[curve]).replace("HOW", how)


def alpha_of(block, x=None):
    """Alpha of a block's gate, as its outputs tell."""
    x = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH) if x is None else x
    with torch.no_grad():
        alone, gated = block.forward(x) - x, block(x) - x
        return float((gated * alone).sum() / (alone * alone).sum())


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_is_met_in_training_and_in_evaluation_alike(curve):
    training = Training(document(curve)).go(2)
    shape, block = BENT if curve == "points" else curve, training.model.blocks[2]
    for elapsed in range(10):
        expected = curve_value(shape, 0.0, 1.0, elapsed / 6)
        found = [alpha_of(block.train(mode)) for mode in (True, False, True)]
        assert found == pytest.approx([expected] * 3, abs=1e-6), elapsed
        training.tick()
    assert training.engine.ended == "final"


class Recomputed(Net):
    """Activation checkpointing around each block."""

    reentrant = False

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Reentrant(Recomputed):
    reentrant = True


def curve_of(model, *, micro=1, autocast=False):
    """Alpha before each update, and the weights at the end, of a run made in some way."""
    training = Training(document(), model=model)
    alphas = []
    while not training.engine.done:
        blocks = training.model.blocks
        alphas.append(alpha_of(blocks[2]) if len(blocks) > 2 else None)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(training.updates))
        for part in x.chunk(micro):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = training.model(part)
            loss = training.engine.loss((out.float() - part.sum(1, keepdim=True)).pow(2).mean())
            (loss / micro).backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.scheduler.step()
        training.updates += 1
        training.engine.step(samples=8)
    return alphas, training.model.state_dict()


def made(kind):
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = kind()
    torch.set_rng_state(state)
    return model


@pytest.fixture(scope="module")
def plain():
    return curve_of(made(Net))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Net, {"micro": 4}),
        (Recomputed, {}),
        (Reentrant, {}),
        (Recomputed, {"micro": 2}),
        (Net, {"autocast": True}),
    ],
    ids=["accumulation", "checkpointing", "reentrant", "both", "autocast"],
)
def test_updates_count_and_not_forwards(plain, kind, more):
    alphas, weights = curve_of(made(kind), **more)
    assert alphas[:2] == [None, None]
    assert alphas[2:] == pytest.approx(plain[0][2:], abs=1e-6)
    if not more:  # recomputing computes the same
        assert all(torch.equal(weights[name], value) for name, value in plain[1].items())


def test_alpha_is_no_bfloat16_number_under_autocast():
    training = Training(document(how="stack")).go(7)
    block, x = training.model.blocks[2], torch.randn(64, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert alpha_of(block, x) == pytest.approx(5 / 6, abs=2e-3)  # bfloat16 has 5/6 to 3e-3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_warms_up_alike_and_is_compiled_a_few_times():
    from torch._dynamo.testing import CompileCounterWithBackend

    def losses(counter):
        training = Training(document().replace("6 steps", "10 steps"))
        net = training.model if counter is None else torch.compile(training.model, backend=counter)
        seen = []
        training.engine.start()
        while not training.engine.done:
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(len(seen)))
            loss = (net(x) - x.sum(1, keepdim=True)).pow(2).mean()
            loss.backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
            seen.append(loss.item())
            training.engine.step()
        return seen

    counter = CompileCounterWithBackend("eager")
    assert losses(counter) == losses(None)
    # at the start, after the growth, once more for an alpha that moves, and when it is folded;
    # not again for each of its 10 values
    assert counter.frame_count == 4


# Nothing is left behind


def surface(model):
    """All that can be seen of a model but its numbers: modules, attributes, hooks, names."""
    modules = {
        name: (
            type(module),
            {key: _shown(value) for key, value in vars(module).items()},
            {key for key in dir(module) if not key.startswith("__")},
        )
        for name, module in model.named_modules()
    }
    return modules, list(model.state_dict()), [n for n, _ in model.named_parameters()]


def _shown(value):
    if isinstance(value, dict):
        return list(value)
    return value if isinstance(value, int | float | str | bool | None) else type(value)


def optimizer_surface(optimizer):
    hooks = [len(v) for k, v in vars(optimizer).items() if k.endswith("_hooks")]
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": len(group["params"])}
        for group in optimizer.param_groups
    ]
    return hooks, groups, sorted(vars(optimizer))


@pytest.mark.parametrize("how", ["stack", "identity"])
def test_a_warm_up_that_is_done_leaves_the_model_as_one_that_never_had_one(how):
    """The reference is the same class, built at the grown depth and never seen by stagegraph."""
    training = Training(document(how=how))
    while training.stage != "settle":
        training.tick()
    fresh = Net(depth=3)
    assert surface(training.model) == surface(fresh)
    assert [type(m) for m in training.model.modules()] == [type(m) for m in fresh.modules()]
    training.go()
    assert surface(training.model) == surface(fresh)
    training.engine.close()
    plain = AdamW(fresh.parameters(), lr=0.1)
    scheduler = lr_scheduler.LambdaLR(plain, lambda step: 0.99**step)
    for _ in range(training.updates):
        plain.step()
        scheduler.step()
    assert optimizer_surface(training.optimizer) == optimizer_surface(plain)
    fresh.load_state_dict(training.model.state_dict())
    assert torch.equal(fresh(PROBE), training.model(PROBE))


def test_while_it_lasts_no_name_and_no_attribute_of_the_users_changes():
    training = Training(document()).go(4)
    (gated,) = [n for n, m in training.model.named_modules() if m._forward_hooks]
    assert gated == "blocks.2"
    modules, *names = surface(training.model)
    reference, *expected = surface(Net(depth=3))
    assert names == expected
    hooked = {"_forward_hooks", "_forward_hooks_with_kwargs"}
    for name, (kind, attributes, known) in modules.items():
        assert (kind, known) == (reference[name][0], reference[name][2])
        mine, theirs = (
            {key: value for key, value in a.items() if key not in hooked}
            for a in (attributes, reference[name][1])
        )
        assert mine == theirs, name
    assert training.optimizer.param_groups[0]["lr"] == 0.1 * 0.99**4


# What each sketch did wrong


class Misnamed(Net):
    """Its names say nothing of what they are: a sketch zeroed by output, final and head."""

    def __init__(self):
        super().__init__()
        self.output_embedding = self.inp
        self.final_hint = nn.Parameter(torch.full((WIDTH,), 0.1))

    def forward(self, x):
        x = self.output_embedding(x) + self.final_hint
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_zeros_go_where_they_prove_the_identity_whatever_the_names():
    training = Training(document(how="identity"), model=made(Misnamed))
    x = torch.randn(16, 4)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.go(1)
    training.update()
    expected = training.model(x)
    training.engine.step()
    assert training.stage == "warmup"
    assert torch.equal(training.model(x), expected)
    after = training.model.state_dict()
    zeroed = {name for name, value in after.items() if not value.any()}
    assert zeroed == {"blocks.2.down.weight", "blocks.2.down.bias"}
    assert set(before) <= set(after)


@pytest.mark.parametrize("mode", [True, False])
def test_zero_weights_get_a_gradient_from_the_first_update_on_in_both_modes(mode):
    """A sketch multiplied zero weights by a scale of zero: neither ever learned."""
    lone = document(how="identity").replace(
        "      - {type: alpha_ramp, of: grown, over: 6 steps, curve: linear}\n", ""
    )
    training = Training(lone).go(2)
    block = training.model.blocks[2].train(mode)
    (training.model(PROBE) - 1).pow(2).mean().backward()
    assert block.down.weight.grad.abs().sum() > 0
    training.optimizer.zero_grad()
    training.go(2)
    assert block.down.weight.abs().sum() > 0


# Learning rates

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.9**s),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 40),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
}


def grouped(model, lr):
    """Three groups with names; the stack is in the middle one."""
    return [
        {"params": [*model.inp.parameters()], "name": "input", "lr": lr},
        {"params": [*model.blocks.parameters()], "name": "stack", "lr": lr / 2},
        {"params": [*model.head.parameters()], "name": "head", "lr": lr / 4},
    ]


class Grouped(Training):
    """Named groups, and any scheduler."""

    def __init__(self, text, schedule="LambdaLR", **more):
        model = made(Net)
        self.schedule = SCHEDULERS[schedule]
        super().__init__(
            text, model=model, optimizer=lambda _, lr: SGD(grouped(model, lr), lr=lr), **more
        )
        self.other = self.schedule(self.optimizer)
        self.scheduler.step = lambda: None

    def update(self):
        loss = super().update()
        plateau = isinstance(self.other, lr_scheduler.ReduceLROnPlateau)
        self.other.step(*([1.0] if plateau else []))
        return loss


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_new_parameters_warm_up_in_their_own_group_under_every_scheduler(name):
    training = Grouped(document(), name)
    seen, host = rates_in_step(training), []
    while not training.engine.done:
        host.append([group["lr"] for group in training.optimizer.param_groups])
        training.tick()
    alone = SGD(grouped(made(Net), 0.1), lr=0.1)
    lr_scheduler.LambdaLR(alone, lambda step: 0.99**step)
    scheduler, expected = SCHEDULERS[name](alone), []
    for _ in host:
        expected.append([group["lr"] for group in alone.param_groups])
        alone.step()
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert host == expected
    for elapsed in range(6):
        rate = seen[2 + elapsed]
        assert rate["blocks.2.up.weight"] == pytest.approx(host[2 + elapsed][1] * elapsed / 6)
        assert rate["blocks.1.up.weight"] == host[2 + elapsed][1]
        assert rate["inp.weight"] == host[2 + elapsed][0]


def test_the_group_that_is_warmed_up_is_found_again_when_another_comes_before_it():
    training = Training(document(), optimizer=SGD).go(4)
    seen, extra = rates_in_step(training), nn.Parameter(torch.ones(1))
    training.optimizer.param_groups.insert(0, {**training.optimizer.param_groups[0], "params": []})
    training.optimizer.param_groups[0]["params"].append(training.model.inp.bias)
    training.optimizer.param_groups[1]["params"] = [
        p for p in training.optimizer.param_groups[1]["params"] if p is not training.model.inp.bias
    ]
    training.scheduler.step = lambda: None
    training.update()
    rate = training.optimizer.param_groups[1]["lr"]
    assert seen[0]["blocks.2.up.weight"] == pytest.approx(rate * 2 / 6)
    assert seen[0]["inp.bias"] == seen[0]["inp.weight"] == rate
    assert extra.item() == 1.0


def test_a_ramp_of_alpha_alone_gets_a_finding_and_adam_shows_why():
    alone = document().replace(
        "      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 6 steps, curve: linear}\n", ""
    )

    def codes(text):
        return {found.code for found in sg.check(sg.load(text))}

    assert "alpha-without-lr" in codes(alone)
    assert "alpha-without-lr" not in codes(document())
    host = "      - {type: lr_ramp, of: all, but: grown, start: 0, end: 1, over: 6 steps}\n"
    assert "alpha-without-lr" in codes(alone.replace("    next: settle", f"{host}    next: settle"))
    training = Training(alone.replace("over: 6 steps", "over: 1000 steps")).go(3)
    before = copy.deepcopy(training.model.blocks[2].up.weight.detach())
    rate = training.optimizer.param_groups[0]["lr"]
    training.update()  # at alpha 0.001
    moved = (training.model.blocks[2].up.weight.detach() - before).abs()
    assert float(moved.max()) == pytest.approx(rate, rel=0.2)
