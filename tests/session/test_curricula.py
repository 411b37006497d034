"""Curricula in a run: levels, mixtures, lengths and batch sizes that a loader really follows."""

import itertools
import json

import pytest
import torch
from torch import nn
from torch.optim import AdamW, lr_scheduler
from torch.utils.data import DataLoader

import stagegraph as sg
from stagegraph.testing import assert_resume_exact
from tests.session.training import PROBE, Net, Records, weights

TOP = """
stagegraph: 1
name: curricula
budget: {params: 5k, steps: 200}
metrics: {val_loss: {goal: minimize}}
"""
HARDER = (
    TOP
    + """
initial: easy
stages:
  easy: {kind: train, during: [{type: difficulty, level: 0}], duration: 4 steps, next: hard}
  hard: {kind: train, during: [{type: difficulty, level: 2}], duration: 9 steps, next: free}
  free: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
"""
)


class Numbers:
    """Items of four features; the index is the difficulty."""

    def __init__(self, size=24):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.arange(4.0) / 4 + index + torch.rand(())


def loader(**more):
    given = {"batch_size": 4, "seed": 5, "score": list(range(24)), "levels": 3} | more
    return sg.CurriculumLoader(Numbers(), **given)


def indices(batch):
    return [int(row[0]) for row in batch]


class Run:
    """A plain loop over ``engine.epochs`` that notes what each update was made with."""

    def __init__(self, document, data, *, losses=None, **more):
        torch.manual_seed(3)
        self.model = Net(dropout=0.1)
        self.optimizer = AdamW(self.model.parameters(), lr=0.1)
        self.data = data
        self.losses = losses or {}
        self.records = Records()
        self.engine = sg.Engine(
            sg.load(document),
            model=self.model,
            optimizer=self.optimizer,
            data=data,
            probe=PROBE,
            **more,
        )
        self.engine.listen(self.records)
        self.rates = []
        self.optimizer.register_step_pre_hook(
            lambda o, *_: self.rates.append(o.param_groups[0]["lr"])
        )
        self.seen = []
        self.passes = []

    def go(self, updates=1000):
        left = updates
        for epoch in self.engine.epochs(self.data):
            for batch in epoch:
                self.seen.append((epoch.index, epoch.drawn.level, indices(batch)))
                self.update(batch)
                left -= 1
                if not left:
                    return self
            self.passes.append(epoch.index)
        return self

    def update(self, batch):
        loss = self.model(batch / 24).pow(2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        update = len(self.seen)
        self.engine.step(loss=loss, samples=len(batch))
        if update in self.losses:
            self.engine.observe(val_loss=self.losses[update])

    @property
    def levels(self):
        return [level for _, level, _ in self.seen]

    @property
    def held(self):
        return [(r["step"], r["batch"], r["level"]) for r in self.records.of("curriculum")]


# Levels


def test_a_level_holds_from_the_first_batch_after_the_boundary():
    run = Run(HARDER, loader())
    run.go()
    assert run.levels == [0] * 4 + [2] * 9 + [None] * 4
    assert all(index < 8 for _, level, batch in run.seen if level == 0 for index in batch)
    assert run.held == [(0, 0, 0), (4, 4, 2), (13, 13, None)]


def test_with_workers_it_holds_as_many_batches_later_as_they_fetch_ahead():
    data = loader(num_workers=2, prefetch_factor=1)
    run = Run(HARDER, data)
    run.go()
    assert data.lead == 2
    assert run.levels == [0] * 6 + [2] * 9 + [None] * 2
    assert run.held == [(0, 0, 0), (6, 6, 2), (15, 15, None)]


def test_workers_change_nothing_but_the_lead():
    alone = Run(HARDER, loader(lead=2)).go()
    helped = Run(HARDER, loader(num_workers=2, prefetch_factor=1)).go()
    assert helped.seen == alone.seen
    assert weights(helped.model) == weights(alone.model)


def test_a_later_stage_repeats_nothing_of_the_pass():
    run = Run(HARDER, loader()).go()
    first = [index for _, _, batch in run.seen[:2] for index in batch]
    assert sorted(first) == list(range(8))  # the easy third, once
    # Two batches more begin its next pass; what the harder level then draws is what is left.
    later = [index for _, _, batch in run.seen[2:8] for index in batch]
    assert sorted(later) == list(range(24))


def test_an_epoch_is_as_many_samples_as_there_are_items():
    run = Run(HARDER, loader()).go(12)
    assert run.engine.progress.epoch == 2
    assert [index for index, _, _ in run.seen] == [0] * 6 + [1] * 6


# Resume


def job(data, document=HARDER):
    def train(job):
        torch.manual_seed(3)
        model = Net(dropout=0.1)
        optimizer = AdamW(model.parameters(), lr=0.1)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)
        given = data()
        engine = job.engine(
            model=model, optimizer=optimizer, scheduler=scheduler, data=given, probe=PROBE
        )
        job.watch(loader=given)
        for epoch in engine.epochs(given):
            for batch in epoch:
                loss = model(batch[:, :4] / 24).pow(2).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                engine.step(loss=loss, samples=len(batch))
                if engine.wants_evaluation:
                    engine.observe(val_loss=2.0 if engine.progress.step > 6 else 1.0)

    return train


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [5, 6])
def test_resumes_between_a_boundary_and_the_batch_from_which_it_holds(tmp_path, cut, workers):
    """The boundary is that of update 4, and its level holds from batch 6 on."""
    more = {"num_workers": workers, "prefetch_factor": 1} if workers else {"lead": 2}
    first = Run(HARDER, loader(**more), run=tmp_path / "run")
    first.go(cut)
    first.engine.finish()
    first.engine.close()
    then = Run(HARDER, loader(**more), run=tmp_path / "run")
    assert then.engine.resume()
    then.go()
    whole = Run(HARDER, loader(lead=2)).go()
    assert first.seen + then.seen == whole.seen
    assert weights(then.model) == weights(whole.model)
    assert then.held == [held for held in whole.held if held[0] >= cut]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resumes_exactly_after_every_update(tmp_path, workers):
    more = {"num_workers": workers, "prefetch_factor": 2} if workers else {}
    task = job(lambda: two_sources(**more), EVERYTHING)
    assert_resume_exact(task, sg.load(EVERYTHING), cuts="all", folder=tmp_path)


