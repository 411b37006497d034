"""A run that measures itself, finds the block that harms, prunes it, and can be cut anywhere."""

import json
import math

import pytest
import torch
from torch.optim import AdamW

import stagegraph as sg
from stagegraph.testing import assert_resume_exact
from tests.session.training import PROBE, Net, Records

X = torch.linspace(-2, 2, 32).view(8, 4)

PRUNING = """
stagegraph: 1
name: prune what harms
metrics: {probe_loss: {goal: minimize, every: 3 steps}}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions:
      - {type: snapshot, name: before}
      - {type: deepen, stack: blocks, add: 2, name: tall}
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 3 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 3 steps}
    next: consolidate
  consolidate: {kind: consolidate, duration: 3 steps, next: judge}
  judge:
    kind: train
    actions: [{type: attribute, metric: probe_loss}]
    transitions:
      - {target: cut, when: "harmful(probe_loss, by=5%)", at_most: 1}
    duration: 2 steps
    next: done
  cut:
    kind: grow
    actions: [{type: snapshot, name: whole}, {type: prune, of: worst}]
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: again}
  again:
    kind: train
    actions: [{type: attribute, metric: probe_loss, of: {grown: tall}}]
    transitions:
      - target: after
        when: elapsed(2 steps)
        actions: [{type: roll_back, to: whole, data: skip, rng: fork}]
        at_most: 1
    duration: 3 steps
    next: done
  after: {kind: train, duration: 3 steps, next: done}
  done: {kind: final}
"""


def probe_loss(model):
    with torch.no_grad():
        return float((model(X) - X.sum(1, keepdim=True)).pow(2).mean())


def monitor(model):
    """With a random subset: the same each time, for it is drawn from the same numbers."""
    rows = torch.randperm(8)[:6]
    x = X[rows].to(model.head.weight)
    return {"probe_loss": (model(x) - x.sum(1, keepdim=True)).pow(2).mean()}


def engine_of(document=PRUNING, *, monitor=monitor, model=None, **more):
    torch.manual_seed(3)
    model = Net(dropout=0.1) if model is None else model
    optimizer = AdamW(model.parameters(), lr=0.02)
    engine = sg.Engine(
        sg.load(document),
        model=model,
        optimizer=optimizer,
        probe=PROBE.to(model.head.weight),
        monitor=monitor,
        **more,
    )
    records = Records()
    engine.listen(records)
    return model, optimizer, engine, records


def spoil(model):
    """Make one of the new blocks do harm."""
    with torch.no_grad():
        model.blocks[3].down.bias.fill_(30.0)


def update(model, optimizer, engine, step):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step)).to(model.head.weight)
    loss = engine.loss((model(x) - x.sum(1, keepdim=True)).pow(2).mean())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if len(model.blocks) == 4 and engine.progress.step == 8:
        spoil(model)
    engine.step(loss=loss, samples=5)


def run(document=PRUNING, *, updates=100, **more):
    model, optimizer, engine, records = engine_of(document, **more)
    engine.start()
    for step in range(updates):
        if engine.done:
            break
        update(model, optimizer, engine, step)
        assert not engine.wants_evaluation, "nobody else is to measure anything"
    return model, optimizer, engine, records


@pytest.fixture(scope="module")
def whole():
    return run()


def test_the_run_finds_the_block_that_harms_and_prunes_it(whole):
    _model, _, engine, records = whole
    assert engine.ended == "final"
    first = records.of("attribution")[0]
    assert first["worst"] == "blocks.g1-1" and first["contributions"][-1]["name"] == "blocks.3"
    (cut,) = records.of("prune")
    assert cut["modules"] == ["blocks.g1-1"] and cut["params"]["removed"] > 0
    assert records.of("attribution")[1]["worst"] != "blocks.g1-1"


def test_the_metric_came_from_the_engine_itself(whole):
    _, _, _, records = whole
    values = [(r["boundary"], r["value"]) for r in records.of("metric")]
    moves = [(r["target"], r["boundary"]) for r in records.of("move")]
    assert [b for b, _ in values][:4] == [3, 6, 9, 12] and len(moves) == 8
    assert all(math.isfinite(value) for _, value in values)
    assert not records.of("missing")


