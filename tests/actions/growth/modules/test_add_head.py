import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor, replay
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import ActionError
from stagegraph.schema.actions import AddHead
from tests.actions.growth.grown import Scene
from tests.actions.growth.injection import calls, check, operations
from tests.actions.models import (
    D,
    accept,
    alpha_ramp,
    back_to,
    boundary,
    digest,
    freeze,
    growth,
    lr_factor,
    snapshot,
    train,
)


class Headed(nn.Module):
    """A backbone, and a dictionary of heads of which an attribute says which is in use."""

    def __init__(self, *heads, runs_all=False):
        super().__init__()
        self.backbone = nn.Linear(4, D)
        self.heads = nn.ModuleDict({name: nn.Linear(D, 3) for name in heads or ("a",)})
        self.active_head = next(iter(self.heads), None)
        self.runs_all = runs_all

    def forward(self, x):
        features = torch.tanh(self.backbone(x)).mean(1)
        if self.runs_all:
            return sum(head(features) for head in self.heads.values())
        return self.heads[self.active_head](features)


def add_head(**fields):
    return AddHead(type="add_head", **{"heads": "heads", "head": "b", **fields})


def scene(*heads, **more):
    return Scene(model=Headed(*heads), **more)


def equal(one, other):
    theirs = dict(other.named_parameters())
    return [n for n, p in one.named_parameters() if torch.equal(p, theirs[n])]


