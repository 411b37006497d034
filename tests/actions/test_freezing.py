import pytest
import torch
from torch import nn
from torch.optim import SGD

from stagegraph.actions.freezing import Freezing
from stagegraph.actions.stillness import running_norms


def make():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


def test_a_frozen_parameter_keeps_still_in_its_group():
    model = make()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    freezing = Freezing()
    before = model[0].weight.detach().clone()
    freezing.hold(model[0].parameters(), ())
    assert model[0].weight.grad is None and not model[0].weight.requires_grad
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert len(optimizer.param_groups[0]["params"]) == 6


def test_what_the_user_froze_stays_frozen():
    model = make()
    model[0].weight.requires_grad_(False)
    freezing = Freezing()
    freezing.hold(model[0].parameters(), ())
    assert [flag for _, flag in freezing.originals()] == [False, True]
    freezing.hold((), ())
    assert not model[0].weight.requires_grad and model[0].bias.requires_grad


def test_overlapping_freezes_release_to_the_original():
    model = make()
    freezing = Freezing()
    freezing.hold(model.parameters(), ())
    freezing.hold(model[0].parameters(), ())
    assert model[2].weight.requires_grad and not model[0].weight.requires_grad
    assert freezing.original(model[0].weight)
    freezing.hold((), ())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("call", [lambda m: None, lambda m: m.train(), lambda m: m.eval().train()])
def test_a_still_norm_keeps_its_statistics_whatever_train_says(call):
    model = make()
    freezing = Freezing()
    freezing.hold((), running_norms(model.modules()))
    call(model)
    before = model[1].running_mean.clone()
    out = model(torch.randn(4, 2) + 3)
    assert torch.equal(model[1].running_mean, before) and model[1].num_batches_tracked == 0
    assert model[1].training
    assert out.requires_grad
    freezing.hold((), ())
    model(torch.randn(4, 2) + 3)
    assert not torch.equal(model[1].running_mean, before)


def test_a_still_norm_keeps_the_users_mode_though_the_forward_fails():
    norm = nn.BatchNorm1d(2)
    freezing = Freezing()
    freezing.hold((), [norm])
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        norm(torch.ones(2))
    assert norm.training
    norm.eval()
    norm(torch.ones(3, 2))
    assert not norm.training


def test_releasing_a_norm_leaves_no_hook():
    norm = nn.BatchNorm1d(2)
    freezing = Freezing()
    freezing.hold((), [norm])
    freezing.close()
    assert not norm._forward_hooks and not norm._forward_pre_hooks


def test_norms_without_running_statistics_are_none():
    modules = [nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False), nn.InstanceNorm1d(2)]
    assert running_norms(modules) == []
    assert len(running_norms([nn.InstanceNorm1d(2, track_running_stats=True)])) == 1
