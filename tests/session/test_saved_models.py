"""Models that a graph saves: what was there before the rollback, once each, whatever happens."""

import json
import shutil
import signal
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import stagegraph as sg
from stagegraph.actions import actor
from stagegraph.errors import SnapshotError
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.saved import SavedModels
from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import Death
from tests.session.training import WIDTH, Net, Training

BRANCHES = """
stagegraph: 1
name: branches
metrics: {val_loss: {goal: minimize, every: 3 steps}}
initial: first
stages:
  first: {kind: train, duration: 3 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 1}, {type: save, name: small}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 4 steps}
    next: trunk
  trunk: {kind: train, duration: 3 steps, next: anneal}
  anneal:
    kind: train
    actions: [{type: snapshot, name: before}]
    during: [{type: lr_ramp, end: 0, over: 2 steps}]
    duration: 2 steps
    transitions:
      - target: trunk
        when: completed()
        actions:
          - {type: save, name: annealed}
          - {type: roll_back, to: before, rng: fork}
        at_most: 2
        on_error: {retry: 1, then: done}
      - {target: done, when: completed() and visits(anneal) > 2}
  done: {kind: final}
"""
SAVED = [("small", 3, 3), ("annealed", 12, 12), ("annealed", 15, 17)]
"""Name, step and boundary of each."""

OPTIONS = sg.Checkpoints(every="2 steps", background=False)


class Rich(Net):
    """A model with running statistics, tied weights and a state beside its tensors."""

    def __init__(self, dropout=0.2):
        super().__init__(dropout=dropout)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.seen += 1
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.other(torch.tanh(self.one(self.norm(x)))))

    def get_extra_state(self):
        return {"calls": self.calls, "as tensor": torch.tensor(self.calls)}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def rich():
    torch.manual_seed(3)
    return Rich()


def training(folder, document=BRANCHES, *, model=None, **more):
    given = {"run": folder, "checkpoints": OPTIONS} | more
    run = Training(document, model=rich() if model is None else model, **given)
    run.before = {}
    return run


def tick(run):
    """One update; what the model is before its boundary is remembered."""
    loss = run.update()
    state = run.model.state_dict()
    run.before[run.engine._core.state.spent.step + run.engine._core.unabsorbed + 1] = {
        key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)
    }
    run.engine.step(loss=loss, samples=5)
    run.observe()


def go(run, updates=200):
    for _ in range(updates):
        if run.engine.done:
            break
        tick(run)
    return run


def resumed(folder, document=BRANCHES, **more):
    torch.manual_seed(99)
    run = training(folder, document, **more)
    run.engine.resume()
    run.updates = run.engine._core.state.spent.step
    return run


def tensors(saved):
    found = {}
    for path in sorted(saved.path.glob("tensors-*.safetensors")):
        found |= load_file(path)
    return found


def equal(one, other):
    assert set(one) == set(other)
    return all(torch.equal(one[key], other[key]) for key in one)


def told(folder):
    records = RunFolder(folder).records()
    return [(r["name"], r["of_step"], r["of_boundary"]) for r in records if r["type"] == "saved"]


def known(folder):
    return [(one.name, one.step, one.boundary) for one in sg.saved(folder)]


def learnt(run):
    kept = {key: one for key, one in run.model.state_dict().items() if "_extra" not in key}
    return {key: one.tolist() for key, one in kept.items()}


