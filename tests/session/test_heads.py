"""One backbone with a head per stage, in a plain loop: add_head and head, together."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

import stagegraph as sg
from stagegraph.actions import actor
from stagegraph.actions.randomness import RandomState
from tests.actions.models import digest
from tests.session.training import PROBE, Records, moments, weights

TOP = "stagegraph: 1\nname: heads\nbudget: {params: 50k, steps: 100}\ninitial: one\n"
GRAPH = (
    TOP
    + """
stages:
  one:
    kind: train
    during: [{type: head, of: active_head, use: coarse}]
    duration: 3 steps
    next: grow
  grow:
    kind: grow
    actions: [{type: add_head, heads: heads, head: fine, init: fresh}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: head, of: active_head, use: fine}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 3 steps}
    next: two
  two:
    kind: consolidate
    during: [{type: head, of: active_head, use: fine}]
    duration: 3 steps
    next: free
  free: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
"""
)


class Net(nn.Module):
    """A backbone with a frozen layer, and heads of which an attribute says which is in use."""

    def __init__(self):
        super().__init__()
        self.kept = nn.Linear(4, 4)
        self.kept.requires_grad_(False)
        self.backbone = nn.Linear(4, 6)
        self.drop = nn.Dropout(0.2)
        self.heads = nn.ModuleDict({"plain": nn.Linear(6, 1), "coarse": nn.Linear(6, 1)})
        self.active_head = "plain"
        self.config = SimpleNamespace(head=None, width=6)

    def forward(self, x):
        features = self.drop(torch.tanh(self.backbone(self.kept(x))))
        return self.heads[self.config.head or self.active_head](features)


class Headed:
    """A plain loop around an engine."""

    def __init__(self, document=GRAPH, **more):
        torch.manual_seed(3)
        self.model = Net()
        self.optimizer = AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.05)
        self.ema = AveragedModel(self.model) if more.pop("ema", False) else None
        self.records = Records()
        self.engine = sg.Engine(
            sg.load(document),
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
            probe=PROBE,
            **more,
        )
        self.engine.listen(self.records)
        self.updates = 0

    def tick(self):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(self.updates))
        out = self.model(x)
        loss = self.engine.loss((out - x.sum(1, keepdim=True)).pow(2).mean(), outputs=out, inputs=x)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        self.engine.step(loss=loss, samples=5)

    def go(self, updates=1000, *, until=None):
        self.engine.start()
        for _ in range(updates):
            if self.engine.done or (until is not None and self.stage == until):
                break
            self.tick()
        return self

    @property
    def stage(self):
        return self.engine.stages.get("main")

    def moved(self, before):
        now = weights(self.model)
        return {name.removesuffix(".weight") for name in before if before[name] != now[name]} - {
            name for name in before if name.endswith(".bias")
        }

    def save(self):
        return copy.deepcopy(
            {
                "engine": json.dumps(self.engine.state_dict()),
                "snapshots": self.engine.snapshots(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": RandomState.capture(),
                "updates": self.updates,
            }
        )

    def load(self, saved):
        self.engine.load_state_dict(json.loads(saved["engine"]))
        self.engine.load_snapshots(copy.deepcopy(saved["snapshots"]))
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        saved["random"].restore()
        self.updates = saved["updates"]
        return self

    def everything(self):
        return weights(self.model), moments(self.model, self.optimizer), self.model.active_head


def test_each_stage_trains_its_own_head_and_the_backbone_throughout():
    run = Headed()
    run.engine.start()
    seen = []
    while not run.engine.done:
        before, stage, head = weights(run.model), run.stage, run.model.active_head
        frozen = [n for n, p in run.model.named_parameters() if not p.requires_grad]
        run.tick()
        seen.append((stage, head, run.moved(before)))
        assert frozen == ["kept.weight", "kept.bias"]
    coarse, fine = {"backbone", "heads.coarse"}, {"backbone", "heads.fine"}
    plain = {"backbone", "heads.plain"}
    assert seen == [
        *[("one", "coarse", coarse)] * 3,
        ("warmup", "fine", {"backbone"}),  # the ramp begins at 0
        *[("warmup", "fine", fine)] * 2,
        *[("two", "fine", fine)] * 3,
        *[("free", "plain", plain)] * 2,
    ]
    assert run.model.active_head == "plain"


@pytest.mark.parametrize("cut", range(11))
def test_a_run_that_is_cut_goes_on_bit_for_bit(cut):
    whole = Headed().go(cut)
    saved, head = whole.save(), whole.model.active_head
    whole.go()
    resumed = Headed().load(saved)
    assert resumed.model.active_head == head
    resumed.go()
    assert resumed.everything() == whole.everything()


def test_a_live_engine_that_loads_an_earlier_state_gives_the_attribute_back():
    run = Headed().go(2)
    saved = run.save()
    run.go(until="two")
    run.load(saved)
    assert (run.model.active_head, list(run.model.heads)) == ("coarse", ["plain", "coarse"])
    run.go()
    assert run.everything() == Headed().go().everything()


def test_an_attribute_of_a_config_is_held_too_and_close_gives_it_back():
    run = Headed(GRAPH.replace("active_head", "config.head"))
    assert run.model.config.head is None
    run.go(1)
    assert run.model.config.head == "coarse"
    saved = run.save()
    assert '"held_attributes": {"config.head": null}' in saved["engine"]
    run.engine.close()
    assert run.model.config.head is None
    resumed = Headed(GRAPH.replace("active_head", "config.head")).load(saved)
    assert resumed.model.config.head == "coarse"
    resumed.go()
    assert resumed.model.config.head is None


def test_averaged_weights_use_the_same_head():
    run = Headed(ema=True).go(until="two")
    assert run.ema.module.active_head == "fine"
    assert list(run.ema.module.heads) == ["plain", "coarse", "fine"]
    run.go()
    assert run.ema.module.active_head == "plain"


@pytest.mark.parametrize("path", ["active_head", "config.head"])
def test_a_boundary_that_fails_leaves_everything_as_it_was(path, monkeypatch):
    run = Headed(GRAPH.replace("active_head", path)).go(2)

    def fail(*_args, **_more):
        raise ValueError("no room")

    before = []

    def note(step):
        before.append(digest(run.model, run.optimizer))
        return step

    held = actor.hold

    def hold(*args):
        held(*args)
        fail()

    monkeypatch.setattr(actor, "hold", hold)
    carry_out = actor.TorchActor._carry_out
    monkeypatch.setattr(actor.TorchActor, "_carry_out", lambda *args: note(0) or carry_out(*args))
    with pytest.raises(sg.ActionError, match="no room"):
        run.tick()
    assert before == [digest(run.model, run.optimizer)]
    assert list(run.model.heads) == ["plain", "coarse"]
    monkeypatch.undo()
    run.go()
    assert (run.model.active_head, run.model.config.head) == ("plain", None)


ROLLING = (
    TOP.replace("name:", "metrics: {loss: {goal: minimize}}\nname:")
    + """
