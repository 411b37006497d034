"""distill in a plain loop: what it adds, what it asks for, and what it leaves behind."""

import copy
import io
import json
import math

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.actions.distilling.teachers import Teacher
from stagegraph.actions.randomness import RandomState
from tests.actions.models import Block, Model, batch
from tests.session.training import Records, weights

HEAD = "stagegraph: 1\nname: distilling\nbudget: {params: 50k, steps: 100}\ninitial: train\n"

GROWING = (
    HEAD
    + """
activities:
  slow: {type: distill, teachers: small, temperature: {start: 4, end: 1, over: 6 steps}}
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: teacher, name: small}, {type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during: [slow, {type: alpha_ramp, of: grown, over: 4 steps}]
    next: consolidate
  consolidate:
    kind: consolidate
    actions: [{type: teacher, name: large}]
    during:
      - slow
      - type: distill
        teachers: [small, {name: large, weight: {start: 0, end: 3, over: 2 steps}}]
        on: features
        features: ["blocks.*", head]
        weight: {start: 0.5, end: 0, over: 4 steps, curve: cosine}
        mix: interpolate
    duration: 5 steps
    next: done
  done: {kind: final}
"""
)

ALONE = (
    HEAD
    + """
stages:
  train: {kind: train, duration: 2 steps, next: taught, actions: [{type: teacher, name: old}]}
  taught:
    kind: train
    during: [{type: distill, teachers: old, HOW}]
    duration: LENGTH steps
    next: done
  done: {kind: final}
"""
)


def alone(how="temperature: 2, weight: 0.5", length=4):
    return ALONE.replace("HOW", how).replace("LENGTH", str(length))


class Taught:
    """A model with batch norm and dropout in a plain loop that shows the engine its batches."""

    def __init__(self, document, *, model=None, device="cpu", dtype=torch.float32, **more):
        torch.manual_seed(3)
        self.model = (Model() if model is None else model).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.records = Records()
        self.engine = sg.Engine(
            sg.load(document),
            model=self.model,
            optimizer=self.optimizer,
            probe=batch().to(device, dtype),
            **more,
        )
        self.engine.listen(self.records)
        self.updates = 0
        self.losses = []

    def batch(self, rows=6):
        generator = torch.Generator().manual_seed(self.updates)
        x = torch.randn(rows, 3, 4, generator=generator)
        y = torch.randint(3, (rows,), generator=generator)
        return x.to(self.device, self.dtype), y.to(self.device)

    def forward(self):
        x, y = self.batch()
        out = self.model(x)
        task = nn.functional.cross_entropy(out, y)
        return task, self.engine.loss(task, outputs=out, inputs=x), out, x

    def tick(self):
        task, loss, _, _ = self.forward()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        self.losses.append((task.item(), loss.item()))
        self.engine.step(loss=loss)

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

    @property
    def standing(self):
        return self.engine._torch._standing

    @property
    def teachers(self):
        return self.standing.teachers

    def hooks(self):
        return [
            hook
            for module in self.model.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        ]

    def save(self):
        file = io.BytesIO()
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kept": self.engine.snapshots(),
        }
        torch.save(tensors, file)
        return json.dumps(self.engine.state_dict()), file, self.updates, RandomState.capture()

    def load(self, saved):
        state, file, self.updates, random = saved
        file.seek(0)
        tensors = torch.load(file, weights_only=True)
        self.engine.load_state_dict(json.loads(state))
        self.model.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.engine.load_snapshots(tensors["kept"])
        random.restore()
        return self


