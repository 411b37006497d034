import pytest
import torch
from torch import nn

from stagegraph.actions.growth.depth.deepen import plan
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.operations import costs
from stagegraph.errors import SelectorError, UnsupportedError
from tests.actions.models import Block, Counting, Model, batch, deepen, digest

ONE = sum(p.numel() for p in Block().parameters())


def prepared(model, action):
    site = Site(model, probe=batch())
    return plan(site, action, place="p").prepare(site, seed=1)


@pytest.mark.parametrize(("fields", "after"), [({"add": 3}, 5), ({"factor": 2}, 4), ({"to": 7}, 7)])
def test_a_plan_says_sizes_and_costs(fields, after):
    planned = plan(Site(Model()), deepen(**{"add": None, **fields}), place="p")
    assert (planned.before, planned.after, planned.cost) == (2, after, (after - 2) * ONE)


def test_costs_of_growths_one_after_the_other():
    model = Model()
    actions = [deepen(add=1), deepen(add=None, factor=2)]
    assert costs(Site(model), actions, place="p") == 4 * ONE
    assert len(model.blocks) == 2


def test_what_blocks_share_costs_once():
    model = Model()
    shared = nn.Linear(8, 8)
    for block in model.blocks:
        block.o = shared
    assert plan(Site(model), deepen(), place="p").cost == 2 * (ONE - 72)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (
            {"stack": "blks"},
            SelectorError,
            r"^p: there is no .*'blks' .*did you mean 'blocks'",
        ),
        (
            {"add": None, "to": 2},
            UnsupportedError,
            r"'blocks': there are 2 already, 2 is no",
        ),
        ({"add": None, "factor": 1.3}, UnsupportedError, "2 times 1.3 is not a whole number"),
        (
            {"count": ("depth",)},
            SelectorError,
            r"^p: .*the model has no attribute 'depth'",
        ),
    ],
)
def test_what_cannot_be_planned(fields, kind, message):
    with pytest.raises(kind, match=message):
        plan(Site(Model()), deepen(**fields), place="p")


def test_counts_left_alone_are_reported_where_others_are_declared():
    planned = plan(Site(Counting()), deepen(count=("config.num_hidden_layers",)), place="p")
    assert planned.left_alone == ("config.layer_types",)


@pytest.mark.parametrize("how", ["identity", "stack"])
def test_planning_and_preparing_touch_nothing(how):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = digest(model, optimizer)
    prepared(model, deepen(how=how))
    assert digest(model, optimizer) == before


def test_new_blocks_share_nothing_among_each_other():
    found = prepared(Model(), deepen(add=3))
    pointers = [p.data_ptr() for block in found.blocks.values() for p in block.parameters()]
    assert len(set(pointers)) == len(pointers) == 3 * 14
    assert set(found.templates) == {p for b in found.blocks.values() for p in b.parameters()}


def test_weights_that_would_be_zeroed_may_not_be_shared():
    model = Model()
    shared = nn.Linear(8, 8)
    for block in model.blocks:
        block.o = shared
    with pytest.raises(UnsupportedError, match=r"o\.weight, o\.bias of a block would be zeroed"):
        prepared(model, deepen(zero=("o", "fc2")))


def test_a_template_that_does_not_run_is_said():
    class Skipping(Model):
        def forward(self, x):
            return self.head(self.blocks[0](self.inp(x)).mean(1))

    with pytest.raises(UnsupportedError, match=r"'blocks\.1', which would be copied, did not run"):
        prepared(Skipping(), deepen())


def test_what_is_declared_and_is_no_identity_is_refused():
    with pytest.raises(
        UnsupportedError,
        match=r"^p: a copy of block 'blocks\.1' with fc2\.weight, fc2\.bias zeroed is no identity",
    ):
        prepared(Model(), deepen(zero=("fc2",)))


def test_blocks_on_another_type_stay_there():
    model = Model().double()
    site = Site(model, probe=batch().double(), trains=lambda _: False)
    found = plan(site, deepen(), place="p").prepare(site, seed=1)
    (block, _) = found.blocks.values()
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in block.parameters())
