"""Certificates: what a growth did to the function, measured on the probe, without leaving a trace.

The random numbers are the same before and after, and what the new blocks draw (dropout) is taken
aside, so that a difference is a difference of the function. A new block that the model's own loop
skips would look exact: that each ran, and gets a gradient, is therefore part of the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stagegraph.actions.dropout import WithoutDropout
from stagegraph.actions.gates import Gates
from stagegraph.actions.growth.gradients import look_at_gradients
from stagegraph.actions.growth.operation import Committed
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.randomness import RandomState, fixed_direction, seed_all
from stagegraph.actions.sharding.units import reducing
from stagegraph.actions.stream import is_felt
from stagegraph.actions.undo import Moment

__all__ = ["Exactness", "Measured", "Reading", "compare", "exactness", "measure", "read"]

Exactness = Literal["exact", "exact up to rounding", "approximate"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The model's output on its probe, in eval and in train mode.

    Attributes:
        eval: In eval mode.
        train: In train mode.
        still: In train mode without dropout.
    """

    eval: Tensor
    train: Tensor
    still: Tensor


@dataclass(frozen=True, slots=True)
class Measured:
    """What a growth did.

    A change is NaN where the output became NaN (or was), and infinite where it has another shape.

    Attributes:
        eval: Largest change of the output in eval mode, with alpha as it will be.
        train: The same in train mode; without dropout if it would not stand otherwise, for a
            growth in width draws masks of other shapes.
        dropout: Whether dropout was on for that.
        open: The same in eval mode with alpha 1 for the new blocks.
        closed: The same with alpha 0; with gates, nothing but 0 is right.
        scale: Largest output before.
        eps: Rounding unit of the output.
        idle: New blocks that did not run.
        without_gradient: New blocks that ran, want a gradient, and got none.
        num_with_gradient: How many new parameters got a gradient that is not zero.
        trained: How many new parameters want one.
    """

    eval: float
    train: float
    open: float
    closed: float
    scale: float
    eps: float
    dropout: bool = True
    idle: tuple[str, ...] = ()
    without_gradient: tuple[str, ...] = ()
    num_with_gradient: int = 0
    trained: int = 0


def exactness(change: float, measured: Measured) -> Exactness:
    """What a change amounts to, for outputs of this size and precision."""
    if change == 0.0:
        return "exact"
    if change <= 64 * measured.eps * max(1.0, measured.scale):
        return "exact up to rounding"
    return "approximate"


def read(model: nn.Module, probe: Probe, *, seed: int, aside: Sequence[nn.Module] = ()) -> Reading:
    """The outputs on the probe; nothing of it stays.

    Args:
        model: The model.
        probe: Its probe.
        seed: What the random numbers start from.
        aside: Modules whose own random numbers the others must not miss.
    """
    return _Readings(model, probe, seed, aside).both()


class _Readings:
    """Several readings of one model, each as if it was the only one."""

    def __init__(
        self, model: nn.Module, probe: Probe, seed: int, aside: Sequence[nn.Module] = ()
    ) -> None:
        self._model, self._probe, self._seed, self._aside = model, probe, seed, aside
        self._moment = Moment([model], buffers=True)
        self._drew = False

    def both(self) -> Reading:
        train = self.output(training=True)
        return Reading(
            eval=self.output(training=False),
            train=train,
            still=self.still() if self._drew else train,
        )

    def output(self, *, training: bool) -> Tensor:
        with self._moment.restored(), torch.no_grad(), _taken_aside(self._aside):
            _set_mode(self._model, training=training)
            seed_all(self._seed)
            before = RandomState.capture()
            output = run_probe(self._model, self._probe).detach().clone()
            now = RandomState.capture()
            self._drew = self._drew or not now.torch_would_draw_as(before)
            return output

    def still(self) -> Tensor:
        """The output in train mode without dropout."""
        with WithoutDropout():
            return self.output(training=True)

    def gradients(
        self, blocks: Mapping[str, nn.Module], new: Sequence[nn.Parameter]
    ) -> tuple[tuple[str, ...], Sequence[Tensor | None]]:
        """Which blocks did not run, and the gradient of each new parameter that wants one."""
        ran: set[str] = set()
        wanted = [parameter for parameter in new if parameter.requires_grad]
        with self._moment.restored(), torch.enable_grad(), reducing(self._model):
            for name, block in blocks.items():
                block.register_forward_hook(lambda *_, name=name: ran.add(name))
            _set_mode(self._model, training=True)
            grads = look_at_gradients(self._loss, wanted, self._model.parameters())
            if not wanted:
                self._loss()
        return tuple(name for name in blocks if name not in ran), grads

    def _loss(self) -> Tensor | None:
        seed_all(self._seed)
        out = run_probe(self._model, self._probe)
        return (out * fixed_direction(out)).sum() if out.requires_grad else None


