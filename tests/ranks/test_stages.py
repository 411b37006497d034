"""What else stages do, on two ranks: trials, attributions, heads, returns in the data, edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import stagegraph as sg
from stagegraph.runs.journal import read_journal
from tests.ranks.processes import on_ranks
from tests.ranks.small import GROWING, SIZE, Block, batches, train, weights

pytestmark = pytest.mark.xdist_group("ranks")

EVERYTHING = """
stagegraph: 1
name: everything else
budget: {steps: 60}
metrics:
  val_loss: {goal: minimize, every: 3 steps}
  probe_loss: {goal: minimize, every: 3 steps}
initial: train
stages:
  train: {kind: train, duration: 3 steps, next: try}
  try:
    kind: trial
    options:
      - {name: deep, actions: [{type: deepen, stack: blocks, add: 1, init: fresh}]}
      - {name: wide, actions: [{type: widen, space: inner, add: 3}]}
    over: 3 steps
    metric: val_loss
    next: warmup
  warmup:
    kind: warmup
    during: [{type: lr_ramp, of: grown, start: 0, over: 3 steps}]
    next: judge
  judge:
    kind: consolidate
    actions: [{type: attribute, metric: probe_loss}]
    duration: 3 steps
    next: keep
  keep: {kind: train, actions: [{type: snapshot, name: judged}], duration: 2 steps, next: head}
  head: {kind: grow, actions: [{type: add_head, heads: heads, head: b, init: fresh}], next: other}
  other:
    kind: train
    during: [{type: head, of: active_head, use: b}]
    transitions:
      - target: again
        when: elapsed(3 steps)
        actions: [{type: roll_back, to: judged, lr_factor: 0.5}]
        at_most: 1
    duration: 9 steps
    next: done
  again: {kind: train, duration: 3 steps, next: grow}
  grow: {kind: grow, actions: [{type: add_head, heads: heads, head: b, init: fresh}], next: last}
  last:
    kind: warmup
    during:
      - {type: head, of: active_head, use: b}
      - {type: lr_ramp, of: grown, start: 0, over: 3 steps}
    next: done
  done: {kind: final}
spaces:
  tensors: {blocks.*.up.weight: inner _, blocks.*.up.bias: inner, blocks.*.down.weight: _ inner}
"""


class Headed(nn.Module):
    """Residual blocks under one of several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(0.1) for _ in range(2))
        self.heads = nn.ModuleDict({"a": nn.Linear(SIZE, 1)})
        self.active_head = "a"

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.heads[self.active_head](x)
        return out


class Share:
    """A rank's share of the batches, and where it stands in them."""

    def __init__(self, rank: int, size: int) -> None:
        self.at, self._all = 0, batches(rank, size)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]

    def next(self) -> Tensor:
        self.at += 1
        return self._all[self.at % len(self._all)]


def life(rank: int, size: int, folder: Path, updates: int = 1000) -> dict[str, Any]:
    """Train for some updates, or to the end; go on if the folder holds a run."""
    torch.manual_seed(0)
    net = Headed()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    share = Share(rank, size)
    held_out = torch.linspace(-1, 1, 4 * SIZE).view(4, SIZE)

    def loss_of(x: Tensor) -> Tensor:
        return (net(x) - x.sum(1, keepdim=True)).pow(2).mean()

    engine = sg.Engine(
        sg.load(EVERYTHING),
        model=model,
        optimizer=optimizer,
        probe=torch.ones(2, SIZE),
        data=share,
        monitor=lambda _: {"probe_loss": loss_of(held_out).item()},
        run=folder,
        checkpoints=sg.Checkpoints(every="1 steps"),
    )
    torch.manual_seed(rank)
    losses, places = list[float](), list[int]()
    with engine:
        engine.resume()
        while not engine.done and len(losses) < updates:
            x = share.next()
            loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            places.append(share.at)
            engine.step(loss=loss, samples=len(x))
            if engine.wants_evaluation:
                net.eval()
                with torch.no_grad():
                    value = loss_of(held_out).item() + rank  # each its own; the mean counts
                net.train()
                engine.observe(val_loss=value)
        return {
            "weights": weights(net),
            "names": [name for name, _ in net.named_parameters()],
            "stages": engine.stages,
            "losses": losses,
            "places": places,
            "head": net.active_head,
        }


CUTS = (5, 14)
"""In the turn of an option, and after the attribution."""


def cut(rank: int, size: int, folder: Path, cuts: tuple[int, ...]) -> Any:
    """A whole run, and runs that were cut after some updates and gone on with."""
    whole = life(rank, size, folder / "whole")
    again = {}
    for updates in cuts:
        life(rank, size, folder / f"cut-{updates}", updates)
        again[updates] = life(rank, size, folder / f"cut-{updates}")
    return whole, again


@pytest.mark.parametrize(
    "cuts", [CUTS, pytest.param(tuple(range(1, 26)), marks=pytest.mark.slow)], ids=str
)
def test_ranks_try_judge_switch_and_return_alike_and_go_on_bit_for_bit(
    tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    runs = on_ranks(2, cut, 2, tmp_path, cuts, folder=tmp_path, seconds=300)
    (first, _), (second, _) = runs
    assert first["weights"] == second["weights"]
    assert first["names"] == second["names"]
    assert first["stages"] == second["stages"] == {"main": "done"}
    assert first["losses"] != second["losses"]  # each has a share of its own
    assert first["head"] == "a"  # given back at the end
    assert "heads.b.weight" in first["names"]
    for whole, again in runs:
        for updates, one in again.items():
            assert one["weights"] == whole["weights"], f"cut after update {updates}"
            assert one["losses"] == whole["losses"][-len(one["losses"]) :]
            assert one["places"] == whole["places"][-len(one["places"]) :]
    journal = read_journal(tmp_path / "whole" / "journal.jsonl")
    assert {"trial", "attribution", "growth"} <= {record["type"] for record in journal}
    assert any(r.get("snapshot", "").startswith("judged@") for r in journal)
    # Each option has seen the same batches, and so has what was returned to.
    places = first["places"]
    assert places[3:6] == places[6:9]
    assert len(places) > len(set(places)) + 3


def edited(rank: int, size: int, folder: Path) -> Any:
    """A run that is left before its second growth, and goes on under a longer graph."""
    train(rank, size, folder, updates=4)
    longer = GROWING.replace("widen, space: inner, add: 3", "widen, space: inner, add: 5")
    return train(rank, size, folder, graph=longer.replace("duration: 5 steps", "duration: 7 steps"))


def test_ranks_go_on_under_an_edited_graph(tmp_path: Path) -> None:
    first, second = on_ranks(2, edited, 2, tmp_path / "run", folder=tmp_path, seconds=120)
    assert first["weights"] == second["weights"]
    assert first["stages"] == second["stages"] == {"main": "done"}
    assert first["step"] == 3 + 3 + 3 + 7
    journal = read_journal(tmp_path / "run" / "journal.jsonl")
    (widened,) = [r for r in journal if r["type"] == "growth" and "widen" in str(r["certificate"])]
    assert "5" in str(widened["certificate"])
