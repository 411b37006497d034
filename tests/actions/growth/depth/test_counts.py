import copy

import pytest
from torch import nn

from stagegraph.actions.growth.depth.counts import find_count, number, numbering, undeclared_counts
from stagegraph.actions.growth.depth.layout import Place
from stagegraph.errors import SelectorError, UnsupportedError
from tests.actions.models import Counting, Model


class Aliased:
    """A config with a second name for its count."""

    def __init__(self):
        self.n_layer = 2

    @property
    def num_hidden_layers(self):
        return self.n_layer

    @num_hidden_layers.setter
    def num_hidden_layers(self, value):
        self.n_layer = value


def test_a_number_and_a_list_per_block_grow_and_shrink():
    model = Counting()
    model.config.layer_types = ("a", "b")
    inserted = (Place(1, 0), Place(3, 1))
    number = find_count(model, "config.num_hidden_layers", size=2, place="p")
    each = find_count(model, "config.layer_types", size=2, place="p")
    number.grow(inserted)
    each.grow(inserted)
    assert (model.config.num_hidden_layers, model.config.layer_types) == (4, ("a", "a", "b", "b"))
    number.shrink([1, 3])
    each.shrink([1, 3])
    assert (model.config.num_hidden_layers, model.config.layer_types) == (2, ("a", "b"))


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        (
            "config.num_layers",
            SelectorError,
            r"p: count 'config\.num_layers': config has no attribute "
            r"'num_layers'; did you mean 'num_hidden_layers'\?",
        ),
        ("cfg.n", SelectorError, r"the model has no attribute 'cfg'"),
        ("head", UnsupportedError, r"count 'head' is a Linear; a count is a whole number"),
        ("config.wrong", UnsupportedError, r"'config\.wrong' tells of 3 blocks, the stack has 2"),
        ("training", UnsupportedError, r"is a bool"),
    ],
)
def test_what_is_no_count_is_said(path, kind, message):
    model = Counting()
    model.config.wrong = 3
    with pytest.raises(kind, match=message):
        find_count(model, path, size=2, place="p")


def test_plain_counts_beside_the_stack_are_found():
    model = nn.ModuleDict({"body": Counting()})
    model.n_layers = 2
    model.depth = 7
    assert undeclared_counts(model, "body.blocks", 2, declared=()) == [
        "n_layers",
        "body.config.num_hidden_layers",
        "body.config.layer_types",
    ]


def test_a_config_that_many_modules_share_is_looked_at_once():
    model = nn.ModuleDict({"body": Counting()})
    model.config = model["body"].config
    assert undeclared_counts(model, "body.blocks", 2, declared=()) == [
        "config.num_hidden_layers",
        "config.layer_types",
    ]


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer"])
def test_another_name_for_a_declared_count_is_none(name):
    model = Model()
    model.config = Aliased()
    declared = [find_count(model, f"config.{name}", size=2, place="p")]
    assert undeclared_counts(model, "blocks", 2, declared=declared) == []
    assert model.config.n_layer == 2


def test_blocks_are_renumbered_in_order():
    modules = []
    for place in (1, 2):
        module = nn.Sequential(nn.Linear(1, 1))
        module[0].layer_idx = place
        modules.append(module)
    numbers = numbering(modules, place="p")
    assert numbers == {"layer_idx": 1}
    grown = [*modules, copy.deepcopy(modules[1])]
    number(grown, "layer_idx", numbers["layer_idx"])
    assert [module[0].layer_idx for module in grown] == [1, 2, 3]


def test_blocks_without_numbers_are_left_alone():
    assert numbering([nn.Linear(1, 1)], place="p") == {}


def test_blocks_out_of_order_are_refused():
    model = Counting(3)
    model.blocks[1].layer_idx = 5
    with pytest.raises(
        UnsupportedError, match=r"blocks' 'layer_idx' are \[\[0\], \[5\], \[2\]\], not in order"
    ):
        numbering(list(model.blocks), place="p")


def test_a_number_in_a_list_is_counted_by_its_place():
    model = Counting()
    model.config.depths = [3, 2]
    count = find_count(model, "config.depths.1", size=2, place="p")
    count.grow((Place(1, 0),))
    assert model.config.depths == [3, 3]
    count.shrink([1])
    assert model.config.depths == [3, 2]
    with pytest.raises(UnsupportedError, match=r"'config\.depths\.0' tells of 3 blocks"):
        find_count(model, "config.depths.0", size=2, place="p")
    with pytest.raises(SelectorError, match=r"count 'config\.depths\.7': config\.depths has no"):
        find_count(model, "config.depths.7", size=2, place="p")


def test_a_list_of_the_class_is_no_count():
    class Config:
        layer_types = ("basic", "bottleneck")

    model = Model()
    model.config = Config()
    assert undeclared_counts(model, "blocks", 2, declared=()) == []
    model.config.layer_types = ["basic", "basic"]
    assert undeclared_counts(model, "blocks", 2, declared=()) == ["config.layer_types"]
