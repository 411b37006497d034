import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stagegraph.actions.growth.depth.stacks import (
    copy_block,
    find_stack,
    insert,
    own_parameters,
    remove,
)
from stagegraph.errors import SelectorError, UnsupportedError
from tests.actions.models import Model


def test_a_stack_is_found_by_path_or_by_the_one_glob_that_fits():
    model = Model()
    assert find_stack(model, "blocks", place="p") == ("blocks", model.blocks)
    assert find_stack(model, "bl*", place="p")[1] is model.blocks


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "block",
            r"p: there is no nn\.ModuleList or nn\.Sequential 'block' in the model; did you "
            r"mean 'blocks'\?",
        ),
        ("head", r"p: 'head' is a Linear; a stack is an nn\.ModuleList or nn\.Sequential; known"),
        ("empty", r"p: 'empty' is empty: there is no block to copy"),
        ("named", r"p: 'named' names its blocks; only blocks numbered from 0"),
        ("*s", r"p: stack '\*s' matches blocks, others; name one of them"),
    ],
)
def test_what_is_no_stack_is_said(pattern, message):
    model = Model()
    model.empty = nn.ModuleList()
    model.named = nn.Sequential(OrderedDict(a=nn.Linear(1, 1)))
    model.others = nn.ModuleList([nn.Linear(1, 1)])
    with pytest.raises(SelectorError, match=message):
        find_stack(model, pattern, place="p")


@pytest.mark.parametrize("kind", [nn.ModuleList, nn.Sequential])
def test_blocks_go_in_and_out_in_place(kind):
    old = [nn.Linear(1, 1) for _ in range(3)]
    stack, new = kind(*([old] if kind is nn.ModuleList else old)), nn.Linear(1, 1)
    modules = stack._modules
    insert(stack, {1: new})
    assert list(stack) == [old[0], new, old[1], old[2]]
    assert list(stack._modules) == ["0", "1", "2", "3"] and stack._modules is modules
    remove(stack, [1])
    assert list(stack) == old


def test_a_copy_has_parameters_of_its_own_and_nothing_of_its_templates_life():
    model = Model()
    block = model.blocks[0]
    block.eval()
    block.fc1.weight.requires_grad_(False)
    block.fc2.weight.grad = torch.ones_like(block.fc2.weight)
    block.register_forward_hook(lambda *_: None)
    block.fc1.register_forward_pre_hook(lambda *_: None)
    state = torch.get_rng_state()
    new = copy_block(model, block, path="blocks.0")
    assert torch.equal(state, torch.get_rng_state())
    assert not {p.data_ptr() for p in new.parameters()} & {p.data_ptr() for p in block.parameters()}
    for a, b in zip(new.parameters(), block.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad and a.grad is None
    assert not new.training and not new.fc1.training
    assert not new._forward_hooks and not new.fc1._forward_pre_hooks
    assert block._forward_hooks and block.fc1._forward_pre_hooks


def test_what_belongs_to_the_rest_of_the_model_stays_shared():
    class Config(dict):
        pass

    model = Model()
    model.config = Config(a=1)
    model.table = nn.Embedding(2, 2)
    block = model.blocks[0]
    block.config, block.rotary = model.config, model.table
    object.__setattr__(block, "parent", model)
    object.__setattr__(model, "hidden", block)
    new = copy_block(model, block, path="blocks.0")
    assert new.config is model.config and new.rotary is model.table and new.parent is model
    assert new is not block and new.fc1 is not block.fc1
    assert set(own_parameters(model, block)) == {
        n for n, _ in block.named_parameters() if not n.startswith("rotary")
    }


def test_parameters_tied_inside_a_block_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    model = nn.ModuleDict({"stack": nn.ModuleList([Tied()])})
    new = copy_block(model, model["stack"][0], path="stack.0")
    assert new.b.weight is new.a.weight is not model["stack"][0].a.weight


def test_blocks_that_are_one_block_cannot_be_copied():
    block = nn.Linear(2, 2)
    model = nn.ModuleDict({"stack": nn.ModuleList([block, block])})
    model["other"] = block
    with pytest.raises(
        UnsupportedError, match=r"'stack\.0' shares all its parameters with the rest"
    ):
        copy_block(model, nn.Sequential(block), path="stack.0")


def test_lazy_blocks_cannot_be_copied():
    model = nn.ModuleDict({"stack": nn.ModuleList([nn.LazyLinear(2)])})
    with pytest.raises(UnsupportedError, match="parameters without a shape yet"):
        copy_block(model, model["stack"][0], path="stack.0")


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated")
def test_weights_that_a_hook_computes_cannot_be_copied():
    block = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(2, 2)))
    model = nn.ModuleDict({"stack": nn.ModuleList([block])})
    with pytest.raises(UnsupportedError, match=r"stack\.0\.0 computes its weight in a hook"):
        copy_block(model, block, path="stack.0")


def test_parametrized_blocks_can_be_copied():
    block = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    model = nn.ModuleDict({"stack": nn.ModuleList([block])})
    new = copy_block(model, block, path="stack.0")
    x = torch.randn(1, 2)
    assert torch.equal(new(x), block(x))
    assert len(list(new.parameters())) == 3


def test_what_python_cannot_copy_is_said():
    model = Model()
    model.blocks[0].lock = threading.Lock()
    with pytest.raises(UnsupportedError, match=r"block 'blocks\.0' cannot be copied: "):
        copy_block(model, model.blocks[0], path="blocks.0")
