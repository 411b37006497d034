"""A real run that visits every kind of stage, to be killed anywhere and resumed.

``python -m tests.survival.growing_run FOLDER`` trains in a folder, goes on if a run is there, and
prints the digest of all that it has come to.
"""

import hashlib
import json
import random
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import stagegraph as sg
from stagegraph.runs.folder import RunFolder
from tests.session.training import Net

GRAPH = """
stagegraph: 1
name: to be killed
metrics: {val_loss: {goal: minimize, every: 4 steps}, loss: {goal: minimize}}
budget: {steps: 120}
spaces:
  tensors:
    blocks.*.up.weight: hidden _
    blocks.*.up.bias: hidden
    blocks.*.down.weight: _ hidden
initial: train
stages:
  train:
    kind: train
    transitions:
      - {target: deeper, when: last(val_loss) < 1000 and elapsed(6 steps)}
  deeper:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 5 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 6 steps}
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: consolidate}
  consolidate:
    kind: consolidate
    during: [{type: freeze, of: inp}]
    duration: 4 steps
    next: middle
  middle: {kind: train, duration: 5 steps, next: wider}
  wider:
    kind: grow
    actions: [{type: widen, space: hidden, to: 16, how: zero_out}]
    next: settle_again
  settle_again: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: anneal}
  anneal:
    kind: train
    during: [{type: lr_ramp, end: 0, over: 6 steps}]
    duration: 6 steps
    transitions:
      - {target: done, when: completed(), actions: [{type: save, name: annealed}]}
  done: {kind: final}
interrupts:
  - name: undo
    within: [anneal]
    when: elapsed(3 steps)
    actions:
      - {type: save, name: undone}
      - {type: roll_back, to: before, rng: fork, lr_factor: 0.5}
    target: train
    at_most: 1
"""

SIZE, BATCH = 40, 4


def make(folder, *, checkpoints=None):
    """Model, optimizer and all that belongs to them, and the engine in its folder."""
    torch.manual_seed(11)
    random.seed(11)
    model = Net(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    engine = sg.Engine(
        sg.load(GRAPH),
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ema,
        probe=torch.linspace(-1, 1, 20).view(5, 4),
        run=folder,
        checkpoints=checkpoints or sg.Checkpoints(every="5 steps", keep=2, best="val_loss"),
    )
    return model, optimizer, scheduler, ema, engine


def data():
    x = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, x.sum(1, keepdim=True).sin())


def train(folder):
    """Train to the end, from wherever the folder says; return the digest of what has come of it."""
    model, optimizer, scheduler, ema, engine = make(folder)
    items = data()
    loader = DataLoader(items, BATCH, sampler=sg.SeededSampler(items, seed=3))
    engine.resume()
    with engine:
        for epoch in engine.epochs(loader):
            for x, y in epoch:
                noisy = x + 0.01 * torch.randn_like(x) + 0.001 * random.random()
                loss = engine.loss((model(noisy) - y).pow(2).mean())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                ema.update_parameters(model)
                engine.step(loss=loss, samples=len(x))
                if engine.wants_evaluation:
                    engine.observe(val_loss=evaluate(model, items))
    return digest(folder, model, optimizer, scheduler, ema)


@torch.no_grad()
def evaluate(model: nn.Module, items):
    model.eval()
    loss = (model(items.tensors[0]) - items.tensors[1]).pow(2).mean().item()
    model.train()
    return loss


def digest(folder, model, optimizer, scheduler, ema):
    """Of every byte of model, optimizer, scheduler, EMA, random numbers, and of all decisions."""
    found = hashlib.sha256()
    for state in (model.state_dict(), ema.state_dict()):
        for name, tensor in state.items():
            found.update(f"{name}{tuple(tensor.shape)}".encode())
            found.update(bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()))
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, entry in optimizer.state.items():
        numbers = {key: torch.as_tensor(value).tolist() for key, value in entry.items()}
        found.update(f"{names[id(parameter)]}{numbers}".encode())
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    found.update(repr((groups, scheduler.state_dict(), random.getstate())).encode())
    found.update(bytes(torch.get_rng_state().tolist()))
    found.update(json.dumps(decisions(folder), sort_keys=True).encode())
    found.update(repr(saved(folder)).encode())
    return found.hexdigest()


def saved(folder):
    """The models that were saved, by their files, and what the journal says of them."""
    records = RunFolder(folder).records()
    told = [(r["name"], r["of_step"], r["of_boundary"]) for r in records if r["type"] == "saved"]
    models = sg.saved(folder)
    assert [one.name for one in models] == ["undone", "annealed"]
    assert sorted(told) == sorted((one.name, one.step, one.boundary) for one in models)
    entries = [entry for one in models for entry in one.path.parent.iterdir()]
    assert len(entries) == 2, "nothing is left of what was written twice, or half"
    files = [path for one in models for path in sorted(one.path.iterdir())]
    kept = [path for path in files if path.name != "manifest.json"]  # that has the time
    return sorted(told), [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in kept
    ]


def decisions(folder):
    """What was decided, and on what evidence; not how long it took."""
    kinds = {"move", "growth", "roll_back", "metric", "end", "error", "blocked", "verdict"}
    records = RunFolder(folder).records()
    return [without_seconds(record) for record in records if record["type"] in kinds]


def without_seconds(data):
    if isinstance(data, dict):
        measured = {"seconds", "peak_bytes", "how"} if "peak_bytes" in data else {"seconds"}
        return {k: without_seconds(v) for k, v in data.items() if k not in measured}
    return [without_seconds(v) for v in data] if isinstance(data, list) else data


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print(train(Path(sys.argv[1])))
