import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adafactor

from stagegraph.actions import TorchActor, inspect
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import AddHead, Regrow, RollBack, Send, SnapshotAction
from tests.actions.models import Counting, Model, activity, batch, deepen

GROW = ("main:grow.actions[0]", deepen())


def actor(optimizer=None, model=None, **options):
    model = model or Model()
    kind = optimizer or (lambda ps: SGD(ps, lr=0.1))
    return TorchActor(model, kind(model.parameters()), **options)


def test_what_can_be_had_passes():
    actor(probe=batch()).require(
        [
            GROW,
            ("p", SnapshotAction(type="snapshot", name="a")),
            ("p", Send(type="send", event="e")),
            ("p", RollBack(type="roll_back", to="a", data="skip")),
            ("p", RollBack(type="roll_back", to="a", rng="fork")),
        ],
        [
            ("p", activity(type="lr_factor", factor=0.5)),
            ("p", activity(type="freeze", of="inp")),
            ("p", activity(type="alpha_ramp", of="grown", over="10 steps")),
        ],
    )


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (deepen(), r"^main:a: a growth is measured on a batch, and there is none; give probe="),
        (
            RollBack(type="roll_back", to="a", lr_factor=0.5),
            r"returns the data to its position too \(data: rewind\), and nobody gave the data; "
            r"give data=.*or write data: skip",
        ),
    ],
)
def test_actions_that_cannot_be_had(action, message):
    with pytest.raises(UnsupportedError, match=message):
        actor().require([("main:a", action)])


@pytest.mark.parametrize(
    ("fields", "optimizer", "message"),
    [
        (
            {"type": "difficulty", "level": 1},
            None,
            "difficulty steers the data, and nobody gave the data; give data=",
        ),
        ({"type": "batch_size", "factor": 2.0, "lr": "sqrt"}, Adafactor, "nobody gave the data"),
        (
            {"type": "batch_size", "factor": 2.0, "lr": "sqrt", "accumulate": "grow"},
            Adafactor,
            "Adafactor is no optimizer",
        ),
        (
            {"type": "hyper", "optimizer": "momentum", "value": 0.5},
            LBFGS,
            "'momentum' is no number of a parameter group of LBFGS",
        ),
        (
            {"type": "lr_factor", "factor": 0.5},
            Adafactor,
            "Adafactor is no optimizer for learning-rate",
        ),
        ({"type": "lr_ramp", "end": 0, "over": "9 steps"}, Adafactor, "Adafactor is no optimizer"),
        ({"type": "freeze", "of": "inp"}, LBFGS, "LBFGS keeps one flat history"),
    ],
)
def test_activities_that_cannot_be_had(fields, optimizer, message):
    with pytest.raises(UnsupportedError, match=rf"^main:a\.during\[0\]: .*{message}"):
        actor(optimizer).require([], [("main:a.during[0]", activity(**fields))])


def test_all_problems_are_said_at_once():
    with pytest.raises(UnsupportedError) as refusal:
        actor().require([GROW], [("p", activity(type="difficulty", level=1))])
    assert len(str(refusal.value).splitlines()) == 2


def test_wrapped_models_are_not_grown():
    class DataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    with pytest.raises(
        UnsupportedError, match="the model is wrapped in DataParallel, which would not see"
    ):
        actor(model=DataParallel(Model()), probe=batch()).require([GROW])


def test_an_ema_that_cannot_grow_along_is_refused():
    class Ema:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    with pytest.raises(
        UnsupportedError, match=r"ema= is a Ema, which stagegraph cannot grow along"
    ):
        actor(probe=batch(), ema=Ema()).require([GROW])


@pytest.mark.parametrize("key", ["scheduler", "scaler", "ema", "data"])
def test_what_has_no_state_cannot_be_registered(key):
    with pytest.raises(UnsupportedError, match=rf"{key}= takes something with state_dict\(\) and"):
        actor(**{key: object()})


def test_the_model_is_looked_at_before_the_run():
    model = Model()
    problems = inspect(
        model,
        actions=[GROW, ("main:b", deepen(stack="block")), ("main:c", deepen(add=None, to=2))],
        activities=[
            ("main:d", activity(type="freeze", of=["inp", "hed"])),
            ("main:e", activity(type="lr_factor", factor=0.5, of=["grown", {"grown": "x"}])),
            ("main:f", activity(type="difficulty", level=1)),
        ],
        optimizers=[SGD(Model().parameters(), lr=0.1)],
    )
    assert [problem.split(":")[1] for problem in problems[:3]] == ["b", "c", "d"]
    assert "did you mean 'blocks'?" in problems[0]
    assert "there are 2 already, 2 is no growth" in problems[1]
    assert "'hed' matches no parameter and no module" in problems[2]
    assert problems[3].startswith("optimizer: SGD trains no parameter of this model")
    assert len(problems) == 4


def test_an_undeclared_count_is_seen_before_the_run():
    (problem,) = inspect(Counting(), actions=[GROW])
    assert "write count: [config.num_hidden_layers, config.layer_types]" in problem


def test_looking_changes_nothing():
    model = Counting()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    inspect(model, actions=[GROW], activities=[("p", activity(type="freeze", of="inp"))])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and model.config.num_hidden_layers == 2


class Headed(nn.Module):
    """An attribute says which entry of a dictionary is used; another dictionary is no such one."""

    def __init__(self, active="a"):
        super().__init__()
        self.layers = nn.ModuleDict({"inp": nn.Linear(2, 2)})
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 1), "coarse": nn.Linear(2, 1)})
        self.active = active


def using(head, *, model=None, actions=()):
    held = ("main:s.during[0]", activity(type="head", of="active", use=head))
    return inspect(
        model or Headed(), actions=[("main:g", one) for one in actions], activities=[held]
    )


def add_head(name):
    return AddHead(type="add_head", heads="heads", head=name)


def test_a_head_that_the_dictionary_has_not_is_refused_before_the_run():
    assert using("coarse") == []
    assert using("coarser") == [
        "main:s.during[0]: use 'coarser' is no head in heads, which has a, coarse; did you mean "
        "'coarse'?; name one of them, or add it with add_head"
    ]
    assert "use 'inp' is no head in heads" in using("inp")[0]


def test_a_head_that_a_growth_brings_is_known():
    assert using("fine", actions=[add_head("fine")]) == []
    assert "which has a, coarse, fine" in using("finer", actions=[add_head("fine")])[0]
    assert "'b'" in using("b", model=Headed(None), actions=[add_head("fine")])[0]


def test_where_no_dictionary_is_meant_nothing_is_said_of_the_head():
    assert using("b", model=Headed(None)) == []
    larger = Regrow(type="regrow", fields={"width": 8})
    assert not any("is no head" in problem for problem in using("b", actions=[larger]))