EVERYTHING = """
stagegraph: 1
name: everything that a loader can be told
budget: {params: 5k, steps: 200}
initial: one
stages:
  one:
    kind: train
    during:
      - {type: difficulty, level: 0}
      - {type: mixture, weights: {a: 0.75, b: {start: 0.25, end: 0.75, over: 4 steps}}}
      - {type: sequence_length, length: {start: 4, end: 12, over: 5 steps}, multiple: 4}
    duration: 6 steps
    next: two
  two:
    kind: train
    during:
      - {type: batch_size, size: 6, lr: linear}
      - {type: difficulty, level: 1}
      - {type: hyper, optimizer: betas.0, value: {start: 0.9, end: 0.5, over: 3 steps}}
      - {type: hyper, attribute: "blocks.*.drop.p", value: 0.3}
    duration: 6 steps
    next: three
  three: {kind: train, duration: 5 steps, next: done}
  done: {kind: final}
"""


class Sequences:
    """Items of a length that they are asked for, with noise of their own."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def item(self, asked):
        noise = torch.rand(asked.length or 16, generator=asked.generator())
        return noise + asked.index


def two_sources(**more):
    scores = {"a": list(range(12)), "b": list(range(18))}
    return sg.CurriculumLoader(
        {"a": Sequences(12), "b": Sequences(18)},
        **{"batch_size": 4, "seed": 1, "score": scores, "levels": 2} | more,
    )


def test_a_loader_that_nothing_steers_is_gone_on_with_from_epochs_alone(tmp_path):
    document = TOP + "initial: a\nstages:\n  a: {kind: train, duration: 9 steps, next: b}\n"
    document += "  b: {kind: final}\n"

    class Unsteered(Run):
        def __init__(self, run=None):
            super().__init__(document, None, run=run)
            self.data = loader(batch_size=5)

    first = Unsteered(tmp_path / "run").go(7)
    first.engine.finish()
    first.engine.close()
    then = Unsteered(tmp_path / "run")
    assert then.engine.resume()
    then.go()
    assert first.seen + then.seen == Unsteered().go().seen


def test_everything_resumes_exactly(tmp_path):
    task = job(lambda: two_sources(lead=2), EVERYTHING)
    report = assert_resume_exact(task, sg.load(EVERYTHING), cuts=[3, 7, 13], folder=tmp_path)
    assert report.batches == "exact"


# Batch size and its learning rate

LARGER = (
    TOP
    + """