stages:
  one:
    kind: train
    during: [{type: head, of: active_head, use: coarse}]
    duration: 3 steps
    next: grow
  grow:
    kind: grow
    actions: [{type: snapshot, name: safe}, {type: add_head, heads: heads, head: fine}]
    next: two
  two:
    kind: consolidate
    during: [{type: head, of: active_head, use: fine}]
    duration: 9 steps
    next: done
  again: {kind: train, duration: 4 steps, next: done, actions: [{type: teacher, name: then}]}
  done: {kind: final}
interrupts:
  - name: undo
    within: [two]
    when: elapsed(2 steps)
    actions: [{type: roll_back, to: safe, data: skip}]
    target: again
    at_most: 1
"""
)


def test_a_rollback_takes_the_head_out_and_gives_the_attribute_back():
    run = Headed(ROLLING).go(until="two")
    assert (run.model.active_head, list(run.model.heads)) == ("fine", ["plain", "coarse", "fine"])
    run.go(until="again")
    assert (run.model.active_head, list(run.model.heads)) == ("plain", ["plain", "coarse"])
    (teacher,) = run.engine._torch._standing.teachers.values()
    assert teacher.module.active_head == "coarse"  # the model as it was returned to
    saved = run.save()
    run.go()
    resumed = Headed(ROLLING).load(saved)
    resumed.go()
    assert resumed.everything() == run.everything()


TAUGHT = (
    TOP
    + """
