"""An ordinary script for several ranks: ``DistributedDataParallel`` on handwritten digits.

Run it as ``torchrun --nproc-per-node 2 -m examples.distributed.plain``; ``train.py`` is the same
with stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from examples.distributed.model import Classifier
from examples.distributed.ranks import evaluate, loaders, process_group


def train(*, steps: int = 160, seed: int = 0) -> float:
    """Train for so many updates; return the loss on this rank's share of what is held out."""
    torch.manual_seed(seed)
    loader, held_out = loaders(seed)
    model = DistributedDataParallel(Classifier())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    step, epoch = 0, 0
    while step < steps:
        assert isinstance(loader.sampler, DistributedSampler)
        loader.sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == steps:
                break
        epoch += 1

    return evaluate(model.module, held_out)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=160, help="updates (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and orders (default: 0)")
    args = parser.parse_args(argv)
    with process_group():
        print(f"loss on what is held out: {train(steps=args.steps, seed=args.seed):.3f}")


if __name__ == "__main__":
    main()
