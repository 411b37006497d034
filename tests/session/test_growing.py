"""A plain loop with a growth on a plateau, seen from outside: the laws of what stays the user's."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from stagegraph.engine.curves import curve_value
from tests.session.training import (
    EVERY_MOVE,
    EVERY_STAGE,
    PROBE,
    Block,
    Net,
    Training,
    rates_in_step,
)

STACKING = EVERY_STAGE.replace("add: 1}", "add: 1, how: stack}").replace(
    "{type: alpha_ramp, of: grown, over: 6 steps}",
    "{type: alpha_ramp, of: grown, curve: cosine, over: 6 steps}",
)


def alpha_of(block):
    """Alpha of a block's gate, as far as its outputs tell."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float32).view(2, 6)
    with torch.no_grad():
        alone, gated = block.forward(x) - x, block(x) - x
    return float((gated * alone).sum() / (alone * alone).sum())


# Learning rates


@pytest.fixture(scope="module")
def watched():
    training = Training(STACKING)
    training.seen = rates_in_step(training)
    training.host, training.alphas = [], []
    while not training.engine.done:
        training.host.append(training.optimizer.param_groups[0]["lr"])
        blocks = training.model.blocks
        training.alphas.append(alpha_of(blocks[2]) if len(blocks) > 2 else None)
        training.tick()
    return training


def test_the_run_goes_through_every_stage(watched):
    assert watched.moves == EVERY_MOVE
    assert watched.engine.ended == "final"
    assert watched.engine.stages == {"main": "done"}


def test_the_scheduler_goes_on_as_if_nobody_were_there(watched):
    assert watched.host == [0.1 * 0.99**step for step in range(72)]
    assert all(group["initial_lr"] == 0.1 for group in watched.optimizer.param_groups)


def factor(training, update, name):
    """The factor in force in an update, of a parameter."""
    (rate,) = {r for key, r in training.seen[update].items() if key.startswith(name)}
    return rate / training.host[update]


@pytest.mark.parametrize("name", ["inp.weight", "blocks.0", "blocks.1", "head"])
def test_what_was_there_before_the_growth_has_the_hosts_rate_but_in_settle(watched, name):
    for update in range(66):
        expected = 0.5 if 54 <= update < 58 else 1.0
        assert factor(watched, update, name) == pytest.approx(expected, rel=1e-12), update


def test_the_new_blocks_rate_follows_its_ramp_from_elapsed_0(watched):
    for elapsed in range(6):
        assert factor(watched, 48 + elapsed, "blocks.2") == pytest.approx(elapsed / 6, rel=1e-12)
    assert factor(watched, 54, "blocks.2") == 0.5
    assert factor(watched, 58, "blocks.2") == 1.0


def test_the_last_ramp_ends_where_it_was_told_to(watched):
    for elapsed in range(6):
        assert factor(watched, 66 + elapsed, "") == pytest.approx(1 - elapsed / 6, rel=1e-12)


def test_alpha_follows_its_curve_from_elapsed_0_and_stays_at_its_end(watched):
    assert watched.alphas[:48] == [None] * 48
    for elapsed in range(24):
        expected = curve_value("cosine", 0.0, 1.0, elapsed / 6)
        assert watched.alphas[48 + elapsed] == pytest.approx(expected, abs=1e-6), elapsed


@pytest.mark.parametrize("over", [4, 5, 6, 7])
def test_alpha_is_folded_at_its_end_whether_an_evaluation_falls_on_it_or_not(over):
    training = Training(STACKING.replace("over: 6 steps", f"over: {over} steps"))
    training.go(48 + over)
    assert training.stage == "settle"
    assert alpha_of(training.model.blocks[2]) == pytest.approx(1.0)
    assert [m for m in training.model.modules() if m._forward_hooks] == []


def test_a_ramp_moves_the_weights_by_as_much_as_its_factor_says():
    """Plain SGD on a gradient of ones: each update is the learning rate in force itself."""
    training = Training(EVERY_STAGE, optimizer=SGD)
    moved = []
    while not training.engine.done:
        host = training.optimizer.param_groups[0]["lr"]
        before = training.model.head.bias.item()
        training.engine.loss(training.model.head.bias.sum()).backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.updates += 1
        moved.append((before - training.model.head.bias.item()) / host)
        training.engine.step()
        training.observe()
    ramp = [1 - elapsed / 6 for elapsed in range(6)]
    assert moved == pytest.approx([1.0] * 54 + [0.5] * 4 + [1.0] * 8 + ramp, abs=1e-4)


