"""What a growth may not do, and what its certificate says of memory."""

import pytest
import torch
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from stagegraph.actions.memory import Height
from stagegraph.errors import ActionError
from tests.actions.models import (
    Block,
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
    growth,
    train,
)

PLACE = "main:grow.actions[0]"
ONE = sum(p.numel() for p in Block().parameters())


def made(model=None, **companions):
    torch.manual_seed(0)
    model = model or Model()
    optimizer = AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    return model, optimizer, TorchActor(model, optimizer, probe=batch(), **companions)


def grow(actor, action, **more):
    return actor.transact(boundary(deeds=[growth(action)], **more), accept).evidence[PLACE]


def refused(model, optimizer, actor, action, message, **more):
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(actor, action, **more)
    assert digest(model, optimizer) == before


def test_a_stack_within_its_tolerance_grows_and_says_what_it_was():
    _, _, actor = made()
    evidence = grow(actor, deepen(how="stack", tolerance=100))
    assert 0 < evidence["change"]["eval"] < 100
    assert (evidence["promise"], evidence["tolerance"]) == ("approximate", 100)


def test_a_stack_beyond_its_tolerance_is_refused():
    message = r"in eval mode the output on the probe changed by 0\.\d+, and its tolerance is 0\.001"
    refused(*made(), deepen(how="stack", tolerance=0.001), message)


def test_a_tolerance_holds_for_what_a_ramp_will_bring():
    action = deepen(how="stack", tolerance=0.001)
    message = r"in eval mode, with alpha 1, the output on the probe changed by 0\.\d+, and its"
    ramp = {"held": [alpha_ramp()], "alphas": {"main:grow#1": 0.0}}
    refused(*made(), action, message, **ramp)


class Rounding(Model):
    """A model that is a little off once it has grown."""

    off = 0.0

    def forward(self, x):
        return super().forward(x) + (self.off if len(self.blocks) > 2 else 0.0)


def test_what_promises_to_keep_the_function_may_change_it_as_far_as_declared():
    model, optimizer, actor = made(Rounding())
    model.off = 0.01
    refused(model, optimizer, actor, deepen(), "was to keep the function, and in eval mode")
    assert grow(actor, deepen(tolerance=0.011))["exactness"] == "approximate"


def test_a_change_that_is_no_number_is_beyond_every_tolerance():
    model, optimizer, actor = made(Rounding())
    model.off = float("nan")
    message = "in eval and train mode the grown model's output on the probe is not finite"
    refused(model, optimizer, actor, deepen(how="stack", tolerance=1000), message)


def test_another_shape_is_refused():
    class Longer(Model):
        def forward(self, x):
            out = super().forward(x)
            return out if len(self.blocks) == 2 else torch.cat([out, out])

    message = "in eval and train mode .* has another shape than before"
    refused(*made(Longer()), deepen(how="stack"), message)


def test_scores_masked_with_infinity_are_no_change():
    class Masking(Model):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([False, True, False]), -torch.inf)

    _, _, actor = made()
    model = Masking()
    actor = TorchActor(model, AdamW(model.parameters(), lr=0.01), probe=batch())
    assert grow(actor, deepen())["change"] == {"eval": 0.0, "train": 0.0, "alpha_1": 0.0}


def test_the_bytes_of_what_is_new_are_counted():
    _, _, actor = made()
    memory = grow(actor, deepen())["memory"]
    assert memory["new_bytes"] == 2 * ONE * 4
    assert memory["peak_bytes"] is None or memory["peak_bytes"] > 0
    assert "resident set of the process" in memory["how"]


def test_an_averaged_copy_takes_memory_too():
    torch.manual_seed(0)
    model = Model()
    ema = AveragedModel(model)
    actor = TorchActor(model, AdamW(model.parameters(), lr=0.01), probe=batch(), ema=ema)
    assert grow(actor, deepen())["memory"]["new_bytes"] == 2 * 2 * ONE * 4


def test_memory_that_rises_above_all_before_is_seen():
    height = Height([torch.ones(1)])
    before = height.as_json()
    taken = torch.ones(2**26)  # a quarter of a gigabyte, more than the tests ever took
    found = height.as_json()
    assert found["peak_bytes"] >= 0.9 * taken.nbytes
    assert found["how"] == "resident set of the process"
    assert before["peak_bytes"] is None or before["peak_bytes"] < found["peak_bytes"]


def test_where_nothing_tells_of_memory_it_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr("stagegraph.actions.memory._STATUS", tmp_path / "none")
    height = Height([torch.ones(1)])
    assert height.as_json() == {"peak_bytes": None, "how": "not measured on this system"}


def test_forwards_whose_result_is_known_are_not_run():
    def forwards(**more):
        model, _, actor = made()
        counted = []
        model.head.register_forward_hook(lambda *_: counted.append(1))
        grow(actor, deepen(how="stack"), **more)
        return len(counted)

    ramp = {"held": [alpha_ramp()]}
    assert forwards() == 3 + 4  # eval, train, train without dropout; and once for the gradient
    assert forwards(alphas={"main:grow#1": 0.0}, **ramp) == 3 + 5
    assert forwards(alphas={"main:grow#1": 0.5}, **ramp) == 3 + 6