def test_the_rollback_brought_the_pruned_block_back(whole):
    model, optimizer, engine, records = whole
    (back,) = records.of("roll_back")
    assert back["snapshot"].startswith("whole@")
    assert len(model.blocks) == 4
    facts = [record["params"] for record in records.of("facts")]
    assert facts[-1] == facts[-3] == sum(p.numel() for p in model.parameters())
    assert engine.params == facts[-1]
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert trained == [id(p) for p in model.parameters()]


def test_a_prune_bends_the_curves(whole):
    """Trend guards begin anew after it, as after a growth (rule S8)."""
    _, _, engine, records = whole
    (cut,) = records.of("prune")
    plan = engine._core
    assert plan.state.disturbed > 0
    assert cut["boundary"] in {r["boundary"] for r in records.of("facts")}


def task(job):
    torch.manual_seed(3)
    model = Net(dropout=0.1)
    optimizer = AdamW(model.parameters(), lr=0.02)
    engine = job.engine(model=model, optimizer=optimizer, probe=PROBE, monitor=monitor)
    while not engine.done:
        update(model, optimizer, engine, engine.progress.step)


def test_a_run_cut_at_the_attribution_and_at_the_prune_resumes_bit_for_bit(tmp_path):
    report = assert_resume_exact(task, sg.load(PRUNING), folder=tmp_path, cuts=[9, 10])
    assert report.compared > 10


@pytest.mark.slow
def test_a_run_cut_anywhere_resumes_bit_for_bit(tmp_path):
    assert_resume_exact(task, sg.load(PRUNING), folder=tmp_path, cuts="all")


def test_the_report_shows_every_modules_contribution(tmp_path):
    _, _, engine, _ = run(run=tmp_path / "run")
    page = engine.report().read_text("utf-8")
    assert "Contributions" in page and "worst -" in page and "blocks.3" in page
    assert "taken out" in page
    engine.close()
    journal = tmp_path / "run" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    kinds = {line["type"] for line in lines}
    assert {"attribution", "prune"} <= kinds
    replayed = sg.simulate(sg.load(PRUNING), metrics=journal)
    told = [(r["boundary"], r["target"]) for r in lines if r["type"] == "move"]
    assert [(r["boundary"], r["target"]) for r in replayed.moves] == told


# What the state knows


def at_judge(**more):
    model, optimizer, engine, records = engine_of(**more)
    engine.start()
    for step in range(9):
        update(model, optimizer, engine, step)
    assert engine.stages == {"main": "judge"}
    return model, optimizer, engine, records


def attributed(engine):
    return engine.state_dict()["engine"]["attributions"]


def test_an_attribution_survives_the_state_and_a_structural_change_ends_it():
    model, optimizer, engine, _ = at_judge()
    (found,) = attributed(engine)
    assert found["metric"] == "probe_loss" and len(found["contributions"]) == 2
    again = engine_of()[2]
    again.load_state_dict(json.loads(json.dumps(engine.state_dict())))
    assert attributed(again) == [found]
    update(model, optimizer, engine, 9)
    assert engine.stages == {"main": "settle"}
    assert attributed(engine) == []


def test_explain_shows_the_contributions_and_the_worst():
    _, _, engine, _ = at_judge()
    (way,) = [one for one in engine.explain() if "harmful" in one.guard["guard"]]
    assert way.value is True
    assert way.guard["sees"]["worst"] == "blocks.g1-1"
    assert way.guard["sees"]["blocks.g1-1"] < 0
    assert "blocks.g1-1=" in str(way)
    assert engine.explain() and "harmful(probe_loss" in str(way)


def test_a_rollback_drops_the_attribution_that_came_after_the_snapshot(whole):
    _, _, engine, records = whole
    (back,) = records.of("roll_back")
    later = [r for r in records.of("attribution") if r["boundary"] > back["boundary"]]
    assert not later
    # The snapshot was taken at the boundary of the prune, when the first attribution stood.
    (found,) = attributed(engine)
    assert found["boundary"] == records.of("attribution")[0]["boundary"]