initial: small
stages:
  small: {kind: train, duration: 3 steps, next: large}
  large:
    kind: train
    during: [{type: batch_size, factor: 2, lr: HOW}]
    duration: 3 steps
    next: small2
  small2: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
"""
)


@pytest.mark.parametrize(("how", "factor"), [("keep", 1.0), ("linear", 2.0), ("sqrt", 2**0.5)])
def test_the_learning_rate_goes_with_the_batch_in_hand(how, factor):
    run = Run(LARGER.replace("HOW", how), loader(lead=2, samples_per_epoch=1000)).go()
    sizes = [len(batch) for _, _, batch in run.seen]
    assert sizes == [4] * 5 + [8] * 3 + [4] * 2
    assert run.rates == pytest.approx([0.1] * 5 + [0.1 * factor] * 3 + [0.1] * 2)
    assert run.optimizer.param_groups[0]["lr"] == 0.1


def test_accumulation_grows_instead():
    document = LARGER.replace("lr: HOW", "lr: linear, accumulate: grow")
    run = Run(document, loader(samples_per_epoch=1000))
    counts = []
    batches = itertools.chain.from_iterable(run.engine.epochs(run.data))
    while not run.engine.done:
        counts.append(run.engine.accumulate)
        for _ in range(counts[-1]):
            run.model(next(batches) / 24).pow(2).mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.engine.step(samples=4 * counts[-1])
    assert counts == [1] * 3 + [2] * 3 + [1] * 4
    assert run.rates == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.1] * 4)
    assert run.data.drawn.size == 4


def test_a_loop_that_never_asks_how_many_micro_batches_is_refused():
    document = LARGER.replace("lr: HOW", "accumulate: grow")
    with pytest.raises(
        sg.StageGraphError, match=r"large.during\[0\] is in force, and the loop has"
    ):
        Run(document, loader()).go()


# Going back

SPIKE = (
    TOP
    + """
initial: warm
stages:
  warm: {kind: train, during: [{type: difficulty, level: 0}], duration: 4 steps, next: main}
  main:
    kind: train
    actions: [{type: snapshot, name: before}]
    during: [{type: difficulty, level: 2}]
    duration: 12 steps
    next: done
  done: {kind: final}
interrupts:
  - name: undo
    within: [main]
    when: val_loss > 1
    actions: [{type: roll_back, to: before, HOW}]
    target: main
    at_most: 1