def kl(student, teacher, temperature):
    log_p = (teacher.double() / temperature).log_softmax(-1)
    log_q = (student.double() / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * temperature**2


def test_a_cut_run_goes_on_bit_for_bit():
    whole = Taught(GROWING)
    whole.engine.start()
    saved = [whole.save()]
    while not whole.engine.done:
        whole.tick()
        saved.append(whole.save())
    assert [m["target"] for m in whole.records.of("move")][-1] == "main:done"
    for cut in (1, 3, 4, 7, 9):  # before and at the growth, in the warm-up, at and after its end
        resumed = Taught(GROWING).load(saved[cut]).go()
        assert resumed.losses == whole.losses[cut:], cut
        assert weights(resumed.model) == weights(whole.model), cut


def test_teachers_change_what_is_learnt():
    little, much = Taught(alone("weight: 0.1")).go(), Taught(alone("weight: 1")).go()
    assert weights(little.model) != weights(much.model)


def test_the_loss_is_the_tasks_and_the_divergence_by_hand():
    run = Taught(alone()).go(until="taught")
    (teacher,) = run.teachers.values()
    task, loss, out, x = run.forward()
    assert teacher.module.training is False
    expected = task.double() + 0.5 * kl(out, teacher.run(x), 2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (mine,) = torch.autograd.grad(loss, run.model.head.weight, retain_graph=True)
    (exact,) = torch.autograd.grad(expected, run.model.head.weight)
    torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-7)


def test_a_teacher_may_be_made_between_the_first_forward_and_its_backward():
    run = Taught(alone())
    run.tick()
    assert len(run.teachers) == 1


def test_a_teacher_is_the_model_at_the_start_of_its_boundary():
    run = Taught(alone())
    run.model.eval()
    x = batch(9)
    with torch.no_grad():
        expected = run.model(x)
    run.model.train()
    run.go(until="taught")
    (teacher,) = run.teachers.values()
    assert torch.equal(teacher.run(x), expected)


def test_weight_and_temperature_move_as_written():
    run = Taught(
        alone(
            "weight: {start: 1, end: 0, over: 2 steps}, "
            "temperature: {start: 1, end: 3, over: 4 steps}",
            length=5,
        )
    ).go(until="taught")
    (teacher,) = run.teachers.values()
    for weight, temperature in [(1, 1), (0.5, 1.5), (0, 2), (0, 2.5)]:
        task, loss, out, x = run.forward()
        expected = task.double() + weight * kl(out, teacher.run(x), temperature)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        run.tick()


def test_interpolation_comes_before_addition_and_in_order():
    also = "}, {type: distill, teachers: old, mix: interpolate, "
    how = f"weight: 0.25{also}loss: mse, weight: 0.5{also}loss: cosine, weight: 0.25"
    run = Taught(alone(how)).go(until="taught")
    (teacher,) = run.teachers.values()
    task, loss, out, x = run.forward()
    taught = teacher.run(x)
    mse = (out - taught).square().mean()
    cosine = 1 - nn.functional.cosine_similarity(out, taught, dim=-1).mean()
    expected = 0.75 * (0.5 * task + 0.5 * mse) + 0.25 * cosine + 0.25 * kl(out, taught, 1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


TWO = (
    HEAD
    + """
stages:
  train: {kind: train, duration: 2 steps, next: middle, actions: [{type: teacher, name: first}]}
  middle: {kind: train, duration: 2 steps, next: taught}
  taught:
    kind: train
    actions: [{type: teacher, name: second}]
    during: [{type: distill, teachers: [{name: first, weight: 3}, second]}]
    duration: 2 steps
    next: done
  done: {kind: final}
"""
)


def test_two_teachers_are_mixed_by_their_shares():
    run = Taught(TWO).go(until="taught")
    first, second = run.teachers.values()
    task, loss, out, x = run.forward()
    p = 0.75 * first.run(x).double().softmax(-1) + 0.25 * second.run(x).double().softmax(-1)
    expected = task + (p * (p.log() - out.double().log_softmax(-1))).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_newest_of_a_name_counts_and_the_older_goes():
    run = Taught(TWO.replace("name: second", "name: first").replace(", second]", "]"))
    run.engine.start()
    (old,) = run.teachers
    run.go(until="taught")
    (new,) = run.teachers
    assert (old, new) == ("teacher:first@0.0", "teacher:first@4.0")


# Features, and a smaller teacher of a grown model


SMALLER = (
    HEAD
    + """
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: teacher, name: small}, {type: deepen, stack: blocks, add: 2, at: spread}]
    next: taught
  taught:
    kind: settle
    lr_factor: 0.5
    during: [{type: distill, teachers: small, on: features, features: ["blocks.*", head]}]
    duration: 5 steps
    next: done
  done: {kind: final}
"""
)


def test_a_smaller_teacher_teaches_the_grown_model_by_its_blocks():
    run = Taught(SMALLER).go(until="taught")
    (small,) = run.teachers.values()
    assert (len(small.module.blocks), len(run.model.blocks)) == (2, 4)
    pairs = [
        (run.model.blocks[0], small.module.blocks[0]),
        (run.model.blocks[2], small.module.blocks[1]),
        (run.model.head, small.module.head),
    ]
    seen = {}
    for module in (module for pair in pairs for module in pair):
        module.register_forward_hook(lambda module, _args, out: seen.update({module: out}))
    task, loss, _, _ = run.forward()
    distances = [(seen[mine] - seen[taught]).square().mean() for mine, taught in pairs]
    assert loss.item() == pytest.approx((task + sum(distances) / 3).item(), rel=1e-6)


def test_hooks_and_tensors_are_gone_when_the_stage_is_left():
    run = Taught(alone("on: features, features: [blocks.0]", length=2))
    assert not run.hooks()
    run.go(until="taught")
    assert len(run.hooks()) == 2
    run.tick()
    assert not run.standing.teaching.taps.seen
    run.go()
    assert run.engine.done
    assert not run.hooks()


def test_hooks_are_gone_when_the_engine_is_closed():
    run = Taught(alone("on: features, features: [blocks.0]")).go(until="taught")
    run.engine.close()
    assert not run.hooks()
    assert not run.teachers


def test_an_evaluation_before_the_loss_is_not_compared():
    run = Taught(alone("on: features, features: [blocks.0]")).go(until="taught")
    x, y = run.batch()
    torch.manual_seed(7)
    task = nn.functional.cross_entropy(run.model(x), y)
    expected = run.engine.loss(task, inputs=x)
    torch.manual_seed(7)
    task = nn.functional.cross_entropy(run.model(x), y)
    with torch.no_grad():
        run.model(x * 9)
    assert run.engine.loss(task, inputs=x).item() == expected.item()


def test_a_compiled_model_is_taught_alike():
    def losses(*, compiled):
        torch.manual_seed(3)
        model = Model(norm=False, block=lambda: Block(dropout=0.0))
        given = torch.compile(model, backend="eager") if compiled else model
        run = Taught(alone("on: features, features: [blocks.0]", length=2), model=given)
        run.go()
        assert not model._forward_pre_hooks
        return run.losses

    assert losses(compiled=True) == losses(compiled=False)


def test_a_module_that_did_not_run_is_told_of():
    run = Taught(alone("on: features, features: [blocks.0]")).go(until="taught")
    with pytest.raises(
        sg.StageGraphError, match=r"main:taught\.during\[0\]: module 'blocks.0' .* since the last"
    ):
        run.engine.loss(torch.ones(()), inputs=batch())


def test_a_pattern_that_matches_nothing_is_refused_before_the_run():
    with pytest.raises(
        sg.UnsupportedError, match=r"taught\.during\[0\]: 'block.0' matches no module .* 'blocks.0'"
    ):
        Taught(alone("on: features, features: [block.0]"))


def test_a_block_that_was_grown_since_has_no_counterpart():
    run = Taught(GROWING.replace('["blocks.*", head]', "[blocks.2]")).go(until="warmup")
    with pytest.raises(
        sg.ActionError, match=r"no module that 'blocks.2' matches is in 'small', 'large' too"
    ):
        run.go()
    assert run.stage == "warmup"


# What it asks for


def test_inputs_and_outputs_are_asked_for():
    run = Taught(alone()).go(until="taught")
    x, y = run.batch()
    out = run.model(x)
    task = nn.functional.cross_entropy(out, y)
    with pytest.raises(
        sg.StageGraphError,
        match=r"taught\.during\[0\]: this stage learns from 'old', .* as inputs=",
    ):
        run.engine.loss(task)
    with pytest.raises(sg.StageGraphError, match=r"nothing was given; .* as outputs="):
        run.engine.loss(task, inputs=x)
    with pytest.raises(sg.StageGraphError, match="a dict without a tensor was given"):
        run.engine.loss(task, outputs={"labels": y}, inputs=x)


def test_a_loss_per_example_is_refused():
    run = Taught(alone()).go(until="taught")
    x, _ = run.batch()
    with pytest.raises(sg.StageGraphError, match=r"is one number; .* not a tensor of shape \(6,\)"):
        run.engine.loss(torch.ones(6), outputs=run.model(x), inputs=x)


def test_an_update_without_its_loss_is_refused_and_not_counted():
    run = Taught(alone()).go(until="taught")
    before = run.engine.progress.step
    with pytest.raises(
        sg.StageGraphError, match=r"learns from 'old', and no loss of this update came"
    ):
        run.engine.step()
    assert run.engine.progress.step == before
    run.forward()
    with torch.no_grad():
        run.forward()
    run.engine.step()
    with torch.no_grad():
        run.forward()
    with pytest.raises(sg.StageGraphError, match="no loss of this update"):
        run.engine.step()


def test_several_losses_per_update_are_taught_alike():
    run = Taught(alone()).go(until="taught")
    for _ in range(3):
        _, loss, _, _ = run.forward()
        (loss / 3).backward()
    run.optimizer.step()
    run.engine.step()
    assert run.engine.progress.step == 3


class Spoken(nn.Module):
    """A model that takes names and answers with a mapping."""

    def __init__(self, num=3):
        super().__init__()
        self.linear = nn.Linear(4, num)

    def forward(self, x, scale=1.0):
        return {"loss": torch.zeros(()), "logits": self.linear(x) * scale}


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": torch.ones(2, 4), "scale": 2.0},
        (torch.ones(2, 4), 2.0),
        lambda m: m(torch.ones(2, 4), 2.0),
    ],
)
def test_inputs_are_given_in_any_form(inputs):
    torch.manual_seed(0)
    model = Spoken()
    with torch.no_grad():
        expected = model(torch.ones(2, 4), 2.0)["logits"]
    engine = sg.Engine(sg.load(alone()), model=model, optimizer=torch.optim.SGD(model.parameters()))
    engine.start()
    engine.step()
    engine.step()
    student = torch.zeros(2, 3, requires_grad=True)
    found = engine.loss(torch.zeros(()), outputs={"logits": student}, inputs=inputs)
    assert found.item() == pytest.approx(0.5 * kl(student, expected, 2).item(), rel=1e-6)


