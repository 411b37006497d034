"""What is no saved model, or not this model's, is refused with a way out, and changes nothing."""

import json
import shutil

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.errors import SnapshotError
from tests.session.branches import BRANCHES, Rich, rich, training
from tests.session.training import Net


@pytest.fixture(scope="module")
def whole(whole_with_branches):
    return whole_with_branches


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
