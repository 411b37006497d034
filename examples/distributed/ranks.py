"""Ranks: the process group, and each rank's share of the handwritten digits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from examples.grow_images import data

BATCH = 32
"""Images in a batch of each rank."""


@contextmanager
def process_group() -> Iterator[None]:
    """The ranks that torchrun has started; one, if it has not."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    store = None if "MASTER_ADDR" in os.environ else HashStore()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    try:
        yield
    finally:
        dist.destroy_process_group()


def loaders(seed: int) -> tuple[DataLoader[tuple[Tensor, ...]], tuple[Tensor, Tensor]]:
    """This rank's share: batches to train on, in another order each pass, and images held out."""
    images = data.load("digits")
    dataset = TensorDataset(images.train, images.labels)
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(
        dataset, seed=seed, drop_last=True
    )
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, drop_last=True)
    share = slice(dist.get_rank(), None, dist.get_world_size())
    return loader, (images.held_out[share], images.held_out_labels[share])


@torch.no_grad()
def evaluate(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> float:
    """Mean cross-entropy of this rank's share of what is held out, in nats."""
    training = model.training
    model.eval()
    loss = F.cross_entropy(model(held_out[0]), held_out[1]).item()
    model.train(training)
    return loss
