import pytest
import torch
from torch import nn
from torch.optim import ASGD, LBFGS, SGD, Adafactor, AdamW, Optimizer, Rprop

from stagegraph.actions.optimizing.optimizers import (
    check_state_shapes,
    innermost,
    join_groups,
    refuse_growth,
    refuse_lr_factors,
    state_shapes,
)
from stagegraph.errors import UnsupportedError


def layers(num):
    return nn.ModuleList(nn.Linear(1, 1) for _ in range(num))


def grown(model, at, copy_of):
    template, new = model[copy_of], nn.Linear(1, 1)
    model.insert(at, new)
    return dict(zip(new.parameters(), template.parameters(), strict=True))


def test_new_parameters_join_in_the_models_order():
    model = layers(3)
    optimizer = AdamW(model.parameters(), lr=0.1)
    join_groups(model, [optimizer], grown(model, 1, 0))
    members = optimizer.param_groups[0]["params"]
    assert [id(p) for p in members] == [id(p) for p in model.parameters()]
    assert len(optimizer.param_groups) == 1


def test_each_joins_the_group_and_optimizer_of_its_template():
    model = layers(2)
    decay = SGD([{"params": [layer.weight for layer in model]}], lr=0.1)
    plain = SGD([{"params": [layer.bias for layer in model], "lr": 0.2}], lr=0.1)
    join_groups(model, [decay, plain], grown(model, 2, 1))
    assert [id(p) for p in decay.param_groups[0]["params"]] == [id(m.weight) for m in model]
    assert [id(p) for p in plain.param_groups[0]["params"]] == [id(m.bias) for m in model]


def test_a_group_in_another_order_gets_it_after_its_template():
    model = layers(2)
    first, second = model
    optimizer = SGD([second.weight, second.bias, first.weight, first.bias], lr=0.1)
    join_groups(model, [optimizer], grown(model, 2, 0))
    new = model[2]
    expected = [second.weight, second.bias, first.weight, new.weight, first.bias, new.bias]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in expected]


def test_written_names_say_todays_names():
    model = layers(2)
    outside = nn.Parameter(torch.ones(1))
    optimizer = SGD([*model.named_parameters(), ("criterion.scale", outside)], lr=0.1)
    join_groups(model, [optimizer], grown(model, 1, 0))
    group = optimizer.param_groups[0]
    named = dict(zip(group["param_names"], group["params"], strict=True))
    assert named["2.weight"] is model[2].weight and named["1.bias"] is model[1].bias
    assert named["criterion.scale"] is outside


def test_parameters_of_untrained_templates_are_reported():
    model = layers(2)
    optimizer = SGD(model[0].parameters(), lr=0.1)
    left = join_groups(model, [optimizer], grown(model, 2, 1))
    assert [id(p) for p in left] == [id(p) for p in model[2].parameters()]


def test_state_of_another_shape_is_refused():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = state_shapes([optimizer])
    check_state_shapes([optimizer], before)
    optimizer.state[p]["exp_avg"] = torch.ones(2)
    with pytest.raises(
        UnsupportedError, match=r"state 'exp_avg' has shape \(2,\), its parameter \(2, 2\)"
    ):
        check_state_shapes([optimizer], before)


def test_factored_state_is_checked_against_what_it_must_be():
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = Adafactor([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = state_shapes([optimizer])
    check_state_shapes([optimizer], {})  # as beside a new parameter
    p.grad = None
    p.data = torch.ones(4, 8)
    message = r"'col_var' has shape \(1, 4\), its parameter \(4, 8\), beside which .* \(1, 8\)"
    with pytest.raises(UnsupportedError, match=message):
        check_state_shapes([optimizer], before)
    optimizer.state[p]["col_var"] = torch.ones(1, 8)
    check_state_shapes([optimizer], before)


@pytest.mark.parametrize("kind", [Adafactor, Rprop, ASGD, LBFGS])
def test_optimizers_whose_updates_do_not_follow_their_rate_are_refused(kind):
    reason = refuse_lr_factors(kind([nn.Parameter(torch.ones(1))], lr=0.1))
    assert reason is not None
    assert f"{kind.__name__} is no optimizer for learning-rate factors" in reason


def test_a_subclass_is_refused_by_its_base():
    class Mine(Rprop):
        pass

    assert refuse_lr_factors(Mine([nn.Parameter(torch.ones(1))], lr=0.1)) is not None


def test_relative_step_is_refused():
    class Relative(Optimizer):
        pass

    optimizer = Relative([nn.Parameter(torch.ones(1))], {"lr": None, "relative_step": True})
    assert "sets its learning rate itself (relative_step)" in (refuse_lr_factors(optimizer) or "")


def test_lbfgs_cannot_grow():
    assert "LBFGS keeps one flat history" in (refuse_growth(LBFGS([torch.ones(1)])) or "")
    assert refuse_growth(SGD([torch.ones(1)], lr=0.1)) is None


def test_the_innermost_optimizer_is_found():
    class Wrapper(Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    inner = SGD([torch.ones(1)], lr=0.1)
    assert innermost(Wrapper(Wrapper(inner))) is inner
    with pytest.raises(
        UnsupportedError, match=r"takes a torch\.optim\.Optimizer or several, got str"
    ):
        innermost("sgd")