"""
)


@pytest.mark.parametrize("spike", [7, 9])
@pytest.mark.parametrize("lead", [0, 2])
def test_a_rewind_in_the_middle_of_a_pass_draws_the_same_batches_again(spike, lead):
    run = Run(SPIKE.replace("HOW", "lr_factor: 0.5"), loader(lead=lead), losses={spike: 2.0})
    run.go(20)
    (back,) = [r for r in run.records.of("move") if r["edge"] == "main:interrupts.undo"]
    (told,) = [one for one in back["actions"].values() if one["kind"] == "roll_back"]
    assert told["data"] == "rewound"
    assert run.seen[spike + 1 : spike + 5] == run.seen[4:8]
    # A change holds ``lead`` batches after the boundary, the second time as the first.
    assert run.levels[spike + 1 :][:lead] == [0] * lead


def test_a_rewind_goes_back_over_the_end_of_a_pass():
    run = Run(SPIKE.replace("HOW", "lr_factor: 0.5"), loader(), losses={9: 2.0}).go(20)
    assert [index for index, _, _ in run.seen][:13] == [0] * 6 + [1] * 4 + [0, 0, 1]
    assert run.passes[:2] == [0, 0]


def test_skip_goes_on_from_where_it_is():
    run = Run(SPIKE.replace("HOW", "data: skip"), loader(), losses={7: 2.0}).go(16)
    plain = Run(SPIKE.replace("HOW", "data: skip"), loader()).go(16)
    assert run.seen == plain.seen


@pytest.mark.parametrize("count", [1, 5, 30])
def test_a_number_of_batches_is_skipped_from_the_rewound_position_on(count):
    how = f"data: skip, skip_batches: {count}"
    run = Run(SPIKE.replace("HOW", how), loader(), losses={7: 2.0}).go(12)
    straight = loader()
    straight.load_state_dict(json.loads(json.dumps(_at_level_two())))
    after = list(itertools.islice(_endless(straight), count, count + 4))
    assert [batch for _, _, batch in run.seen[8:12]] == [indices(batch) for batch in after]


def _at_level_two():
    """The loader as it is after four batches, from which on its level is 2."""
    run = Run(HARDER, loader()).go(4)
    return run.data.state_dict()


def _endless(data):
    while True:
        yield from data


def test_a_rollback_resumes_exactly(tmp_path):
    document = SPIKE.replace("HOW", "data: skip, skip_batches: 3").replace(
        "{goal: minimize}", "{goal: minimize, every: 3 steps}"
    )
    assert_resume_exact(
        job(lambda: loader(lead=1), document), sg.load(document), cuts=[9], folder=tmp_path
    )


def test_a_rewind_that_is_undone_leaves_the_data_where_it_was():
    run = Run(SPIKE.replace("HOW", "lr_factor: 0.5"), loader(), losses={7: 2.0})

    class Failing:
        def write(self, records):
            if any(record["type"] == "roll_back" for record in records):
                raise OSError("no room")

    run.engine.listen(Failing())
    with pytest.raises(OSError, match="no room"):
        run.go(20)
    assert run.data.consumed == 8
    plain = Run(SPIKE.replace("HOW", "lr_factor: 0.5"), loader()).go(9)
    assert indices(next(run.data.rest())) == plain.seen[8][2]


# What is refused before the run


@pytest.mark.parametrize(
    ("activity", "data", "says"),
    [
        (
            "{type: difficulty, level: 1}",
            lambda: None,
            r"main:a.during\[0\]: difficulty steers the data, and nobody gave the data; give "
            r"data=stagegraph.CurriculumLoader",
        ),
        (
            "{type: difficulty, level: 3}",
            loader,
            r"main:a.during\[0\]: level 3 .* 3 levels, 0 to 2",
        ),
        (
            "{type: difficulty, level: 0}",
            lambda: loader(score=None, levels=None),
            "knows no difficulty levels; give it score= and levels=",
        ),
        (
            "{type: mixture, weights: {dta: 1}}",
            loader,
            r"main:a.during\[0\]: weights: the loader has no source 'dta'; did you mean 'data'",
        ),
        (
            "{type: sequence_length, length: 8}",
            loader,
            "cannot cut items to a length; give it crop=",
        ),
        (
            "{type: batch_size, size: 6, accumulate: grow}",
            loader,
            "whole batches of 4, and 6 is no multiple",
        ),
        (
            "{type: hyper, optimizer: beta.0, value: 0.5}",
            lambda: None,
            r"'beta.0' is no number of a parameter group of AdamW; did you mean 'betas.0'",
        ),
        (
            '{type: hyper, attribute: "blocks.*.drop.q", value: 0.5}',
            lambda: None,
            r"'blocks.\*.drop.q' matches no attribute",
        ),
        (
            "{type: sequence_length, length: 8, rope_base: 2, rope_attributes: [rope_theta]}",
            two_sources,
            "'rope_theta' matches no attribute",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_run(activity, data, says):
    document = (
        TOP + f"initial: a\nstages:\n  a: {{kind: train, during: [{activity}], duration: 3 steps, "
        "next: done}\n  done: {kind: final}\n"
    )
    with pytest.raises(sg.UnsupportedError, match=says):
        Run(document, data())


def test_check_says_it_too_without_a_model():
    found = sg.check(sg.load(HARDER), loader=loader(levels=2))
    assert [f.severity for f in found if "level 2 is asked for" in f.message] == ["error"]
    assert sg.check(sg.load(HARDER), loader=loader()) == sg.check(sg.load(HARDER))
    (plain,) = [
        f
        for f in sg.check(sg.load(HARDER), loader=DataLoader(Numbers()))
        if f.severity == "error" and "main:easy" in f.message
    ]
    assert "data= is a DataLoader" in plain.message


def test_another_loader_than_the_one_that_is_steered_is_refused():
    run = Run(HARDER, loader())
    with pytest.raises(sg.UnsupportedError, match="loop over that one itself"):
        next(run.engine.epochs([torch.ones(2, 4)]))


def test_batches_from_elsewhere_are_refused_at_the_first_update():
    run = Run(HARDER, loader())
    run.engine.start()
    with pytest.raises(sg.StageGraphError, match=r"easy.during\[0\] is in force, and no batch of"):
        run.update(torch.ones(2, 4))


def test_a_pass_that_cannot_go_back_is_refused():
    class Stateful(list):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    data = Stateful([torch.ones(2, 4)])
    document = SPIKE.replace("HOW", "lr_factor: 0.5").replace("{type: difficulty, level: 0}", "")
    run = Run(document.replace("{type: difficulty, level: 2}", ""), data)
    with pytest.raises(sg.UnsupportedError, match="over a Stateful cannot go back"):
        next(run.engine.epochs(data))


def test_two_regions_on_one_knob_are_an_error_at_the_boundary():
    document = """