def test_a_growth_that_was_pruned_whole_cannot_be_selected_any_more():
    document = PRUNING.replace("of: worst", "of: {grown: tall}").replace(
        "settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: again}",
        "settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: later}\n"
        "  later: {kind: train, during: [{type: freeze, of: {grown: tall}}], "
        "duration: 3 steps, next: again}",
    )
    with pytest.raises(
        sg.ActionError, match="the growth 'tall' was pruned at boundary 10, and is no more"
    ):
        run(document)


def test_prune_of_worst_without_a_harmful_module_is_an_error_that_says_so():
    document = PRUNING.replace('when: "harmful(probe_loss, by=5%)"', "when: visits(judge) == 1")
    with pytest.raises(sg.ActionError, match="found no module that harms"):
        run(document, monitor=lambda model: {"probe_loss": 1.0})


# A monitor that fails


class Failing:
    """Measures, but for its calls of these numbers."""

    def __init__(self, *calls):
        self.calls, self.count = set(calls), 0

    def __call__(self, model):
        self.count += 1
        if self.count in self.calls:
            raise OSError("the probe set cannot be read")
        return monitor(model)


def test_a_monitor_that_fails_is_named_and_the_boundary_is_decided_without_it():
    model, optimizer, engine, records = engine_of(monitor=Failing(2))
    engine.start()
    for step in range(2):
        update(model, optimizer, engine, step)
    modes = [module.training for module in model.modules()]
    with pytest.raises(sg.MetricError, match="monitor= failed: OSError: the probe set cannot be"):
        update(model, optimizer, engine, 2)
    assert [module.training for module in model.modules()] == modes
    assert engine.progress.step == 3 and engine.stages == {"main": "train"}
    update(model, optimizer, engine, 3)
    assert engine.stages == {"main": "warmup"}
    assert [r["boundary"] for r in records.of("metric")] == []
    assert records.of("move")[1]["boundary"] == 3


def test_a_monitor_that_fails_in_an_attribution_undoes_the_boundary():
    # one trial, three evaluations, the base, and the first module
    model, optimizer, engine, records = engine_of(monitor=Failing(6))
    engine.start()
    for step in range(8):
        update(model, optimizer, engine, step)
    with pytest.raises(sg.ActionError, match=r"main:judge.actions\[0\].*monitor= failed: OSError"):
        update(model, optimizer, engine, 8)
    assert engine.stages == {"main": "consolidate"}
    assert attributed(engine) == [] and not records.of("attribution")
    assert all(not block._forward_hooks for block in model.blocks)


def test_a_metric_that_is_not_finite_is_unknown():
    _, _, engine, records = run(monitor=lambda model: {"probe_loss": math.nan}, updates=10)
    assert {r["value"] for r in records.of("metric")} == {None}
    (way,) = [one for one in engine.explain() if "harmful" in one.guard["guard"]]
    assert way.value is None
    assert engine.stages == {"main": "judge"}


def test_a_metric_that_must_be_finite_raises_and_the_next_update_goes_on():
    document = PRUNING.replace("every: 3 steps}", "every: 3 steps, nonfinite: error}")
    model, optimizer, engine, records = engine_of(
        document, monitor=lambda model: {"probe_loss": math.nan}
    )
    engine.start()
    for step in range(2):
        update(model, optimizer, engine, step)
    with pytest.raises(sg.MetricError, match="probe_loss"):
        update(model, optimizer, engine, 2)
    assert records.of("metric")[0]["raw"] == "nan"
    update(model, optimizer, engine, 3)
    assert engine.stages == {"main": "warmup"}


def test_without_a_monitor_an_attribution_is_refused_before_the_run():
    with pytest.raises(sg.UnsupportedError, match=r"main:judge.actions\[0\]: .*give monitor="):
        engine_of(monitor=None)
    with pytest.raises(sg.UnsupportedError, match="is not declared in the graph's 'metrics'"):
        engine_of(monitor=lambda model: {"loss": 1.0})
    with pytest.raises(sg.UnsupportedError, match="monitor= is a function of the model; give"):
        sg.Engine(sg.load(PRUNING), params=1, costs={"grow": 1}, monitor=monitor)


