"""A model that has grown is saved, and a new small one becomes it, whatever the growth."""

import json

import pytest
import torch

import stagegraph as sg
from stagegraph.actions.keeping.weights import load_weights, take_weights
from tests.actions.growth.inherit.test_regrow import BIGGER, made, regrow, step
from tests.actions.growth.sized import F64, SizedGpt
from tests.actions.growth.wide import grow, ids
from tests.actions.keeping.test_weights import written
from tests.actions.models import deepen
from tests.actions.test_pruning import cut, grown, prune
from tests.session import test_heads
from tests.session.test_attaching import ACTIONS, GRAPH, mine
from tests.session.test_heads import Headed
from tests.session.training import PROBE, Net, Training

OPTIONS = sg.Checkpoints(every=None, background=False)


def out(model, x):
    with torch.no_grad():
        return model.eval()(x)


def values(model):
    return {key: tensor.tolist() for key, tensor in model.state_dict().items()}


SAVE = "{{type: save, name: kept}}"
WHEN = {
    "half": ("consolidate: {{kind", f"consolidate: {{{{actions: [{SAVE}], kind"),
    "wholly": (
        "next: done",
        f"transitions: [{{{{target: done, when: completed(), actions: [{SAVE}]}}}}]",
    ),
}
"""At the end of the warm-up α is still 0.75; at the end of the stage after it is 1."""


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("blended", WHEN)
def test_new_modules_blended_in_half_or_wholly(tmp_path, name, blended):
    document = GRAPH.replace(*WHEN[blended])
    run = Training(
        document.format(action=ACTIONS[name]),
        parts={"mine": mine},
        run=tmp_path / "a",
        checkpoints=OPTIONS,
    )
    seen = {}
    while not run.engine.done:
        loss = run.update()
        seen[run.updates] = out(run.model, PROBE)
        run.model.train()
        run.engine.step(loss=loss, samples=5)
        run.observe()
    run.engine.close()
    (kept,) = sg.saved(tmp_path / "a")
    shape = json.loads((kept.path / "shape.json").read_text())["model"]
    assert set(shape["alphas"].values()) == ({0.75} if blended == "half" else set())
    fresh = Net()
    sg.load_saved(fresh, tmp_path / "a", parts={"mine": mine})
    assert torch.equal(out(fresh, PROBE), seen[kept.boundary])


def test_the_head_in_use_is_the_one_that_the_stage_had_held(tmp_path):
    document = test_heads.GRAPH.replace(
        "    next: free",
        "    transitions:\n"
        "      - {target: free, when: completed(), actions: [{type: save, name: fine}]}",
    )
    run = Headed(document, run=tmp_path / "a", checkpoints=OPTIONS).go(until="two")
    for _ in range(2):
        run.tick()
    x = torch.randn(5, 4)
    run.tick()
    run.engine.close()
    fresh = test_heads.Net()
    sg.load_saved(fresh, tmp_path / "a")
    assert fresh.active_head == "fine"
    assert fresh.heads["fine"].weight.tolist() == run.model.heads["fine"].weight.tolist()
    run.model.active_head = "fine"
    assert torch.equal(out(fresh, x), out(run.model, x))
    assert [p.requires_grad for p in fresh.kept.parameters()] == [False, False]


def test_what_a_builder_made_larger():
    torch.manual_seed(0)
    model = SizedGpt().to(F64)
    optimizer, actor = made(model)
    grow(actor, deepen(stack="blocks", how="stack"), cohort="a")
    grow(actor, regrow({**BIGGER, "num": 5}), cohort="b")
    step(model, optimizer, ids())
    files = written(take_weights(actor._standing, "kept", {}))
    fresh = SizedGpt().to(F64)
    before = values(fresh)
    with pytest.raises(sg.SnapshotError, match="nobody gave a builder 'big'"):
        load_weights(fresh, files)
    assert values(fresh) == before
    load_weights(fresh, files, parts={"big": SizedGpt})
    assert torch.equal(out(fresh, ids()), out(model, ids()))


def test_what_was_pruned_is_pruned():
    model, _, actor = grown()
    cut(actor, prune(modules=["blocks.g1-0"]))
    files = written(take_weights(actor._standing, "kept", {}))
    fresh = type(model)(3)
    load_weights(fresh, files)
    assert values(fresh) == values(model)