stagegraph: 1
name: two
budget: {steps: 10}
regions:
  a:
    initial: x
    stages: {x: {kind: train, during: [{type: difficulty, level: 0}]}}
  b:
    initial: y
    stages:
      y: {kind: train, during: [{type: difficulty, level: 1}], duration: 3 steps, next: done}
      done: {kind: final}
waive: {shared-data-knob: to see it}
"""
    run = Run(document, loader())
    with pytest.raises(sg.ActionError, match="'difficulty' is held by a:x"):
        run.engine.start()


# Growth in the middle of a curriculum: the defects of the sketch


COMBINED = """
stagegraph: 1
name: combined
budget: {params: 5k, steps: 100}
events: [grew]
regions:
  data:
    initial: easy
    stages:
      easy: {kind: train, during: [{type: difficulty, level: 0}], duration: 3 steps, next: hard}
      hard:
        kind: train
        during: [{type: difficulty, level: 2}]
        transitions: [{target: easy, when: event(grew)}]
  arch:
    initial: train
    stages:
      train:
        kind: train
        transitions:
          - {target: grow, when: "in(data:hard) and elapsed(6 steps)", at_most: 1}
        duration: 20 steps
        next: done
      grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
      warmup:
        kind: warmup
        during: [{type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}]
        transitions: []
        next: settle
      settle:
        kind: consolidate
        actions: [{type: send, event: grew}]
        duration: 2 steps
        next: train
      done: {kind: final}
waive: {no-monitor: short}
"""


def test_a_growth_leaves_the_difficulty_alone_until_its_warm_up_is_over():
    run = Run(COMBINED, loader()).go()
    (growth,) = run.records.of("growth")
    at = growth["step"]
    assert at == 6
    assert run.levels[at : at + 5] == [2] * 5  # the warm-up, and the boundary that sends the event
    assert run.levels[at + 5 : at + 8] == [0] * 3
    assert run.levels[at + 8] == 2


def test_a_growth_keeps_the_position_of_the_data():
    run = Run(COMBINED, loader()).go(11)
    whole = loader()
    whole.load_state_dict(_at(3))
    # From batch 3 on at level 2, the growth at batch 6 notwithstanding.
    after = [indices(batch) for batch in itertools.islice(_endless(whole), 8)]
    assert [batch for _, _, batch in run.seen[3:11]] == after


def _at(updates):
    return Run(COMBINED, loader()).go(updates).data.state_dict()


def test_the_combined_curriculum_resumes_exactly(tmp_path):
    assert_resume_exact(
        job(lambda: loader(lead=2), COMBINED), sg.load(COMBINED), cuts=[6], folder=tmp_path
    )


# Hyper-parameters

HYPER = (
    TOP
    + """