# The model stays the user's


def identities(model):
    return {name: id(module) for name, module in model.named_modules()} | {
        name: id(parameter) for name, parameter in model.named_parameters()
    }


def test_modules_and_parameters_stay_the_same_objects_under_the_same_names():
    training = Training(EVERY_STAGE)
    before = identities(training.model)
    names = list(training.model.state_dict())
    groups = training.optimizer.param_groups[0]
    training.go()
    after = identities(training.model)
    assert {name: after[name] for name in before} == before
    assert [name for name in training.model.state_dict() if name in names] == names
    assert {n for n in after if n not in before} == {n for n in after if "blocks.2" in n}
    assert training.optimizer.param_groups[0] is groups
    assert [id(p) for p in groups["params"]] == [id(p) for p in training.model.parameters()]


def test_the_grown_model_loads_into_its_own_class():
    training = Training(EVERY_STAGE).go()
    again = Net(depth=3)
    again.load_state_dict(training.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(PROBE), training.model(PROBE))


def test_a_growth_by_identity_does_not_change_the_function():
    training = Training(EVERY_STAGE).go(47)
    training.update()
    with torch.no_grad():
        before = training.model(PROBE)
        training.engine.step()
        training.observe()
        assert training.stage == "warmup"
        assert torch.equal(training.model(PROBE), before)
    (growth,) = training.records.of("growth")
    assert growth["certificate"]["exactness"] == "exact"


def test_the_new_block_learns():
    training = Training(EVERY_STAGE).go(until="warmup")
    before = {n: p.clone() for n, p in training.model.blocks[2].named_parameters()}
    training.go()
    after = dict(training.model.blocks[2].named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_growth_draws_no_random_number_of_the_user():
    training = Training(EVERY_STAGE).go(47)
    training.update()
    before = torch.get_rng_state()
    training.engine.step()
    training.observe()
    assert training.stage == "warmup"
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_seed_grows_the_same_and_the_run_is_a_function_of_it():
    first, again = (Training(STACKING).go().weights() for _ in range(2))
    assert first == again


def test_params_count_what_was_grown():
    training = Training(EVERY_STAGE)
    assert training.engine.params is None
    training.engine.start()
    small = training.engine.params
    training.go()
    assert training.engine.params == sum(p.numel() for p in training.model.parameters())
    assert training.engine.params > small


def test_a_budget_of_parameters_keeps_the_model_small():
    """385 parameters and 174 a block: no room, so only the budget of steps ends the run."""
    training = Training(EVERY_STAGE.replace("params: 5k", "params: 400")).go()
    assert len(training.model.blocks) == 2
    assert (training.engine.ended, training.engine.progress.step) == ("budget", 200)


def test_a_loss_that_never_flattens_grows_nothing():
    training = Training(EVERY_STAGE, val_loss=lambda update: 0.9**update).go(60)
    assert training.moves == [(None, "main:train", 0)]
    assert training.records.of("growth") == []


# A norm behind the sum


class PostNorm(Block):
    """A block that no zeros make the identity."""

    def forward(self, x):
        return self.norm(x + self.down(torch.tanh(self.up(x))))


def test_a_block_that_no_zeros_make_the_identity_comes_in_behind_its_gate():
    torch.manual_seed(0)
    model = Net()
    model.blocks = nn.ModuleList(PostNorm() for _ in range(2))
    training = Training(EVERY_STAGE, model=model).go(until="warmup")
    assert training.stage == "warmup" and len(model.blocks) == 3
    x = torch.randn(5, 6)
    assert torch.equal(model.blocks[2](x), x)
    assert not torch.equal(model.blocks[2].forward(x), x)
    training.go(until="settle")
    assert torch.equal(model.blocks[2](x), model.blocks[2].forward(x))
    (growth,) = training.records.of("growth")
    certificate = growth["certificate"]
    assert certificate["gated"] and certificate["exactness"] == "exact"
