"""What a growth says of memory: on CUDA the allocator's own numbers."""

import torch
from torch.optim import AdamW

from stagegraph.actions import TorchActor
from tests.actions.models import Model, accept, batch, boundary, deepen, growth


def test_its_height_is_measured(device):
    model = Model(norm=False).to(device)
    optimizer = AdamW(model.parameters(), lr=0.01)
    x = batch().to(device)
    actor = TorchActor(model, optimizer, probe=x)
    model(x).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = sum(p.nbytes for p in model.parameters())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    deed = growth(deepen(add=8))
    outcome = actor.transact(boundary(deeds=[deed]), accept)
    memory = outcome.evidence[deed.place]["memory"]
    added = sum(p.nbytes for p in model.parameters()) - before
    assert memory["new_bytes"] >= added > 0
    if device.type == "cuda":
        assert memory["how"] == "torch.cuda.max_memory_allocated"
        assert memory["peak_bytes"] >= added
    else:
        assert "resident set" in memory["how"] or memory["peak_bytes"] is None