initial: one
stages:
  one: {kind: train, duration: 2 steps, next: two}
  two:
    kind: train
    during:
      - {type: hyper, optimizer: betas.0, value: 0.5}
      - {type: hyper, optimizer: weight_decay, factor: {start: 1, end: 0, over: 4 steps}}
      - {type: hyper, attribute: "blocks.*.drop.p", value: 0.25}
      - {type: hyper, knob: clip, value: 0.5}
    duration: 5 steps
    next: three
  three:
    kind: train
    during:
      - {type: hyper, attribute: "blocks.*.drop.p", factor: 0.5}
      - {type: hyper, knob: clip, factor: 3}
    duration: 2 steps
    next: done
  done: {kind: final}
"""
)


def hyper_run(document=HYPER, **more):
    torch.manual_seed(0)
    model = Net(dropout=0.1)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = AdamW(
        [{"params": decay, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}], lr=0.1
    )
    engine = sg.Engine(sg.load(document), model=model, optimizer=optimizer, probe=PROBE, **more)
    return model, optimizer, engine


def test_hyper_parameters_hold_with_their_stage_and_are_given_back():
    model, optimizer, engine = hyper_run()
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    cycled, inside, outside, rates, clips = [], [], [], [], []
    optimizer.register_step_pre_hook(
        lambda o, *_: inside.append(
            (o.param_groups[0]["betas"][0], [g["weight_decay"] for g in o.param_groups])
        )
    )
    while not engine.done:
        clips.append(engine.knob("clip", 1.0))
        rates.append([block.drop.p for block in model.blocks])
        model(PROBE).pow(2).mean().backward()
        cycled.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        optimizer.zero_grad()
        outside.append(optimizer.param_groups[0]["betas"][0])
        scheduler.step()
        engine.step()
    assert clips == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 3, 3]
    assert rates == [[0.1] * 2] * 2 + [[0.25] * 2] * 5 + [[0.05] * 2] * 2
    assert [block.drop.p for block in model.blocks] == [0.1, 0.1]
    assert outside == cycled  # the scheduler's own, before and after each step
    betas = [beta for beta, _ in inside]
    assert betas == cycled[:2] + [0.5] * 5 + cycled[7:]
    decays = [one for _, one in inside]
    assert decays[:3] == [[0.2, 0.0]] * 3
    assert [one[0] for one in decays[2:7]] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])
    assert all(one[1] == 0.0 for one in decays)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_settings_and_learning_rates_of_parts_of_a_group_go_together():
    document = (
        TOP
        + """
initial: one
stages:
  one:
    kind: train
    during:
      - {type: lr_factor, of: head, factor: 0.5}
      - {type: hyper, optimizer: betas.0, value: 0.5}
      - {type: hyper, optimizer: betas.1, factor: 0.5}
      - {type: hyper, optimizer: weight_decay, value: 0.3}
    duration: 2 steps
    next: done
  done: {kind: final}
