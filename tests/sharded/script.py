"""A plain script under torchrun: a sharded model that grows twice, killed and gone on with.

``python -m tests.sharded.script FOLDER [--kill-after N]``, under torchrun or alone, where nothing
is sharded.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from torch import distributed
from torch.optim import AdamW

import stagegraph as sg
from stagegraph.trainers import fsdp2
from tests.sharded.small import (
    batch,
    everything,
    loss_of,
    mine,
    moments,
    plain,
    probe,
    sharded,
    weights,
)

GRAPH = """
stagegraph: 1
name: deeper twice
budget: {steps: 40}
initial: small
stages:
  small: {kind: train, duration: 4 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 1, how: stack, state: copy}]
    next: warmup
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: freeze, of: [emb, blocks.0]}
    next: large
  large: {kind: train, duration: 3 steps, next: again}
  again:
    kind: grow
    actions: [{type: deepen, stack: blocks, add: 1, at: spread}]
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 3 steps, next: done}
  done: {kind: final}
"""
EVERY = 3


def main(folder, kill_after=None):
    alone = "RANK" not in os.environ
    begins = not (alone or distributed.is_initialized())
    if begins:
        distributed.init_process_group("gloo")
    rank = 0 if alone else distributed.get_rank()
    model, part = (plain(), everything) if alone else (sharded(), mine)
    optimizer = AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
    engine = sg.Engine(sg.load(GRAPH), model=model, optimizer=optimizer, probe=probe())
    parts = {"scheduler": schedule}
    kept = sorted(folder.glob("at-*/manifest.json"))
    step = 0
    if kept:
        step = fsdp2.load(kept[-1].parent, engine, model, optimizer, **parts)["step"]
    while not engine.done:
        if step == kill_after:
            os._exit(9)
        loss = engine.loss(loss_of(model, part(batch(step))))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        step += 1
        engine.step(loss=loss, samples=4)
        if step % EVERY == 0 and not alone and not engine.done:
            where = folder / f"at-{step:03}"
            fsdp2.save(where, engine, model, optimizer, **parts, beside={"step": step})
    both = {**weights(model), **moments(model, optimizer)}
    found = {
        "steps": step,
        "blocks": len(model.blocks),
        "from": int(kept[-1].parent.name[3:]) if kept else 0,
        "tensors": {name: tensor.tolist() for name, tensor in both.items()},
    }
    if rank == 0:
        (folder / "end.json").write_text(json.dumps(found))
    if not alone:
        distributed.barrier()
    if begins:
        distributed.destroy_process_group()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-after", type=int)
    words = parser.parse_args()
    torch.set_num_threads(1)
    main(words.folder, words.kill_after)
