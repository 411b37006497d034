"""What has grown is trained alone first, in its host, which keeps still and is given back whole.

A sketch unfroze at the end what the user had frozen, trained the new module without its host, and
let batch statistics and dropout of the host go on.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD

import stagegraph as sg
from tests.session.training import WIDTH, Net, Training, weights

GRAPH = """
stagegraph: 1
name: frozen host
budget: {steps: 40}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: freeze, of: all, but: grown, norms: eval, dropout: eval}
      - {type: lr_ramp, of: grown, start: 0.5, end: 1, over: 4 steps}
    next: consolidate
  consolidate: {kind: consolidate, duration: 3 steps, next: done}
  done: {kind: final}
"""


class Block(nn.Module):
    """Residual, with batch statistics, and dropout both as a module and as a function."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.up = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.3)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        inner = nn.functional.dropout(self.up(self.norm(x)), 0.3, training=self.training)
        return x + self.down(self.drop(torch.tanh(inner)))


class Host(Net):
    """Its first layer has been frozen by the user."""

    def __init__(self):
        super().__init__(depth=0)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.inp.weight.requires_grad_(requires_grad=False)


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def host_of(model):
    return {n: v for n, v in weights(model).items() if not n.startswith("blocks.2")}


def to_warmup(document=GRAPH, **more):
    return Training(document, model=more.pop("model", None) or Host(), **more).go(3)


def test_only_what_has_grown_is_trained_and_with_its_host():
    training = to_warmup()
    assert training.stage == "warmup"
    trained = {n for n, p in training.model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in training.model.named_parameters() if "blocks.2" in n}
    before, new = host_of(training.model), weights(training.model)["blocks.2.up.weight"]
    ran = []
    training.model.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    for _ in range(4):
        training.model.train()  # as a host does in each epoch
        training.tick()
    assert len(ran) == 4
    assert host_of(training.model) == before
    assert weights(training.model)["blocks.2.up.weight"] != new


def test_the_host_drops_nothing_out_and_the_new_block_does():
    training = to_warmup().go(2)  # of zeros, a block drops nothing out that could be seen
    x, model = torch.randn(64, WIDTH), training.model

    def agree(block):
        return torch.equal(block(x), block(x))

    assert model.training and all(block.training for block in model.blocks)
    assert [agree(block) for block in model.blocks] == [True, True, False]
    training.go(2)
    assert [agree(block) for block in model.blocks] == [False, False, False]


@pytest.mark.parametrize(("kept", "still"), [("norms", "dropout"), ("dropout", "norms")])
def test_norms_and_dropout_are_asked_for_apart(kept, still):
    training = to_warmup(GRAPH.replace(f", {kept}: eval", ""))
    block, x = training.model.blocks[0], torch.randn(64, WIDTH)
    mean = block.norm.running_mean.clone()
    drops = not torch.equal(block(x), block(x))
    moves = not torch.equal(block.norm.running_mean, mean)
    assert (drops, moves) == ((still == "norms"), (still == "dropout"))


@pytest.mark.parametrize("how", ["as it was", "train", "eval"])
def test_everything_is_given_back_whatever_the_host_calls(how):
    training = Training(GRAPH, model=Host())
    model, x = training.model, torch.randn(64, WIDTH)
    model.blocks[1].eval()  # the user's own, and to stay so
    own = flags(model)
    training.go(3)
    assert hooks(model) == 2 * 6  # two blocks with their norms and dropouts, in and out
    for _ in range(4):
        if how != "as it was":
            getattr(model, how)()
        training.tick()
    assert training.stage == "consolidate"
    assert hooks(model) == 0
    expected = dict.fromkeys(own, how == "train") if how != "as it was" else own
    assert {name: flags(model)[name] for name in own} == expected
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"inp.weight"}
    model.train()
    assert not torch.equal(model.blocks[0](x), model.blocks[0](x))
    before = host_of(model)
    training.tick()
    changed = {name for name, value in host_of(model).items() if value != before[name]}
    assert "inp.weight" not in changed and {"inp.bias", "blocks.0.up.weight"} <= changed


