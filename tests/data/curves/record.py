"""Record validation-loss curves of a small byte-level GPT on the text of Python's own library.

Run it as ``python tests/data/curves/record.py --batch 16 --lr 3e-3 --seed 0 --steps 2000 --out .``;
it writes ``b16-lr0.003-s0.csv`` with a line ``step,val_loss`` each ``--every`` steps.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

# Shapes: B batch, T context, D width, V bytes.


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Attend, then transform, both beside the residual path."""
        b, t, d = x_BTD.shape
        q, k, v = (
            part.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x_BTD)).split(d, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.proj(mixed.transpose(1, 2).reshape(b, t, d))
        out: Tensor = x_BTD + self.down(functional.gelu(self.up(self.norm2(x_BTD))))
        return out


class ByteGPT(nn.Module):
    """A GPT over bytes."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits, ``[B, T, V]``, for each next byte."""
        x_BTD = self.tokens(x_BT) + self.places.weight[: x_BT.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x_BTD)))
        return logits


def read_bytes(max_bytes: int) -> tuple[Tensor, Tensor]:
    """The library's top-level sources as (train, validation); each tenth file is for validation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, file in enumerate(files):
        parts[number % 10 == 9].append(file.read_bytes())
    train, val = (torch.frombuffer(bytearray(b"".join(p)), dtype=torch.uint8) for p in parts)
    return train[:max_bytes].long(), val.long()


def sample(data: Tensor, batch: int, context: int, generator: torch.Generator) -> Tensor:
    """Random stretches of ``context + 1`` bytes, ``[B, T + 1]``."""
    starts = torch.randint(len(data) - context - 1, (batch, 1), generator=generator)
    return data[starts + torch.arange(context + 1)]


def loss_of(model: nn.Module, x_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats."""
    logits = model(x_BT[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), x_BT[:, 1:].flatten())


def record(args: argparse.Namespace) -> None:
    """Train once and write the curve."""
    torch.manual_seed(args.seed)
    train, val = read_bytes(args.max_bytes)
    fixed = sample(val, args.val_batch, args.context, torch.Generator().manual_seed(12345))
    model = ByteGPT(args.layers, args.width, args.heads, args.context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1000 + args.seed)
    lines = ["step,val_loss"]
    start = time.perf_counter()
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / args.warmup)
        loss = loss_of(model, sample(train, args.batch, args.context, generator))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % args.every == 0:
            with torch.no_grad():
                value = loss_of(model, fixed).item()
            if not math.isfinite(value):
                raise SystemExit(f"the loss is {value} at step {step}")
            lines.append(f"{step},{value:.5f}")
    name = f"b{args.batch}-lr{args.lr:g}-s{args.seed}.csv"
    (args.out / name).write_text("\n".join(lines) + "\n")
    print(f"{name}: {lines[-1]} after {time.perf_counter() - start:.1f} s")


def main() -> None:
    """Read the command line and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--val-batch", type=int, default=64)
    parser.add_argument("--max-bytes", type=int, default=4_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record(args)


if __name__ == "__main__":
    main()
