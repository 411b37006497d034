import pytest
import torch
from torch import nn

from stagegraph.actions.changes import Deepened, NewBlock
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.parameters import is_finite, num_parameters, select
from stagegraph.engine.ports import Selected
from stagegraph.errors import SelectorError
from tests.actions.models import Model


def names(model, selection):
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in selection.parameters]


def chosen(model, *globs, lineage=None, **fields):
    selected = Selected(globs=globs, **fields)
    return select(model, selected, lineage=lineage or Lineage(), place="main:a.during[0]")


def test_a_module_takes_its_subtree():
    model = Model()
    assert names(model, chosen(model, "blocks.1.fc?")) == [
        "blocks.1.fc1.weight",
        "blocks.1.fc1.bias",
        "blocks.1.fc2.weight",
        "blocks.1.fc2.bias",
    ]


def test_globs_match_parameters_and_modules_and_unite():
    model = Model()
    assert names(model, chosen(model, "head", "inp.bias", "*.bias", "bn.weight"))[:2] == [
        "inp.bias",
        "blocks.0.ln1.bias",
    ]
    assert "bn.weight" in names(model, chosen(model, "bn.*"))


def test_everything_is_all_parameters():
    model = Model()
    selection = chosen(model, everything=True)
    assert len(selection.parameters) == len(list(model.parameters()))
    assert selection.everything


def test_case_matters():
    with pytest.raises(SelectorError, match="'HEAD'"):
        chosen(Model(), "HEAD")


def test_all_globs_that_match_nothing_are_named_with_their_neighbours():
    with pytest.raises(
        SelectorError,
        match=r"^main:a\.during\[0\]: 'haed' matches no parameter and no module of the model; did "
        r"you mean 'head'\?; 'blocks\.7\.\*' matches",
    ):
        chosen(Model(), "haed", "blocks.7.*")


def test_a_cohort_is_the_blocks_of_its_growth():
    model = Model(3)
    lineage = Lineage([Deepened("deeper", 5, "blocks", 2, (NewBlock("g1-0", 1, "0"),))])
    found = names(model, chosen(model, lineage=lineage, cohorts=("deeper",)))
    assert {name.split(".")[1] for name in found} == {"1"} and len(found) == 14


def test_an_unknown_cohort_is_refused():
    with pytest.raises(
        SelectorError, match="no growth of the name 'deeper' has added anything; none"
    ):
        chosen(Model(), cohorts=("deeper",))


def test_a_norm_belongs_to_a_selection_that_has_all_its_parameters():
    model = Model()
    assert model.bn in chosen(model, "bn.*").modules
    assert model.bn in chosen(model, "bn").modules
    assert model.bn not in chosen(model, "bn.weight").modules


def test_shared_parameters_count_once():
    model = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(2, 3, bias=False)})
    model["b"].weight = model["a"].weight
    assert num_parameters(model) == 6
    assert len(chosen(model, "b").parameters) == 1


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.int8],
)
def test_numbers_are_finite_though_their_sum_is_not(dtype):
    info = torch.iinfo(dtype) if dtype is torch.int8 else torch.finfo(dtype)
    assert is_finite(torch.full((3,), info.max, dtype=dtype))
    assert is_finite(torch.empty(0, dtype=dtype))
    if dtype is not torch.int8:
        for broken in ([1.0, float("nan")], [float("inf"), -float("inf")], [-float("inf"), 1.0]):
            assert not is_finite(torch.tensor(broken, dtype=dtype, requires_grad=True))
