"""What a growth costs beside copying its bytes, and what remembering a model costs.

Prints times, memory and their limits, and asserts nothing about time.
"""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from stagegraph.actions import TorchActor, growing
from stagegraph.actions.undo import Moment
from stagegraph.engine.ports import Boundary, Deed
from stagegraph.schema.actions import Deepen

ROUNDS = 7
MB = 2**20


class Again(Exception):
    """Everything went well; go back, to do it again."""


class Compute:
    """The seconds spent in modules' forward and in backward passes: the model's own work."""

    seconds = 0.0
    _depth = 0
    _began = 0.0

    def enter(self, *_: object) -> None:
        if self._depth == 0:
            torch.cuda.synchronize() if torch.cuda.is_initialized() else None
            self._began = perf_counter()
        self._depth += 1

    def leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            torch.cuda.synchronize() if torch.cuda.is_initialized() else None
            self.seconds += perf_counter() - self._began


class Apart:
    """The seconds that some functions take, but for the model's own work in them."""

    seconds = 0.0

    def __init__(self, patch: pytest.MonkeyPatch, work: Compute, module: Any, names: str) -> None:
        for name in names.split():
            patch.setattr(module, name, self._timed(getattr(module, name), work))

    def _timed(self, function: Callable[..., Any], work: Compute) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began, before = perf_counter(), work.seconds
            result = function(*args, **kwargs)
            self.seconds += perf_counter() - began - (work.seconds - before)
            return result

        return timed


@contextmanager
def compute(patch: pytest.MonkeyPatch) -> Iterator[Compute]:
    found, grad = Compute(), torch.autograd.grad

    def timed(*args: Any, **kwargs: Any) -> Any:
        found.enter()
        try:
            return grad(*args, **kwargs)
        finally:
            found.leave()

    hooks = [
        register_module_forward_pre_hook(found.enter),
        register_module_forward_hook(found.leave, always_call=True),
    ]
    with patch.context() as patched:
        patched.setattr(torch.autograd, "grad", timed)
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def gpt2(device: str) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor]:
    """124M parameters, as published, with random weights and filled optimizer state."""
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer, torch.randint(0, 1000, (1, 16), device=device)


def forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def cold(device: str) -> None:
    """Give free memory back to the system: a growth, and the copy beside it, take new memory."""
    if device == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def clone(blocks: nn.ModuleList) -> None:
    copies = [parameter.detach().clone() for parameter in blocks.parameters()]
    if copies[0].is_cuda:
        torch.cuda.synchronize()


def seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def deepening(device: str, patch: pytest.MonkeyPatch) -> str:
    model, optimizer, probe = gpt2(device)
    blocks, actor = model.transformer.h, TorchActor(model, optimizer, probe=probe)
    rows, evidence = [], {}
    for how in ("identity", "stack"):
        action = Deepen(
            type="deepen",
            stack="transformer.h",
            factor=2,
            how=how,
            at="spread" if how == "identity" else None,
            count=("config.n_layer",),
        )
        boundary = Boundary(0, None, (Deed("grow.actions[0]", action, "grown", None, 7),), (), {})

        def kept(outcome: Any, how: str = how) -> None:
            evidence.setdefault(how, outcome.evidence["grow.actions[0]"])
            raise Again

        def grow(kept: Callable[[Any], None] = kept, boundary: Boundary = boundary) -> None:
            with pytest.raises(Again):
                actor.transact(boundary, kept)

        cold(device)
        forget_peak(device)
        grow()
        clone(blocks)
        taken = []
        for _ in range(ROUNDS):
            cold(device)
            copying = seconds(lambda: clone(blocks))
            cold(device)
            with patch.context() as patched, compute(patched) as work:
                proof = Apart(patched, work, growing, "read measure _notes")
                whole = seconds(grow)
            taken.append(
                (copying, whole - work.seconds - proof.seconds, proof.seconds, work.seconds)
            )
        copying, structure, proof_seconds, work_seconds = (
            statistics.median(column) for column in zip(*taken, strict=True)
        )
        ratio = statistics.median(row[1] / row[0] for row in taken)
        memory = evidence[how]["memory"]
        peak = memory["peak_bytes"]
        rows += [
            f"  how: {how}",
            f"    torch.clone of the {memory['new_bytes'] / MB:.0f} MB that are new, alone"
            f"{copying:>14.3f} s",
            f"    plan, prepare, commit, undo log, going back       {structure:>14.3f} s"
            f"{ratio:>8.2f} x" + "   limit 2 x" * (device == "cpu"),
            f"    certificate: comparing, class                     {proof_seconds:>14.3f} s",
            f"    proofs and certificate, forward and backward      {work_seconds:>14.3f} s",
            "    memory at its height, above the start             "
            + (f"   {memory['how']}" if peak is None else f"{peak / MB:>14.0f} MB"),
        ]
    return "\n".join(rows)


def test_deepening_beside_a_copy(show, monkeypatch):
    show(
        "(f) GPT-2, 124M parameters, from 12 to 24 blocks, AdamW with state, on this CPU\n"
        + deepening("cpu", monkeypatch)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_deepening_beside_a_copy_on_a_gpu(show, monkeypatch):
    show(f"(f) the same on {torch.cuda.get_device_name()}\n" + deepening("cuda", monkeypatch))


def test_the_undo_log(show):
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    rows = [
        f"(g) the undo log by reference of {million:.1f}M parameters with AdamW, a median of 50"
    ]
    for name, fields in (("by reference", {}), ("and the buffers' contents", {"buffers": True})):
        made = [seconds(lambda f=fields: Moment([model], [optimizer], **f)) for _ in range(50)]
        moment = Moment([model], [optimizer], **fields)
        back = [seconds(moment.restore) for _ in range(50)]
        rows.append(
            f"  {name:<30}{statistics.median(made) * 1e3:>8.2f} ms   limit 10 ms"
            f"{statistics.median(back) * 1e3:>10.2f} ms back"
        )
    show("\n".join(rows))