def test_after_a_growth_in_width_the_old_entries_keep_still_and_the_new_ones_learn():
    document = GRAPH.replace(
        "{type: deepen, stack: blocks, add: 1}", "{type: widen, space: mlp, factor: 2, how: pair}"
    ).replace(
        "budget:",
        "spaces:\n  tensors: {blocks.*.up.weight: mlp _, blocks.*.up.bias: mlp, "
        "blocks.*.down.weight: _ mlp}\nbudget:",
    )
    training = to_warmup(document, model=Net())
    model, old = training.model, 2 * WIDTH
    assert training.stage == "warmup" and model.blocks[0].up.out_features == 2 * old
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    training.go(4)
    for name, parameter in model.named_parameters():
        now, was = parameter.detach(), before[name]
        if ".up." in name:
            assert torch.equal(now[:old], was[:old]), name
            assert not torch.equal(now[old:], was[old:]), name
        elif name.endswith("down.weight"):
            assert torch.equal(now[:, :old], was[:, :old]), name
            assert not torch.equal(now[:, old:], was[:, old:]), name
        else:
            assert torch.equal(now, was), name
    training.go(1)
    assert not torch.equal(model.blocks[0].up.weight.detach()[:old], before["blocks.0.up.weight"])


def test_a_factor_for_all_but_the_growth_leaves_it_at_the_hosts_rate():
    document = GRAPH.replace(
        "{type: freeze, of: all, but: grown, norms: eval, dropout: eval}",
        "{type: lr_factor, of: all, but: grown, factor: 0}",
    )
    extra = nn.Parameter(torch.ones(2))  # the optimizer's own, such as a loss's
    training = Training(document, optimizer=lambda own, lr: SGD([*own, extra], lr=lr))
    training.go(3)
    extra.grad = torch.ones(2)
    before = host_of(training.model)
    training.update()
    assert host_of(training.model) == before and extra.tolist() == [1.0, 1.0]


def test_what_is_taken_out_must_be_there_and_leave_something():
    training = Training(GRAPH.replace("but: grown", "but: blokcs"), model=Host())
    with pytest.raises(sg.ActionError, match=r"'blokcs' matches no parameter.*did you mean"):
        training.go(3)
    training = Training(GRAPH.replace("of: all, but: grown", "of: 'in*', but: inp"), model=Host())
    with pytest.raises(sg.ActionError, match="nothing is left of the selection once 'but'"):
        training.go(3)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("of: all, but: all", "without all nothing would be left"),
        ("of: grown, but: [grown, inp]", "'but' takes out all that 'of' names"),
    ],
)
def test_taking_all_out_is_refused_when_it_is_read(written, message):
    with pytest.raises(sg.DocumentError, match=message):
        sg.load(GRAPH.replace("of: all, but: grown", written))


def test_a_freeze_of_all_but_something_is_no_freeze_of_everything():
    def codes(document):
        return {found.code for found in sg.check(sg.load(document))}

    assert "freeze-everything" not in codes(GRAPH)
    assert "freeze-everything" in codes(GRAPH.replace(", but: grown", ""))
    early = GRAPH.replace(
        "{kind: train, duration",
        "{kind: train, during: [{type: freeze, of: all, but: grown}], duration",
    )
    assert "grown-before-growth" in codes(early)


STILL = """
stagegraph: 1
name: a norm stands still
budget: {steps: 9}
initial: before
stages:
  before: {kind: train, duration: 3 steps, next: still}
  still:
    kind: train
    during: [{type: freeze, of: blocks, norms: eval, dropout: eval}]
    duration: 3 steps
    next: after
  after: {kind: train, duration: 3 steps, next: done}
  done: {kind: final}
"""


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_model_sees_modules_stand_still(compiled):
    """Compiled code looks for no hook that has come, and here nothing else changes with it."""
    model = Host()
    model.blocks.requires_grad_(requires_grad=False)
    training, means = Training(STILL, model=model), []
    if compiled:
        model.compile(backend="eager")
    while not training.engine.done:
        means.append(model.blocks[0].norm.running_mean.tolist())
        training.tick()
    moved = [before != after for before, after in pairwise(means)]
    assert moved == [True, True, True, False, False, False, True, True]