def contents(folder):
    """Every file of every saved model but its manifest, which has the wall clock."""
    return [
        {path.name: path.read_bytes() for path in one.path.iterdir() if path.name[:3] != "man"}
        for one in sg.saved(folder)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run, and its folder as it was around each save."""
    base = tmp_path_factory.mktemp("runs")
    torch.manual_seed(7)
    run = training(base / "whole")
    run.engine.resume()
    run.cuts, run.folder = {}, base / "whole"
    for made in range(1, 200):
        tick(run)
        if made in (2, 3, 4, 11, 12, 13, 16, 17, 18):
            run.cuts[made] = shutil.copytree(run.folder, base / f"cut-{made}")
        if run.engine.done:
            break
    run.engine.close()
    return run


def test_what_is_saved_is_the_model_before_the_rollback(whole):
    assert known(whole.folder) == told(whole.folder) == SAVED
    for one in sg.saved(whole.folder):
        assert equal(tensors(one), whole.before[one.boundary]), "under the plain names"
    small, annealed, _ = sg.saved(whole.folder)
    assert "blocks.2.up.weight" not in tensors(small), "of the start, though it stands behind"
    assert (annealed.stages, set(annealed.metrics)) == ({"main": "anneal"}, {"val_loss"})
    assert annealed.graph == "branches"
    assert annealed.digest == sg.digest(sg.load(BRANCHES))
    back = [r["actions"] for r in whole.records.of("move") if r["target"] == "main:trunk"][-1]
    (saved, returned) = back.values()
    assert (saved["kind"], saved["name"]) == ("save", "annealed")
    assert returned["kind"] == "roll_back"
    assert saved["bytes"] == sum(tensor.nbytes for tensor in tensors(annealed).values()) + 4 + 8


def test_a_new_small_model_becomes_the_saved_one(whole):
    x = torch.randn(9, 4)
    for one in sg.saved(whole.folder):
        fresh = Rich()
        random = torch.get_rng_state()
        assert sg.load_saved(fresh, one) == one
        assert torch.equal(torch.get_rng_state(), random)
        assert fresh.training and fresh.other.weight is fresh.one.weight
        expected = Rich()
        for _ in range(len(fresh.blocks) - 2):
            expected.blocks.append(type(expected.blocks[0])(0.2))
        state = expected.state_dict() | whole.before[one.boundary]
        expected.load_state_dict(state)
        assert torch.equal(fresh.eval()(x), expected.eval()(x))
        assert fresh.calls > 0 and fresh.seen == fresh.calls, "what is beside the state dict too"
    chosen = sg.load_saved(Rich(), whole.folder, "annealed")
    assert chosen.boundary == 17, "the newest of the name"


ALSO = [pytest.param(at, marks=pytest.mark.slow) for at in (3, 4, 11, 13, 16, 18)]


@pytest.mark.parametrize("at", [2, 12, 17, *ALSO])
def test_a_run_that_died_saves_the_same_once(whole, tmp_path, at):
    folder = shutil.copytree(whole.cuts[at], tmp_path / "cut")
    run = go(resumed(folder))
    run.engine.close()
    assert known(folder) == told(folder) == SAVED
    assert contents(folder) == contents(whole.folder)
    assert learnt(run) == learnt(whole)


def die(monkeypatch, kind, when):
    """The process ends in a save of a kind: before it, or when it has been written."""
    save = kind.save

    def dying(store, *arguments, **more):
        if store.path.parts.count("checkpoints") == (kind is CheckpointStore):
            if more["boundary"] != 12:
                return save(store, *arguments, **more)
            if when == "after":
                save(store, *arguments, **more)
            raise Death
        return save(store, *arguments, **more)

    monkeypatch.setattr(kind, "save", dying)


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (SavedModels, "after"),
        (CheckpointStore, "after"),
        pytest.param(SavedModels, "before", marks=pytest.mark.slow),
        pytest.param(CheckpointStore, "before", marks=pytest.mark.slow),
    ],
)
def test_a_death_between_model_and_checkpoint_leaves_one_of_each(
    whole, tmp_path, monkeypatch, kind, when
):
    torch.manual_seed(7)
    run = training(tmp_path / "a")
    run.engine.resume()
    with monkeypatch.context() as patched:
        die(patched, kind, when)
        with pytest.raises(Death):
            go(run)
        folder = shutil.copytree(tmp_path / "a", tmp_path / "b")
    run.engine.close()
    behind = [g for g in RunFolder(folder).checkpoints().generations() if g.boundary >= 12]
    there = (12 in [one.boundary for one in sg.saved(folder)], bool(behind))
    assert there == (
        (kind, when) != (SavedModels, "before"),
        (kind, when) == (CheckpointStore, "after"),
    )
    run = go(resumed(folder))
    run.engine.close()
    assert known(folder) == told(folder) == SAVED
    assert contents(folder) == contents(whole.folder)
    assert len(list((folder / "saved" / "annealed").iterdir())) == 2


def test_models_are_written_before_the_checkpoint_in_the_thread_too(tmp_path, monkeypatch):
    done, save_model, save = [], SavedModels.save, CheckpointStore.save

    def model(models, name, *arguments, **more):
        saved = save_model(models, name, *arguments, **more)
        done.append((name, more["boundary"]))
        return saved

    def checkpoint(store, *arguments, **more):
        if store.path.name == "checkpoints":
            done.append((more["why"], more["boundary"]))
        return save(store, *arguments, **more)

    monkeypatch.setattr(SavedModels, "save", model)
    monkeypatch.setattr(CheckpointStore, "save", checkpoint)
    document = BRANCHES.replace(
        "{type: roll_back, to: before, rng: fork}", "{type: send, event: e}"
    )
    document = document.replace("metrics:", "events: [e]\nmetrics:")
    options = sg.Checkpoints(every=None)
    run = training(tmp_path / "a", document, checkpoints=options)
    go(run, 12)
    run.engine.finish()
    assert done == [
        ("start", 0),
        ("small", 3),
        ("structure", 3),
        ("annealed", 12),
        ("saved", 12),
        ("finish", 12),
    ]
    assert known(tmp_path / "a") == SAVED[:2], "finish waits"
    run.engine.close()


@pytest.mark.parametrize("leaves", ["told to go", "closed"])
def test_who_leaves_waits_for_what_is_saved(tmp_path, monkeypatch, leaves):
    save = SavedModels.save

    def slow(*arguments, **more):
        time.sleep(0.3)
        return save(*arguments, **more)

    monkeypatch.setattr(SavedModels, "save", slow)
    run = go(training(tmp_path / "a", checkpoints=sg.Checkpoints(every=None)), 11)
    if leaves == "told to go":
        with run.engine.preemptible():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(sg.Preempted):
                go(run, 1)
        assert known(tmp_path / "a") == SAVED[:2]
    else:
        go(run, 1)
        assert known(tmp_path / "a") == SAVED[:1], "it is still being written"
    run.engine.close()
    assert known(tmp_path / "a") == told(tmp_path / "a") == SAVED[:2]
    assert RunFolder(tmp_path / "a").checkpoints().generations()[-1].boundary == 12


def failing(monkeypatch, times):
    left, save = list(range(times)), SavedModels.save

    def fail(models, *arguments, **more):
        if left:
            left.pop()
            raise sg.RunFolderError("no space left on the disk; free some")
        return save(models, *arguments, **more)

    monkeypatch.setattr(SavedModels, "save", fail)


def test_a_model_that_cannot_be_written_is_tried_again_and_no_checkpoint_passes_it(
    whole, tmp_path, monkeypatch
):
    failing(monkeypatch, 2)
    torch.manual_seed(7)
    run = training(tmp_path / "a")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run.engine.resume()
        go(run, 5)
    messages = [str(one.message) for one in warned if one.category is UserWarning]
    assert (
        messages == ["a checkpoint could not be written: no space left on the disk; free some"] * 2
    )
    assert known(tmp_path / "a") == []
    assert max(g.boundary for g in RunFolder(tmp_path / "a").checkpoints().generations()) == 2
    go(run)
    run.engine.close()
    assert known(tmp_path / "a") == told(tmp_path / "a") == SAVED
    assert contents(tmp_path / "a") == contents(whole.folder)


def test_training_stops_when_a_model_cannot_be_written_three_times(tmp_path, monkeypatch):
    failing(monkeypatch, 3)
    run = training(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(sg.RunFolderError, match="3 checkpoints in a row could not be written"):
            go(run)
    go(run)  # the disk has room again
    run.engine.close()
    assert known(tmp_path / "a") == SAVED


def test_a_boundary_that_is_undone_saves_nothing(tmp_path, monkeypatch):
    return_to, left = actor.return_to, [1]

    def fail(*arguments):
        if left:
            left.pop()
            raise SnapshotError("not this time")
        return return_to(*arguments)

    monkeypatch.setattr(actor, "return_to", fail)
    run = go(training(tmp_path / "a"))
    run.engine.close()
    assert known(tmp_path / "a") == [("small", 3, 3), ("annealed", 13, 13), ("annealed", 15, 18)]
    saved = sg.saved(tmp_path / "a")[1]
    assert equal(tensors(saved), run.before[13]), "of the boundary that held"


@pytest.mark.slow  # compiling takes seconds
def test_a_compiled_model_has_the_names_of_its_own(tmp_path):
    model = torch.compile(rich(), backend="eager")
    run = go(training(tmp_path / "a", model=model), 4)
    run.engine.close()
    (small,) = sg.saved(tmp_path / "a")
    assert set(tensors(small)) <= set(Rich().state_dict())
    fresh = torch.compile(Rich(), backend="eager")
    sg.load_saved(fresh, tmp_path / "a")
    assert equal(
        tensors(small), {k: v for k, v in fresh._orig_mod.state_dict().items() if "_extra" not in k}
    )


def test_explain_and_report_tell_of_them(whole, capsys):
    from stagegraph.cli.main import main
    from stagegraph.drawing.report import report_html
    from stagegraph.drawing.terminal import summary

    assert main(["explain", str(whole.folder)]) == 0
    path = "saved/annealed/gen-00000002"
    assert f"the model of step 15 is saved as 'annealed' in {path}" in capsys.readouterr().out
    records = RunFolder(whole.folder).records()
    assert path in report_html(sg.load(BRANCHES), records)
    assert "saved      small, annealed, annealed" in summary(records)


# Refused


def test_without_a_folder_a_graph_that_saves_is_refused():
    with pytest.raises(sg.UnsupportedError) as refused:
        training(None)
    assert str(refused.value).splitlines() == [
        f"{place}: save writes the model into the run's folder, and there is none; give "
        "Engine(run=...)"
        for place in ("main:grow.actions[1]", "main:anneal.transitions[0].actions[0]")
    ]
    model = rich()
    with pytest.raises(sg.UnsupportedError):
        training(None, model=model)
    training(None, BRANCHES.replace("{type: save,", "{type: baseline,"), model=model).engine.close()


def test_numbers_save_nothing(tmp_path):
    graph = sg.load(BRANCHES)
    actions = [move["actions"] for move in sg.simulate(graph).moves]
    assert sum("main:anneal.transitions[0].actions[0]" in acted for acted in actions) == 2
    with sg.Engine(graph, run=tmp_path / "a") as engine:
        while not engine.done:
            engine.step()
            if engine.wants_evaluation:
                engine.observe(val_loss=1.0)
    assert sg.saved(tmp_path / "a") == []


def test_a_model_that_cannot_be_saved_is_refused_before_the_run(tmp_path):
    class Odd(Net):
        def get_extra_state(self):
            return {"by": object()}

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        sg.UnsupportedError, match=r"grow\.actions\[1\]: .*_extra_state'\]\['by'\] is a object"
    ):
        training(tmp_path / "a", model=Odd())


def test_another_model_is_left_as_it_was(whole):
    class Deep(Rich):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(2, 2)

    class Untied(Rich):
        def __init__(self):
            super().__init__()
            self.other.weight = nn.Parameter(self.other.weight.detach().clone())

    others = {
        "its 'more.weight' was not saved": Deep(),
        r"'inp.weight' was \(6, 4\) of torch.float32, and is \(6, 4\) of torch.float64 here; .*"
        r", and 25 more": Rich().double(),
        "the names that mean one tensor": Untied(),
        r"cannot be loaded into this Linear": nn.Linear(2, 2),
    }
    for message, model in others.items():
        before = {key: str(value) for key, value in model.state_dict().items()}
        with pytest.raises(SnapshotError, match=message):
            sg.load_saved(model, whole.folder, "annealed")
        assert {key: str(value) for key, value in model.state_dict().items()} == before


def test_a_name_that_is_not_there_is_told_with_those_that_are(whole, tmp_path):
    with pytest.raises(
        sg.RunFolderError, match=r"no model is saved as 'aneal'.*'small', 'annealed'"
    ):
        sg.load_saved(Rich(), whole.folder, "aneal")
    with pytest.raises(sg.RunFolderError, match="the saved models are 'small', 'annealed'; say w"):
        sg.load_saved(Rich(), whole.folder)
    with pytest.raises(sg.RunFolderError, match="holds no run"):
        sg.saved(tmp_path)
    with pytest.raises(TypeError, match="the name 'small' too"):
        sg.load_saved(Rich(), sg.saved(whole.folder)[0], "small")


def test_a_model_that_an_engine_holds_is_refused(whole):
    run = training(None, BRANCHES.replace("{type: save,", "{type: baseline,"))
    with pytest.raises(sg.UnsupportedError, match="an engine holds this model"):
        sg.load_saved(run.model, whole.folder, "small")
    run.engine.close()


@pytest.mark.parametrize("name", ["tensors-00000.safetensors", "shape.json", "manifest.json"])
def test_a_damaged_file_is_refused(whole, tmp_path, name):
    folder = shutil.copytree(whole.folder, tmp_path / "a")
    listed = sg.saved(folder)
    path = listed[-1].path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for arguments in ((folder, "annealed"), (listed[-1],)):
        model = Rich()
        before = [parameter.clone() for parameter in model.parameters()]
        with pytest.raises(
            sg.RunFolderError, match=r"'annealed' is not as it was written.*bring it"
        ):
            sg.load_saved(model, *arguments)
        assert all(map(torch.equal, before, model.parameters()))
    assert sg.load_saved(Rich(), listed[1]).boundary == 12, "older ones are as good as before"
    if name == "manifest.json":
        with pytest.warns(
            UserWarning, match="a saved model is left out: .*gen-00000002 is not whole"
        ):
            assert len(sg.saved(folder)) == 2


def test_a_model_half_blended_in_is_loaded_as_it_computed(tmp_path):
    document = BRANCHES.replace(
        "    next: trunk\n  trunk",
        "    transitions:\n"
        "      - {target: trunk, when: elapsed(2 steps), actions: [{type: save, name: half}]}\n"
        "  trunk",
    )
    run = training(tmp_path / "a", document, model=Net(dropout=0.0))
    x, seen = torch.randn(9, 4), []
    for _ in range(5):
        loss = run.update()
        run.model.eval()
        seen.append(run.model(x).detach())
        run.model.train()
        run.engine.step(loss=loss, samples=5)
        run.observe()
    run.engine.close()
    assert json.loads((sg.saved(tmp_path / "a")[-1].path / "shape.json").read_text())["model"][
        "alphas"
    ]
    fresh = Net()
    sg.load_saved(fresh, tmp_path / "a", "half")
    assert torch.equal(fresh.eval()(x), seen[-1])