def test_inputs_that_the_teacher_cannot_take_are_told_of():
    run = Taught(alone()).go(until="taught")
    with pytest.raises(
        sg.UnsupportedError, match=r"teacher 'old' cannot be run on inputs= \(RuntimeError"
    ):
        run.engine.loss(torch.zeros(()), outputs=torch.zeros(2, 3), inputs=torch.zeros(2, 3, 9))


def test_another_number_of_classes_is_told_of():
    run = Taught(alone()).go(until="taught")
    with pytest.raises(
        sg.UnsupportedError,
        match=r"the model's logits gave \(6, 5\) .* 'old' \(6, 3\), .* compare features",
    ):
        run.engine.loss(torch.zeros(()), outputs=torch.zeros(6, 5), inputs=run.batch()[0])


@pytest.mark.parametrize("how", ["weight: 1", "loss: mse", "on: features, features: [head]"])
def test_a_teacher_that_is_not_finite_is_named(how):
    run = Taught(alone(how)).go(until="taught")
    (teacher,) = run.teachers.values()
    with torch.no_grad():
        teacher.module.head.bias[1] = math.nan
    with pytest.raises(
        sg.StageGraphError, match=r"during\[0\]: teacher 'old' put out numbers that are not finite"
    ):
        run.forward()


# Where a teacher is


