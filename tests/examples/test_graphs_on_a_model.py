"""The short documents of the examples, each run to its end on a small real model."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

import stagegraph as sg
from tests.session.training import PROBE, WIDTH, Block, Records

FOLDER = Path(__file__).parents[2] / "examples" / "graphs"
STAGES = {
    "zero-init-warmup": ["train", "warmup", "consolidate", "done"],
    "lr-warmup": ["train", "warmup", "consolidate", "done"],
    "alpha-ramp": ["train", "warmup", "consolidate", "done"],
    "frozen-host": ["train", "alone", "together", "consolidate", "done"],
    "settling": ["train", "warmup", "settle", "consolidate", "done"],
    "consolidation": ["train", *["warmup", "consolidate", "train"] * 2, "done"],
    "stage-distillation": ["small", "middle", "settled", "large", "end", "done"],
    "shared-backbone": ["coarse", "alone", "fine", "done"],
}


class Model(nn.Module):
    """Residual blocks and heads, of which an attribute says which is in use."""

    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(4, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.ModuleList([Block(0.1)])
        self.heads = nn.ModuleDict({"coarse": nn.Linear(WIDTH, 1)})
        self.active_head = "coarse"

    def forward(self, x):
        x = self.norm(self.inp(x))
        for block in self.blocks:
            x = block(x)
        return self.heads[self.active_head](x)


def shortened(name):
    """The document with a hundredth of its updates."""
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    text = re.sub(r"(\d+)k steps|steps: (\d+)k", lambda m: _tenth(m[0], m[1] or m[2]), text)
    return sg.load(re.sub(r"(\d)00 steps", r"\1 steps", text))


def _tenth(whole, thousands):
    return f"{thousands}0 steps" if whole.endswith("steps") else f"steps: {thousands}0"


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", STAGES)
def test_it_runs_to_its_end_and_leaves_nothing_held(name):
    torch.manual_seed(1)
    model, records = Model(), Records()
    model.inp.bias.requires_grad_(requires_grad=False)  # the user's own, to stay so
    heads = {id(p) for p in model.heads.parameters()}
    own = [p for p in model.parameters() if id(p) not in heads]
    optimizer = AdamW(
        [
            {"params": own, "name": "backbone"},
            {"params": list(model.heads.parameters()), "name": "head"},
        ],
        lr=0.02,
    )
    engine = sg.Engine(shortened(name), model=model, optimizer=optimizer, probe=PROBE)
    engine.listen(records)
    engine.start()
    losses = []
    while not engine.done:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(len(losses)))
        out = model(x)
        loss = engine.loss((out - x.sum(1, keepdim=True)).pow(2).mean(), outputs=out, inputs=x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        engine.step(samples=16)
        if engine.wants_evaluation:
            engine.observe(val_loss=loss.item())
    moves = [record["target"].removeprefix("main:") for record in records.of("move")]
    assert (engine.ended, moves) == ("final", STAGES[name])
    growths = 2 if name in ("consolidation", "stage-distillation") else 1
    assert (records.of("error"), len(records.of("growth"))) == ([], growths)
    assert sum(losses[-10:]) < sum(losses[:10])
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["inp.bias"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    assert all(module.training for module in model.modules())
    assert hooks(model) == (name == "lr-warmup")  # what runs an adapter stays, with the adapter
    assert model.active_head == "coarse"