# Who is asked for what

MIXED = """
stagegraph: 1
name: two sources
metrics:
  probe_loss: {goal: minimize, every: 2 steps}
  val_loss: {goal: minimize, every: 3 steps}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: done, when: probe_loss < 0 and val_loss < 0}]
    duration: 12 steps
    next: done
  done: {kind: final}
"""


def test_the_host_is_asked_only_for_what_the_engine_cannot_measure_itself():
    model, optimizer, engine, records = engine_of(MIXED)
    engine.start()
    wanted = []
    for step in range(12):
        update(model, optimizer, engine, step)
        wanted.append(engine.wants_evaluation)
        if engine.wants_evaluation:
            engine.observe(val_loss=1.0)
    assert wanted == [False, False, True] * 4
    boundaries = {name: [] for name in ("probe_loss", "val_loss")}
    for record in records.of("metric"):
        boundaries[record["name"]].append(record["boundary"])
    assert boundaries == {"probe_loss": [2, 4, 6, 8, 10, 12], "val_loss": [3, 6, 9, 12]}


def test_measuring_changes_nothing_of_the_training():
    silent = MIXED.replace(", every: 2 steps", "")
    losses = []
    for document in (MIXED, silent):
        model, optimizer, engine, _ = engine_of(document)
        engine.start()
        torch.manual_seed(9)
        for step in range(6):
            update(model, optimizer, engine, step)
            if engine.wants_evaluation:
                engine.observe(val_loss=1.0)
        losses.append(probe_loss(model.eval()))
    assert losses[0] == losses[1]


# Opening a gate again

REOPENED = """
stagegraph: 1
name: a second warm-up
metrics: {probe_loss: {goal: minimize, every: 4 steps}}
initial: grow
stages:
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1, name: tall}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 2 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 2 steps}
    next: train
  train: {kind: train, duration: 2 steps, next: second}
  second:
    kind: warmup
    during:
      - {type: alpha_ramp, of: {grown: tall}, start: 0.25, over: 4 steps}
      - {type: lr_ramp, of: {grown: tall}, start: 0.5, over: 4 steps}
    next: rest
  rest: {kind: consolidate, duration: 2 steps, next: done}
  done: {kind: final}
"""


def test_a_gate_that_was_folded_at_1_is_opened_again():
    model, optimizer, engine, _ = engine_of(REOPENED)
    engine.start()
    alphas = []
    for step in range(10):
        update(model, optimizer, engine, step)
        hooks = list(model.blocks[2]._forward_hooks.values())
        alphas.append(hooks[0].alpha if hooks else None)
    assert alphas == [0.5, None, None, 0.25, 0.4375, 0.625, 0.8125, None, None, None]


def reopening(job):
    torch.manual_seed(3)
    model = Net(dropout=0.1)
    optimizer = AdamW(model.parameters(), lr=0.02)
    engine = job.engine(model=model, optimizer=optimizer, probe=PROBE, monitor=monitor)
    while not engine.done:
        update(model, optimizer, engine, engine.progress.step)


def test_a_run_cut_while_a_gate_is_open_again_resumes_bit_for_bit(tmp_path):
    assert_resume_exact(reopening, sg.load(REOPENED), folder=tmp_path, cuts=[5])


def test_width_is_named_as_what_cannot_be_told_apart():
    document = PRUNING.replace(
        "{type: deepen, stack: blocks, add: 2, name: tall}",
        "{type: widen, space: mlp, factor: 2, name: tall}",
    ).replace("- {type: alpha_ramp, of: grown, over: 3 steps}\n      ", "")
    document = document.replace("initial: train", WIDE, 1)
    _, _, _, records = run(document, updates=12)
    (found,) = records.of("attribution")
    assert found["contributions"] == [] and found["worst"] is None
    (one,) = found["not_separable"]
    assert one["cohort"] == "tall" and "inside of tensors" in one["why"]


WIDE = """spaces:
  tensors:
    blocks.*.up.weight: mlp _
    blocks.*.up.bias: mlp
    blocks.*.down.weight: _ mlp
initial: train"""