def test_a_teacher_is_on_the_device_only_while_it_teaches(monkeypatch):
    moves = []
    monkeypatch.setattr(Teacher, "place", lambda self, device: moves.append(("place", device)))
    monkeypatch.setattr(Teacher, "release", lambda self: moves.append(("release",)))
    run = Taught(alone(length=2)).go(until="taught")
    assert ("place", torch.device("cpu")) not in moves[1:]
    del moves[:]
    run.tick()
    assert moves == [("place", torch.device("cpu"))]
    run.tick()
    assert moves == [("place", torch.device("cpu"))] * 2 + [("release",)]


def test_a_teacher_goes_to_a_device_and_comes_back(monkeypatch):
    run = Taught(alone()).go(until="taught")
    (teacher,) = run.teachers.values()
    sent = []
    monkeypatch.setattr(teacher.module, "to", sent.append)
    teacher.place(torch.device("cpu"))
    assert sent == []
    teacher.place(torch.device("meta"))
    assert sent == [torch.device("meta")]


def test_neither_the_model_nor_random_numbers_notice_the_teacher():
    run = Taught(alone()).go(until="taught")
    x, y = run.batch()
    out = run.model(x)
    task = nn.functional.cross_entropy(out, y)
    random, modes = torch.get_rng_state(), [m.training for m in run.model.modules()]
    buffers = copy.deepcopy(dict(run.model.named_buffers()))
    run.engine.loss(task, outputs=out, inputs=x)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in run.model.modules()] == modes
    assert all(torch.equal(b, buffers[name]) for name, b in run.model.named_buffers())