@pytest.mark.parametrize("init", ["copy", "fresh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_changes_and_the_certificate_says_so(init, dtype):
    made = scene(dtype=dtype)
    before, trained = made.output(), made.output(training=True)
    certificate = made.grow(add_head(init=init))
    assert made.changed(before) == 0.0
    assert made.changed(trained, training=True) == 0.0
    assert (certificate["promise"], certificate["exactness"]) == ("exact", "exact")
    assert certificate["kind"] == "add_head"
    assert (certificate["heads"], certificate["head"], certificate["like"]) == ("heads", "b", "a")
    assert (certificate["init"], certificate["entries"]) == (init, ["a", "b"])
    assert certificate["params"]["added"] == 3 * D + 3
    assert made.model.heads["b"].weight.dtype == dtype


def test_a_copy_has_the_weights_of_its_template_and_memory_of_its_own():
    made = scene()
    made.grow(add_head())
    a, b = made.model.heads["a"], made.model.heads["b"]
    assert equal(a, b) == ["weight", "bias"]
    assert a.weight.data_ptr() != b.weight.data_ptr()


def test_a_fresh_head_comes_from_its_own_seed_and_no_other_number_moves():
    made, again = scene(), scene()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made.grow(add_head(init="fresh"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again.grow(add_head(init="fresh"))
    assert equal(made.model.heads["a"], made.model.heads["b"]) == []
    assert equal(made.model.heads["b"], again.model.heads["b"]) == ["weight", "bias"]


@pytest.mark.parametrize(("like", "expected"), [(None, "c"), ("a", "a"), ("c", "c")])
def test_it_is_made_like_the_newest_or_the_one_that_is_named(like, expected):
    made = scene("a", "c")
    made.grow(add_head(like=like))
    assert equal(made.model.heads["b"], made.model.heads[expected]) == ["weight", "bias"]
    made.grow(add_head(head="d", like=None), cohort="later")
    assert equal(made.model.heads["d"], made.model.heads["b"]) == ["weight", "bias"]


def test_no_name_and_no_object_changes():
    made = scene("a", "c")
    names, objects = list(made.model.state_dict()), list(map(id, made.model.modules()))
    parameters = list(map(id, made.model.parameters()))
    made.grow(add_head())
    assert list(made.model.state_dict()) == [*names, "heads.b.weight", "heads.b.bias"]
    assert list(map(id, made.model.modules()))[:-1] == objects
    assert list(map(id, made.model.parameters()))[:-2] == parameters


def test_new_parameters_join_the_groups_of_their_templates():
    def optimizer(model):
        decayed = [p for n, p in model.named_parameters() if n.endswith("weight")]
        others = [p for n, p in model.named_parameters() if not n.endswith("weight")]
        return AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=0.01)

    made = scene(optimizer=optimizer)
    train(made.model, made.optimizer, 2)
    made.grow(add_head())
    b = made.model.heads["b"]
    assert [group["params"][-1] for group in made.optimizer.param_groups] == [b.weight, b.bias]
    assert b.weight not in made.optimizer.state


def test_only_the_head_in_use_is_trained_and_the_backbone_always():
    made = scene()
    made.grow(add_head())
    assert made.gradients() == [
        "backbone.weight",
        "backbone.bias",
        "heads.a.weight",
        "heads.a.bias",
    ]
    made.model.active_head = "b"
    assert made.gradients() == [
        "backbone.weight",
        "backbone.bias",
        "heads.b.weight",
        "heads.b.bias",
    ]


def test_what_was_added_can_be_selected():
    made = scene()
    factor = lr_factor(0.5, cohorts=("new",))
    made.grow(add_head(), held=[factor])
    assert made.actor.learning_rates() == [0.01]
    model, rates = made.model, made.actor._standing.rates
    scales = {n: rates.scale(*rates.class_of(p)).lr for n, p in model.named_parameters()}
    assert scales == {
        "backbone.weight": 1,
        "backbone.bias": 1,
        "heads.a.weight": 1,
        "heads.a.bias": 1,
        "heads.b.weight": 0.5,
        "heads.b.bias": 0.5,
    }


def test_a_template_that_a_stage_freezes_makes_a_head_that_learns():
    made = scene()
    made.actor.transact(boundary(held=[freeze("heads.a")]), accept)
    made.grow(add_head(), held=[freeze("heads.a")])
    model = made.model
    assert not model.heads["a"].weight.requires_grad
    assert model.heads["b"].weight.requires_grad


def test_what_the_user_froze_in_part_stays_so_in_the_new_head_and_all_of_it_is_refused():
    made = scene()
    made.model.heads["a"].bias.requires_grad_(False)
    made.grow(add_head())
    assert [p.requires_grad for p in made.model.heads["b"].parameters()] == [True, False]
    made = scene()
    made.model.heads["a"].requires_grad_(False)
    with pytest.raises(ActionError, match=r"head 'a' is frozen by its owner.* never be trained"):
        made.grow(add_head())


def test_what_a_head_shares_with_the_model_the_new_one_shares_too():
    made = scene()
    made.model.heads["a"].bias = made.model.shared = nn.Parameter(torch.zeros(3))
    made.optimizer.add_param_group({"params": [made.model.shared]})
    made.grow(add_head())
    assert made.model.heads["b"].bias is made.model.shared
    assert made.model.heads["b"].weight is not made.model.heads["a"].weight


REFUSED = {
    "no dictionary": ({"heads": "hedas"}, r"no nn\.ModuleDict 'hedas'.*did you mean 'heads'"),
    "another module": ({"heads": "backbone"}, "'backbone' is a Linear; heads are entries of"),
    "no such head": ({"like": "aa"}, "like 'aa' is no head in 'heads'.*'a'"),
    "taken": ({"head": "a"}, r"'heads' has a head 'a' already \(it has 'a'\)"),
    "a method": ({"head": "keys"}, "'keys' is an attribute of every ModuleDict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_added_is_refused_and_nothing_has_changed(name):
    fields, message = REFUSED[name]
    made = scene()
    before = digest(made.model, made.optimizer)
    with pytest.raises(ActionError, match=message):
        made.grow(add_head(**fields))
    assert digest(made.model, made.optimizer) == before


def test_an_empty_dictionary_is_refused():
    made = scene()
    made.model.others = nn.ModuleDict()
    with pytest.raises(ActionError, match="'others' is empty: there is no head to make one like"):
        made.grow(add_head(heads="others"))


def test_a_model_that_runs_every_head_is_refused():
    made = Scene(model=Headed("a", runs_all=True))
    before = digest(made.model, made.optimizer)
    with pytest.raises(ActionError, match=r"to keep the function, .* runs every entry"):
        made.grow(add_head())
    assert digest(made.model, made.optimizer) == before


def test_a_head_cannot_be_blended_in():
    made = scene()
    with pytest.raises(ActionError, match="added no block that could be blended in"):
        made.grow(add_head(), alpha=0.0, held=[alpha_ramp("new")])
    assert list(made.model.heads) == ["a"]


@pytest.mark.parametrize("failing", [operations, calls])
def test_a_failure_anywhere_leaves_everything_as_it_was(failing):
    made = scene()
    train(made.model, made.optimizer, 2)
    act = boundary(
        deeds=[snapshot(), growth(add_head(init="fresh"))],
        held=[lr_factor(0.5, cohorts=("main:grow#1",)), freeze("heads.a")],
    )
    check(made.model, made.optimizer, made.actor, act, failing, points=20)


def test_a_rollback_takes_it_out_again():
    made = scene()
    train(made.model, made.optimizer, 2)
    made.actor.transact(boundary(deeds=[snapshot()]), accept)
    before = digest(made.model, made.optimizer)
    made.grow(add_head())
    made.model.active_head = "b"
    train(made.model, made.optimizer, 2)
    assert made.model.heads["b"].weight in made.optimizer.state
    made.model.active_head = "a"
    made.actor.transact(boundary(restore=back_to()), accept)
    after = digest(made.model, made.optimizer)
    assert list(made.model.heads) == ["a"]
    assert [n for n, *_ in after[1]] == [n for n, *_ in before[1]]
    assert [row[-1] for row in after[1]] == [row[-1] for row in before[1]]
    assert after[3][0][2] == before[3][0][2]
    assert len(made.optimizer.state) == 4


def test_a_lineage_makes_it_again_without_a_random_number():
    made = scene()
    train(made.model, made.optimizer, 2)
    made.grow(add_head(init="fresh"))
    made.grow(add_head(head="c"), cohort="later")
    made.model.active_head = "c"
    train(made.model, made.optimizer, 2)
    lineage = made.actor.state_dict()["lineage"]
    fresh = scene()
    before = torch.get_rng_state()
    replay(fresh.model, fresh.optimizer, lineage)
    assert torch.equal(torch.get_rng_state(), before)
    fresh.model.load_state_dict(made.model.state_dict())
    fresh.optimizer.load_state_dict(made.optimizer.state_dict())
    assert equal(fresh.model, made.model) == [n for n, _ in made.model.named_parameters()]
    assert Lineage.from_json(lineage).as_json() == lineage


@pytest.mark.parametrize(
    ("heads", "message"),
    [(("a", "b"), "has a head 'b' already; give the model as it was"), (("c",), "has no head 'a'")],
)
def test_a_lineage_of_another_model_is_refused(heads, message):
    made = scene()
    made.grow(add_head())
    other = Headed(*heads)
    with pytest.raises(Exception, match=message):
        replay(other, SGD(other.parameters()), made.actor.state_dict()["lineage"])


def test_averaged_weights_get_it_too():
    model = Headed()
    averaged = AveragedModel(model)
    made = Scene(model=model, ema=averaged)
    made.grow(add_head(init="fresh"))
    theirs = averaged.module.heads["b"]
    assert equal(theirs, model.heads["b"]) == ["weight", "bias"]
    assert theirs.weight is not model.heads["b"].weight


def test_its_cost_is_known_before():
    model = Headed()
    optimizer = SGD(model.parameters(), lr=0.1)
    both = [add_head(), add_head(head="c", like="b")]
    actor = TorchActor(model, optimizer, {"main:one": both[:1], "main:two": both}, probe=None)
    assert actor.facts().costs == {"main:one": 3 * D + 3, "main:two": 2 * (3 * D + 3)}