"""
    )
    model, optimizer, engine = hyper_run(document)
    engine.start()
    before = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    inside = []
    optimizer.register_step_pre_hook(
        lambda o, *_: inside.append(
            {(g["lr"], g["betas"], g["weight_decay"]) for g in o.param_groups}
        )
    )
    for _ in range(2):
        model(PROBE).pow(2).mean().backward()
        optimizer.step()
        engine.step()
    held = {(0.1, (0.5, 0.4995), 0.3), (0.05, (0.5, 0.4995), 0.3)}
    assert inside == [held] * 2
    after = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    assert after == before


def test_a_setting_survives_a_step_that_raises():
    _model, optimizer, engine = hyper_run()
    engine.knob("clip", 1.0)
    for _ in range(2):
        optimizer.step()
        engine.step()

    def fail():
        raise OSError("no batch")

    with pytest.raises(OSError, match="no batch"):
        optimizer.step(fail)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    optimizer.step()
    engine.step()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_closing_one_engine_leaves_the_loader_to_the_next():
    data = loader(samples_per_epoch=1000)
    first = Run(LARGER.replace("HOW", "linear"), data)
    second = Run(LARGER.replace("HOW", "linear"), data)
    first.engine.close()
    second.go(5)
    assert second.rates[3:] == pytest.approx([0.2, 0.2])


def test_a_knob_that_nobody_asks_for_is_refused():
    model, optimizer, engine = hyper_run()
    engine.start()
    for _ in range(2):
        model(PROBE).pow(2).mean().backward()
        optimizer.step()
        engine.step()
    with pytest.raises(sg.StageGraphError, match=r"never asked for engine.knob\('clip', ...\)"):
        engine.step()
    with pytest.raises(sg.ProgressError, match="no hyper-parameter with knob: 'clp'; did you mean"):
        engine.knob("clp", 1.0)


def test_a_grown_block_gets_the_models_own_number():
    document = (
        TOP
        + """
initial: one
stages:
  one:
    kind: train
    during: [regular]
    duration: 2 steps
    next: grow
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warm}
  warm:
    kind: warmup
    during: [regular, {type: lr_ramp, of: grown, start: 0, end: 1, over: 2 steps}]
    next: rest
  rest: {kind: consolidate, duration: 2 steps, next: done}
  done: {kind: final}
activities: {regular: {type: hyper, attribute: "blocks.*.drop.p", value: 0.4}}
waive: {no-monitor: short}
"""
    )
    model, optimizer, engine = hyper_run(document)
    engine.start()
    held = []
    while not engine.done:
        held.append([block.drop.p for block in model.blocks])
        model(PROBE).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        engine.step()
    assert held == [[0.4] * 2] * 2 + [[0.4] * 3] * 2 + [[0.1] * 3] * 2


def test_numbers_are_given_back_by_close_and_after_a_resume():
    model, optimizer, engine = hyper_run()
    engine.knob("clip", 1.0)
    for _ in range(3):
        model(PROBE).pow(2).mean().backward()
        optimizer.step()
        engine.step()
    state = json.loads(json.dumps(engine.state_dict()))
    again, _, resumed = hyper_run()
    resumed.load_state_dict(state)
    assert [block.drop.p for block in again.blocks] == [0.25, 0.25]
    for one, its in ((engine, model), (resumed, again)):
        one.close()
        assert [block.drop.p for block in its.blocks] == [0.1, 0.1]


class Rotary(nn.Module):
    """A model that computes its frequencies from a base."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 1)
        self.base = 10_000

    def forward(self, x):
        return self.lin(x * self.base**-0.5)


def rotary(model):
    document = (
        TOP
        + """
initial: short
stages:
  short: {kind: train, duration: 2 steps, next: long}
  long:
    kind: train
    during: [{type: sequence_length, length: 8, rope_base: 500k, rope_attributes: [base]}]
    duration: 2 steps
    next: done
  done: {kind: final}
"""
    )
    optimizer = AdamW(model.parameters())
    return optimizer, sg.Engine(
        sg.load(document), model=model, optimizer=optimizer, data=two_sources(length=4)
    )


def test_the_base_of_rotary_positions_comes_and_goes_with_the_length():
    model = Rotary()
    optimizer, engine = rotary(model)
    seen = []
    for epoch in engine.epochs(engine._data):
        for batch in epoch:
            seen.append((model.base, batch.shape[1]))
            model(batch[:, :4]).mean().backward()
            optimizer.step()
            engine.step()
    assert seen == [(10_000, 4)] * 2 + [(500_000, 8)] * 2
    assert model.base == 10_000
    assert type(model.base) is int


def test_a_base_that_nobody_would_read_is_refused():
    model = Rotary()
    model.register_buffer("inv_freq", torch.ones(2))
    with pytest.raises(sg.UnsupportedError, match=r"keeps them in the buffer 'inv_freq'; use the"):
        rotary(model)