def test_the_teacher_computes_under_the_autocast_in_force():
    run = Taught(alone()).go(until="taught")
    (teacher,) = run.teachers.values()
    seen = []
    teacher.module.head.register_forward_hook(lambda _m, _a, out: seen.append(out.dtype))
    run.forward()
    with torch.autocast("cpu", torch.bfloat16):
        _, loss, _, _ = run.forward()
    assert seen == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32


# Ways back


ROLLING = (
    HEAD.replace("name:", "metrics: {loss: {goal: minimize}}\nname:")
    + """
stages:
  train: {kind: train, duration: 2 steps, next: kept, actions: [{type: teacher, name: one}]}
  kept: {kind: train, actions: [{type: snapshot, name: safe}], duration: 2 steps, next: newer}
  newer:
    kind: train
    actions: [{type: teacher, name: one}]
    during: [{type: distill, teachers: one}]
    duration: 9 steps
    next: done
  again: {kind: train, during: [{type: distill, teachers: one}], duration: 2 steps, next: done}
  done: {kind: final}
interrupts:
  - name: undo
    within: [newer]
    when: elapsed(2 steps)
    actions: [{type: roll_back, to: safe, data: skip}]
    target: again
    at_most: 1
"""
)


def test_a_rollback_returns_to_the_teacher_of_then():
    run = Taught(ROLLING, data=None)
    run.engine.start()
    (first,) = run.teachers.values()
    run.go(until="newer")
    assert len(run.teachers) == 2
    run.go(until="again")
    assert list(run.teachers.values()) == [first]
    saved = run.save()
    run.go()
    resumed = Taught(ROLLING).load(saved).go()
    assert weights(resumed.model) == weights(run.model)


def test_a_boundary_that_fails_brings_no_teacher_and_keeps_the_old_one(monkeypatch):
    def fail(*_args, **_more):
        raise ValueError("no room")

    run = Taught(GROWING)
    monkeypatch.setattr("stagegraph.actions.actor.grow", fail)
    with pytest.raises(sg.ActionError, match="no room"):
        run.go()
    assert not run.teachers
    assert run.stage == "train"
    assert run.engine.state_dict()["engine"]["teachers"] == {}


def test_tensors_that_were_not_loaded_are_asked_for():
    run = Taught(alone()).go(until="taught")
    state = json.loads(json.dumps(run.engine.state_dict()))
    resumed = Taught(alone())
    resumed.engine.load_state_dict(state)
    with pytest.raises(sg.SnapshotError, match=r"teacher 'old' are not here; .* load_snapshots"):
        resumed.forward()


def test_a_teacher_that_was_never_made_stops_the_boundary():
    document = alone().replace(
        "{kind: train, duration: 2 steps, next: taught, actions: [{type: teacher, name: old}]}",
        """
    kind: train
    transitions:
      - {target: taught, when: elapsed(2 steps), actions: [{type: teacher, name: old}]}
      - {target: taught, when: elapsed(1 step)}
""",
    )
    run = Taught(document)
    with pytest.raises(
        sg.ActionError, match=r"taught\.during\[0\]: no teacher 'old' has been made"
    ):
        run.go()
    assert run.stage == "train"


def test_an_engine_without_a_model_adds_nothing():
    engine = sg.Engine(sg.load(alone()), params=9)
    loss = torch.ones(())
    assert engine.loss(loss) is loss
    for _ in range(6):
        engine.step()
    assert engine.done


def test_the_journal_tells_of_the_teacher_and_the_report_shows_it(tmp_path):
    run = Taught(GROWING, run=tmp_path / "run")
    run.go()
    made = run.records.of("move")[1]["actions"]["main:grow.actions[0]"]
    assert made["kind"] == "teacher"
    assert made["teacher"] == "small"
    assert "distill from small" in run.engine.report().read_text(encoding="utf-8")
    run.engine.close()