stages:
  one:
    kind: train
    during: [{type: head, of: active_head, use: coarse}]
    duration: 2 steps
    next: FIRST
  two:
    kind: train
    actions: [{type: teacher, name: old}]
    during: [{type: head, of: active_head, use: plain}, {type: distill, teachers: old, loss: mse}]
    duration: 3 steps
    next: three
  FREE
  three:
    kind: train
    during: [{type: distill, teachers: old, loss: mse}]
    duration: 2 steps
    next: done
  done: {kind: final}
"""
)


FREE = {"two": "", "free": "  free: {kind: train, duration: 2 steps, next: two}\n"}


@pytest.mark.parametrize(("first", "head"), [("two", "coarse"), ("free", "renamed")])
@pytest.mark.parametrize("further", [0, 1, 4])
def test_a_teacher_goes_on_with_the_head_of_then(first, head, further):
    def start():
        run = Headed(TAUGHT.replace("FIRST", first).replace("  FREE\n", FREE[first]))
        run.model.heads["renamed"] = nn.Linear(6, 1)
        run.optimizer.add_param_group({"params": list(run.model.heads["renamed"].parameters())})
        run.model.active_head = "renamed"
        return run

    run = start().go(until="two").go(further)
    (teacher,) = run.engine._torch._standing.teachers.values()
    assert teacher.module.active_head == head
    saved = run.save()
    run.go()
    resumed = start().load(saved)
    (again,) = resumed.engine._torch._standing.teachers.values()
    assert again.module.active_head == head
    assert resumed.save()["snapshots"].keys() == saved["snapshots"].keys()
    assert resumed.go().everything() == run.everything()


# What is refused


def test_what_a_graph_names_is_looked_up_before_the_run():
    alone = GRAPH.partition("  grow:")[0].replace("next: grow", "next: done")
    alone += "  done: {kind: final}\n"
    for path, message in {
        "active_heda": r"of 'active_heda' is no attribute .*did you mean 'active_head'",
        "config.width": "'config.width' holds a int, and not the name of a head",
        "heads": "'heads' holds a ModuleDict, and not the name of a head",
    }.items():
        with pytest.raises(sg.UnsupportedError, match=message):
            Headed(alone.replace("active_head", path))
    wrong = GRAPH.replace("heads: heads", "heads: hedas")
    with pytest.raises(sg.UnsupportedError, match=r"no nn\.ModuleDict 'hedas'.*'heads'"):
        Headed(wrong)


def test_a_head_may_be_like_one_that_the_graph_adds_before():
    more = "{type: add_head, heads: heads, head: finest, like: fine}"
    run = Headed(GRAPH.replace("init: fresh}]", "init: fresh}, " + more + "]")).go()
    assert list(run.model.heads) == ["plain", "coarse", "fine", "finest"]


BESIDE = """
stagegraph: 1
name: two regions on one attribute
regions:
  one:
    initial: coarse
    stages:
      coarse:
        kind: train
        during: [{type: head, of: active_head, use: coarse}]
        duration: 4 steps
        next: done
      done: {kind: final}
  two:
    initial: wait
    stages:
      wait: {kind: train, duration: 2 steps, next: plain}
      plain:
        kind: train
        during: [{type: head, of: active_head, use: plain}]
        duration: 2 steps
        next: done
      done: {kind: final}
"""


def test_two_regions_that_hold_one_attribute_at_once_are_refused_at_the_boundary():
    run = Headed(BESIDE).go(1)
    with pytest.raises(sg.ActionError, match=r"is held by one:coarse\.during\[0\] already"):
        run.go()
    assert run.model.active_head == "coarse"
    found = sg.check(sg.load(BESIDE))
    assert [(f.code, f.severity) for f in found if "active_head" in f.message] == [
        ("shared-data-knob", "warning")
    ]


# A head that is not there

MISSING = (
    TOP
    + """
waive: {no-monitor: short}
stages:
  one: {kind: train, duration: 2 steps, next: grow}
  grow: {kind: grow, actions: [GROWTH], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: lr_ramp, of: grown, start: 0, over: 3 steps}
      - {type: head, of: OF, use: USE}
    next: done
  done: {kind: final}
