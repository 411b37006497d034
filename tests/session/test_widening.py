"""A growth in width through the engine: warmed up, resumed at every update, rolled back."""

import pytest
import torch
from torch import nn

import stagegraph as sg
from tests.session.training import PROBE, WIDTH, Net, Training, weights

GRAPH = """
stagegraph: 1
name: wider
spaces:
  tensors:
    blocks.*.up.weight: mlp _
    blocks.*.up.bias: mlp
    blocks.*.down.weight: _ mlp
budget: {steps: 60}
initial: train
stages:
  train: {kind: train, duration: 4 steps, next: grow}
  grow:
    kind: grow
    actions:
      - {type: snapshot, name: before}
      - {type: widen, space: mlp, factor: 1.5, how: HOW}
    next: warmup
  warmup:
    kind: warmup
    during: [{type: lr_ramp, of: grown, start: 0, end: 1, over: 6 steps}]
    next: consolidate
  consolidate:
    kind: consolidate
    during: [{type: freeze, of: grown}]
    duration: 3 steps
    next: rest
  rest: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
"""


def going(how="zero_out", **more):
    return Training(GRAPH.replace("HOW", how), **more)


@pytest.mark.parametrize("how", ["split", "uneven", "zero_out", "pair"])
def test_it_is_grown_warmed_up_and_trained(how):
    training = going(how).go()
    assert [move[1] for move in training.moves][-1] == "main:done"
    (record,) = training.records.of("growth")
    certificate = record["certificate"]
    assert certificate["units"] == {"mlp": [2 * WIDTH, 3 * WIDTH]}
    assert certificate["exactness"].startswith("exact")
    assert certificate["params"]["after"] - certificate["params"]["before"] == 2 * WIDTH * 13
    assert training.model.blocks[0].up.out_features == 3 * WIDTH


def test_new_units_move_with_their_ramp_only():
    training = going().go(until="warmup")
    up = training.model.blocks[0].up.weight
    before = up.detach().clone()
    training.tick()
    assert torch.equal(up[2 * WIDTH :], before[2 * WIDTH :])
    assert not torch.equal(up[: 2 * WIDTH], before[: 2 * WIDTH])
    training.tick()
    assert not torch.equal(up[2 * WIDTH :], before[2 * WIDTH :])
    training.go(until="consolidate")
    before = up.detach().clone()
    training.tick()
    assert torch.equal(up[2 * WIDTH :], before[2 * WIDTH :])


@pytest.mark.parametrize("cut", [0, 3, 4, 5, 8, 10, 11, 13, 14, 16])
def test_resume_at_any_update_is_exact(cut):
    whole = going("uneven").go()
    first = going("uneven").go(cut)
    again = going("uneven").load(first.save()).go()
    assert again.weights() == whole.weights()
    assert again.moves == whole.moves[len(first.moves) :]


def test_what_it_would_add_is_known_before():
    training = going()
    assert training.engine._torch.facts().costs == {"main:grow": 2 * WIDTH * 13}


def test_the_checks_find_what_is_not_declared():
    graph = sg.load(GRAPH.replace("HOW", "split").replace("    blocks.*.down.weight: _ mlp\n", ""))
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    (finding,) = [
        f
        for f in sg.check(graph, model=model, optimizer=optimizer, probe=PROBE)
        if f.severity == "error"
    ]
    assert finding.code == "model-mismatch"
    assert finding.pointer == "/stages/grow/actions/1"
    assert "axis 1 of 'blocks.0.down.weight' is tied to the space 'mlp'" in finding.message
    before = weights(model)
    with pytest.raises(sg.UnsupportedError, match="is tied to the space 'mlp' and is not declared"):
        sg.Engine(graph, model=model, optimizer=optimizer, probe=PROBE)
    assert weights(model) == before


def test_the_declaration_can_be_proposed():
    proposed = sg.propose_spaces(Net(), PROBE)["tensors"]
    up, down = proposed["blocks.*.up.weight"], proposed["blocks.*.down.weight"]
    assert up.split() == down.split()[::-1]
    assert proposed["blocks.*.up.bias"] == up.split()[0]


def test_a_loss_that_the_loop_still_holds_is_in_nobodys_way():
    training = going()
    held = []
    for _ in range(8):
        loss = training.update()
        held.append(loss)
        training.engine.step(loss=loss)
    assert training.model.blocks[1].down.weight.shape == (WIDTH, 3 * WIDTH)


class Odd(nn.Module):
    """Reads a weight without calling its module."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 1)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return (torch.tanh(self.inp(x)) * self.scale) @ self.out.weight.T


def test_tensors_that_no_module_is_called_for_are_found():
    proposed = sg.propose_spaces(Odd(), PROBE)["tensors"]
    hidden = proposed["scale"]
    assert proposed["inp.bias"] == hidden
    assert proposed["out.weight"].split()[1] == hidden