def _set_mode(model: nn.Module, *, training: bool) -> None:
    if model.training != training:  # in train mode, modules that the user keeps in eval stay so
        model.train(training)


@contextmanager
def _taken_aside(modules: Sequence[nn.Module]) -> Iterator[None]:
    states: list[RandomState] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        states.append(RandomState.capture())

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        states.pop().restore()

    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(
    model: nn.Module,
    probe: Probe,
    *,
    before: Reading,
    blocks: Mapping[str, nn.Module],
    committed: Committed,
    gates: Gates,
    seed: int,
) -> Measured:
    """Measure a growth that has just been made.

    Args:
        model: The grown model.
        probe: Its probe.
        before: What was read before.
        blocks: The new blocks by stable id.
        committed: What is new.
        gates: The model's gates; alpha of the new blocks is as it will be.
        seed: The seed of the first reading.
    """
    readings = _Readings(model, probe, seed, list(blocks.values()))
    after = readings.both()
    closed = opened = after.eval  # what cannot differ is not run again
    alphas = gates.alphas()
    gated = {alphas[block] for block in blocks if block in alphas}
    if gated - {0.0}:
        with gates.held_at(0.0, blocks):
            closed = readings.output(training=False)
    if gated - {1.0}:
        with gates.held_at(1.0, blocks):
            opened = readings.output(training=False)
    with gates.held_at(1.0, {*alphas, *blocks}):  # other blocks that are closed now will open too
        idle, grads = readings.gradients(blocks, _new(committed))
    wanted = {id(p): p for p in _new(committed) if p.requires_grad}
    reached = {
        key
        for (key, parameter), grad in zip(wanted.items(), grads, strict=True)
        if is_felt(_where_new(grad, committed.marks.get(parameter)))
    }
    narrowed = committed.narrowed or (lambda output: output)
    train = _distance(before.train, narrowed(after.train))
    still = _distance(before.still, narrowed(after.still))
    masked = math.isfinite(train) and still < train  # a NaN or infinity is never masks alone
    return Measured(
        eval=_distance(before.eval, narrowed(after.eval)),
        train=still if masked else train,
        dropout=not masked,
        open=_distance(before.eval, narrowed(opened)),
        closed=_distance(before.eval, narrowed(closed)),
        scale=_scale(before.eval),
        eps=torch.finfo(before.eval.dtype).eps,
        idle=idle,
        without_gradient=tuple(
            name for name, block in blocks.items() if not _reached(block, wanted, reached)
        ),
        num_with_gradient=len(reached),
        trained=len(wanted),
    )


def compare(before: Reading, after: Reading) -> Measured:
    """What a change of the structure did that brings nothing new."""
    changed = _distance(before.eval, after.eval)
    return Measured(
        eval=changed,
        train=_distance(before.train, after.train),
        open=changed,
        closed=changed,
        scale=_scale(before.eval),
        eps=torch.finfo(before.eval.dtype).eps,
    )


def _new(committed: Committed) -> list[nn.Parameter]:
    return [*committed.templates, *committed.marks]


def _where_new(grad: Tensor | None, marks: Tensor | None) -> Tensor | None:
    if grad is None or marks is None:
        return grad
    grad = grad.to_dense() if grad.layout is not torch.strided else grad
    return grad.masked_select(marks.to(grad.device).expand_as(grad))


def _reached(block: nn.Module, wanted: Mapping[int, nn.Parameter], reached: set[int]) -> bool:
    own = {id(parameter) for parameter in block.parameters()} & set(wanted)
    return not own or bool(own & reached)


def _distance(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return float("inf")
    wide = torch.promote_types(before.dtype, torch.float32)
    change = (after.to(wide) - before.to(wide)).abs_()
    change.masked_fill_(after == before, 0.0)  # a score masked with infinity is no change
    return float(change.max()) if change.numel() else 0.0


def _scale(output: Tensor) -> float:
    finite = output.detach().abs().nan_to_num(nan=0.0, posinf=0.0)
    return float(finite.max()) if finite.numel() else 0.0
