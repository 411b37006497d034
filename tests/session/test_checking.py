"""check with a model, and what an engine refuses before the run."""

import pytest
import torch
from torch.optim import SGD
from torch.utils.data import DataLoader

import stagegraph as sg
from tests.session.training import EVERY_STAGE, PROBE, Net

TRIAL = """
stagegraph: 1
name: tries
metrics: {val_loss: {goal: minimize, every: 5 steps}}
budget: {steps: 200}
initial: train
stages:
  train: {kind: train, duration: 10 steps, next: try}
  try:
    kind: trial
    metric: val_loss
    over: 50 steps
    options:
      - {name: one, actions: [{type: deepen, stack: blocks, add: 1}]}
      - {name: two, actions: [{type: deepen, stack: blocks, add: 2}]}
    next: consolidate
  consolidate: {kind: consolidate, duration: 5 steps, next: done}
  done: {kind: final}
"""


def made():
    model = Net()
    return model, SGD(model.parameters(), lr=0.1)


def mismatches(text, *, probe=PROBE, optimizer=None, model=None):
    own, of_own = made()
    found = sg.check(
        sg.load(text),
        model=own if model is None else model,
        optimizer=of_own if optimizer is None else optimizer,
        probe=probe,
    )
    return [finding for finding in found if finding.code == "model-mismatch"]


def test_a_graph_that_fits_its_model_has_no_mismatch():
    assert mismatches(EVERY_STAGE) == []


def test_a_path_that_is_no_stack_is_found_with_its_place():
    (finding,) = mismatches(EVERY_STAGE.replace("stack: blocks", "stack: layers"))
    assert finding.severity == "error"
    assert finding.message.startswith("main:grow.actions[0]: ")
    assert "'layers'" in finding.message and "blocks" in finding.message
    assert finding.pointer == "/stages/grow/actions/0"
    assert EVERY_STAGE.splitlines()[finding.line - 1].lstrip().startswith("grow:")


def test_a_pattern_that_matches_nothing_is_found():
    (finding,) = mismatches(EVERY_STAGE.replace("of: inp", "of: embeddings"))
    assert "'embeddings'" in finding.message
    assert finding.pointer == "/stages/consolidate/during/0"


def test_the_optimizer_of_another_model_is_found():
    _, foreign = made()
    (finding,) = mismatches(EVERY_STAGE, optimizer=foreign)
    assert "trains no parameter of this model" in finding.message


def test_a_missing_probe_is_found():
    (finding,) = mismatches(EVERY_STAGE, probe=None)
    assert "give probe=" in finding.message


def test_all_mismatches_are_found_at_once():
    text = EVERY_STAGE.replace("stack: blocks", "stack: layers").replace("of: inp", "of: nothing")
    assert len(mismatches(text, probe=None, optimizer=made()[1])) == 4


def test_what_this_version_cannot_hold_is_found():
    text = EVERY_STAGE.replace("{type: freeze, of: inp}", "{type: difficulty, level: 1}")
    (finding,) = mismatches(text)
    assert finding.message.startswith("main:consolidate.during[0]: difficulty steers the data")
    assert "give data=stagegraph.CurriculumLoader" in finding.message
    assert finding.pointer == "/stages/consolidate/during/0"


def test_errors_of_the_graph_itself_come_first():
    text = EVERY_STAGE.replace("stack: blocks", "stack: layers") + "  lost: {kind: final}\n"
    model, optimizer = made()
    codes = {f.code for f in sg.check(sg.load(text), model=model, optimizer=optimizer)}
    assert "unreachable-stage" in codes
    assert "model-mismatch" not in codes


def test_checking_changes_neither_model_nor_random_numbers():
    model, optimizer = made()
    before, numbers = list(model.state_dict().items()), torch.get_rng_state()
    sg.check(sg.load(EVERY_STAGE), model=model, optimizer=optimizer, probe=PROBE)
    assert torch.equal(numbers, torch.get_rng_state())
    after = list(model.state_dict().items())
    assert all(a == b and torch.equal(s, t) for (a, s), (b, t) in zip(before, after, strict=True))
    assert hooks_of(optimizer) == 0


def hooks_of(optimizer):
    return sum(len(vars(optimizer)[f"_optimizer_step_{w}_hooks"]) for w in ("pre", "post"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            TRIAL,
            r"main:try: a trial returns the data too, so that every option sees the same batches",
        ),
        (
            EVERY_STAGE.replace(
                "{type: deepen, stack: blocks, add: 1}", "{type: widen, space: mlp, factor: 2}"
            ).replace("      - {type: alpha_ramp, of: grown, over: 6 steps}\n", ""),
            r"main:grow.actions\[0\]: no layout names a space 'mlp'; none is declared; write under",
        ),
        (
            EVERY_STAGE.replace("{type: freeze, of: inp}", "{type: difficulty, level: 1}"),
            r"main:consolidate.during\[0\]: difficulty steers the data, and nobody gave the data",
        ),
    ],
    ids=["trial", "widen", "difficulty"],
)
def test_what_this_version_cannot_do_is_refused_before_the_run(text, words):
    model, optimizer = made()
    with pytest.raises(sg.UnsupportedError, match=words):
        sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=PROBE)


def test_what_a_model_cannot_do_numbers_can():
    text = EVERY_STAGE.replace("{type: freeze, of: inp}", "{type: difficulty, level: 1}")
    engine = sg.Engine(sg.load(text), params=400, costs={"grow": 100})
    for update in range(1, 100):
        engine.step(samples=1)
        if engine.wants_evaluation:
            engine.observe(val_loss=1 + 1 / update)
    assert engine.ended == "final"


def test_a_graph_with_errors_does_not_run():
    model, optimizer = made()
    with pytest.raises(sg.GraphError, match="unreachable-stage") as refused:
        sg.Engine(
            sg.load(EVERY_STAGE + "  lost: {kind: final}\n"), model=model, optimizer=optimizer
        )
    assert [finding.code for finding in refused.value.findings] == ["unreachable-stage"]


def test_two_engines_cannot_scale_one_optimizer():
    model, optimizer = made()
    text = EVERY_STAGE.replace(
        "    kind: train\n    tr",
        "    kind: train\n    during: [{type: lr_factor, factor: 0.5}]\n    tr",
    )
    first = sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=PROBE)
    first.start()
    with pytest.raises(sg.UnsupportedError, match=r"another engine.*close\(\) the other"):
        sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=PROBE)
    first.close()
    sg.Engine(sg.load(text), model=model, optimizer=optimizer, probe=PROBE).start()


def test_it_is_said_how_exactly_a_run_over_a_loader_can_be_resumed():
    items = torch.arange(8.0)
    loaders = {
        None: DataLoader(items, sampler=sg.SeededSampler(items)),
        "note": DataLoader(items, shuffle=True),
        "warning": (x for x in items),
    }
    for severity, loader in loaders.items():
        found = [f for f in sg.check(GRAPH_OF_EXACTNESS, loader=loader) if "exactness" in f.code]
        assert [f.severity for f in found] == ([] if severity is None else [severity])
    assert "is not exact: a generator tells nothing of its order" in found[0].message
    assert "SeededSampler(dataset, seed=...)" in found[0].remedy


GRAPH_OF_EXACTNESS = sg.load(
    {
        "stagegraph": 1,
        "name": "any",
        "initial": "a",
        "stages": {
            "a": {"kind": "train", "duration": "9 steps", "next": "b"},
            "b": {"kind": "final"},
        },
    }
)