"""
)
ATTACH = "{type: attach, host: [backbone], module: linear}"


def missing(use, growth=ATTACH, of="active_head"):
    return MISSING.replace("GROWTH", growth).replace("USE", use).replace("OF", of)


@pytest.mark.parametrize(
    ("growth", "known"),
    [
        (ATTACH, "plain, coarse"),
        ("{type: add_head, heads: heads, head: fine}", "plain, coarse, fine"),
    ],
)
def test_a_head_that_no_growth_adds_is_an_error_before_the_run(growth, known):
    graph, model = sg.load(missing("nohead", growth)), Net()
    optimizer = AdamW(model.parameters())
    found = sg.check(graph, model=model, optimizer=optimizer, probe=PROBE)
    (one,) = [one for one in found if one.pointer == "/stages/warmup/during/1"]
    assert (one.severity, one.code) == ("error", "model-mismatch")
    says = f"main:warmup.during[1]: use 'nohead' is no head in heads, which has {known}"
    assert says in one.message
    with pytest.raises(sg.UnsupportedError) as no:
        sg.Engine(graph, model=model, optimizer=optimizer, probe=PROBE)
    assert says in str(no.value)
    assert "name one of them, or add it with add_head" in str(no.value)


def test_of_one_that_a_growth_adds_nothing_is_said():
    graph, model = sg.load(GRAPH), Net()
    found = sg.check(graph, model=model, optimizer=AdamW(model.parameters()), probe=PROBE)
    assert not [one for one in found if "is no head" in one.message]


def test_one_that_is_added_to_another_dictionary_does_not_count():
    other = "{type: add_head, heads: others, head: fine}"
    graph, model = sg.load(missing("fine", other)), Net()
    model.others = nn.ModuleDict({"first": nn.Linear(6, 1)})
    found = sg.check(graph, model=model, optimizer=AdamW(model.parameters()), probe=PROBE)
    assert not [one for one in found if one.severity == "error"]  # either may be the one meant
    without = sg.load(missing("fine"))
    found = sg.check(without, model=model, optimizer=AdamW(model.parameters()), probe=PROBE)
    assert [one.severity for one in found if one.code == "model-mismatch"] == ["error"]


def test_an_attribute_that_the_model_has_not_is_an_error_too():
    graph, model = sg.load(missing("coarse", of="activ_head")), Net()
    with pytest.raises(sg.UnsupportedError, match="'activ_head' is no attribute of the model"):
        sg.Engine(graph, model=model, optimizer=AdamW(model.parameters()), probe=PROBE)


@pytest.mark.parametrize("ema", [False, True])
def test_one_that_could_not_be_known_is_refused_at_the_boundary_and_nothing_has_changed(ema):
    """No dictionary is meant by what the attribute holds, until a run has come to use one."""
    run = Headed(missing("nohead", of="config.head"), ema=ema)
    run.model.config.head = "plain"  # the loop's author says it after the engine was made
    run.engine.start()
    run.tick()
    before = weights(run.model)
    with pytest.raises(sg.ActionError, match=r"during\[1\]: use 'nohead' is no head in heads"):
        run.tick()
    assert weights(run.model) != before  # the update, which was made before the boundary
    assert (run.stage, run.model.active_head, run.model.config.head) == ("one", "plain", "plain")
    assert list(run.model.backbone.children()) == []
    run.model(PROBE)


def test_one_that_an_add_head_would_have_brought_on_another_way_is_refused_at_the_boundary():
    text = (
        TOP
        + """
waive: {no-monitor: short}
metrics: {loss: {goal: minimize}}
stages:
  one:
    kind: train
    transitions: [{target: grow, when: loss > 1000000}]
    duration: 2 steps
    next: use
  grow: {kind: grow, actions: [{type: add_head, heads: heads, head: fine}], next: use}
  use:
    kind: consolidate
    during: [{type: head, of: active_head, use: fine}]
    duration: 2 steps
    next: done
  done: {kind: final}
"""
    )
    run = Headed(text).go(1)
    with pytest.raises(sg.ActionError, match=r"use 'fine' is no head in heads, which has plain"):
        run.tick()
    assert (run.stage, run.model.active_head) == ("one", "plain")
    run.model(PROBE)
