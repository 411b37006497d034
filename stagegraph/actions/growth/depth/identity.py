"""Identity: which weights of a block to zero so that it hands its input on unchanged.

A residual block x + f(x) is the identity when every branch f ends in zero. Which weights those are
is declared (``zero:``) or found: the outputs of the executed modules are zeroed from the last
backwards until the block is the identity, and then those that need not be zero are given back. The
proposal is proven on a real input, in eval and in train mode, before anybody relies on it; and
every zeroed weight must get a gradient, or the block could never learn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.growth.depth.stacks import copy_block, own_parameters
from stagegraph.actions.growth.modules.branches import attachments
from stagegraph.actions.parameters import subtree_matches
from stagegraph.actions.randomness import fixed_direction, preserved_randomness
from stagegraph.actions.sharding.precision import stand_in
from stagegraph.actions.stream import is_felt, main_input, main_output
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = [
    "Call",
    "NoIdentity",
    "Zeroing",
    "apply_zeroing",
    "declared_zeroing",
    "fill",
    "find_zeroing",
    "hits",
    "keeps_shape",
    "minus_one_gains",
    "why_not",
]

Zeroing = tuple[tuple[str, float], ...]
"""Parameter names in the block, each with the value it is filled with."""

_Memory = dict[tuple[int, float], Tensor]
"""Memory that is filled, by the id of the parameter that it is for, and by the value."""

_WAYS_OUT = (
    "; declare what to zero with zero: [...], or let an alpha_ramp from 0 over the new blocks "
    "blend plain copies in"
)


class NoIdentity(UnsupportedError):
    """A block cannot be made the identity by zeros; a closed gate would still make it one."""


def _copied(value: Any) -> Any:
    """A copy that a block may write into: a stream in place, a key-value cache."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, nn.Module):
        return value
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    memo: dict[int, Any] = {}
    _copy_tensors(value, memo, set())
    return copy.deepcopy(value, memo)


def _copy_tensors(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Enter copies of all tensors in an object: those that a graph made refuse a deep copy."""
    if isinstance(value, Tensor):
        memo[id(value)] = value.detach().clone()
    elif isinstance(value, nn.Module) or id(value) in seen:
        return
    else:
        seen.add(id(value))
        inside: list[Iterable[Any]] = [list(vars(value).values())] if _has_fields(value) else []
        if isinstance(value, dict):
            inside.append(value.values())
        elif isinstance(value, list | tuple | set):
            inside.append(value)
        for one in chain(*inside):
            _copy_tensors(one, memo, seen)


def _has_fields(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict)


@dataclass(frozen=True, slots=True)
class Call:
    """What a block was called with; each run gets a copy, so that none sees another's traces."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: tuple[str, torch.dtype] | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Keep a copy of what a block is about to be called with, and the autocast it is under."""
        x = main_input(args, kwargs)
        device = "cpu" if x is None else x.device.type
        on = torch.is_autocast_enabled(device)
        autocast = (device, torch.get_autocast_dtype(device)) if on else None
        return cls(_copied(args), _copied(kwargs), autocast)

    def run(self, module: nn.Module) -> Any:
        """Call a module so."""
        args, kwargs = _copied(self.args), _copied(self.kwargs)
        if self.autocast is None:
            return module(*args, **kwargs)
        device, dtype = self.autocast
        # without its cache, which would not see that weights are zeroed
        with torch.autocast(device, dtype, cache_enabled=False):
            return module(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A module that ran and has weights of its own, in the order of execution."""

    name: str
    module: nn.Module
    call: Call


def apply_zeroing(block: nn.Module, zeroing: Zeroing) -> None:
    """Fill the parameters of a zeroing."""
    with torch.no_grad():
        for name, value in zeroing:
            block.get_parameter(name).fill_(value)


def fill(block: nn.Module, zeroing: Zeroing, memory: _Memory | None = None) -> Callable[[], None]:
    """Let the parameters of a zeroing lie in other memory that is filled.

    Args:
        block: The block.
        zeroing: What is filled.
        memory: What was filled before, to be taken again: new memory costs more than to fill it.

    Returns:
        The way back.
    """
    memory = {} if memory is None else memory
    parameters = [block.get_parameter(name) for name, _ in zeroing]
    kept = [parameter.data for parameter in parameters]  # by reference: weights are large

    def take_back() -> None:
        for parameter, data in zip(reversed(parameters), reversed(kept), strict=True):
            parameter.data = data

    for parameter, (_, value) in zip(parameters, zeroing, strict=True):
        key = (id(parameter), value)
        if key not in memory:
            memory[key] = torch.full_like(parameter.data, value)
        parameter.data = memory[key]
    return take_back


@contextmanager
def _filled(block: nn.Module, zeroing: Zeroing, memory: _Memory) -> Iterator[None]:
    """The block with a zeroing in it, for a while."""
    take_back = fill(block, zeroing, memory)
    try:
        yield
    finally:
        take_back()


def declared_zeroing(block: nn.Module, globs: Sequence[str], *, place: str) -> Zeroing:
    """The zeroing that ``zero:`` asks for.

    Raises:
        SelectorError: A glob matches no module and no parameter of the block.
    """
    names: dict[str, float] = {}
    parameters = [name for name, _ in block.named_parameters()]
    for glob in globs:
        hit = subtree_matches(block, glob)
        chosen = [name for name in parameters if name in hit]
        if not chosen:
            known = [name for name, _ in block.named_modules() if name] + parameters
            raise SelectorError(
                f"{place}: zero {glob!r} matches no parameter of a block{did_you_mean(glob, known)}"
            )
        names |= dict.fromkeys(chosen, 0.0)
    return tuple(names.items())


def hits(block: nn.Module, glob: str) -> bool:
    """Whether a glob of ``zero:`` means a parameter of this block."""
    hit = subtree_matches(block, glob)
    return any(name in hit for name, _ in block.named_parameters())


def minus_one_gains(block: nn.Module, zeroing: Zeroing) -> Zeroing:
    """The same, with gains (weights of one axis) filled with -1, for norms of gain 1 + weight."""
    return tuple(
        (name, -1.0 if name.endswith("weight") and block.get_parameter(name).dim() == 1 else value)
        for name, value in zeroing
    )


def find_zeroing(
    model: nn.Module,
    block: nn.Module,
    call: Call,
    *,
    place: str,
    scratch: nn.Module | None = None,
) -> Zeroing:
    """Find what to zero, by trial on a copy of the block.

    Args:
        model: The model, to know which parameters are the block's own.
        block: The block to be copied; it is left alone.
        call: What it was really called with.
        place: Where the growth is written, for the message.
        scratch: A copy of the block that may be spent, but for its weights; default: one is made.

    Raises:
        NoIdentity: The block does not become the identity.
    """
    own = set(own_parameters(model, block))
    scratch = (scratch or stand_in(model, copy_block(model, block, path=place), block)).eval()
    ran = _execution(scratch, call)
    chosen: list[Zeroing] = []
    memory: _Memory = {}
    for unit in reversed(ran):
        # what a module runs beside itself is zeroed already: it ran after it, and speaks through it
        branches = _joined(chosen) if attachments(unit.module) else ()
        with _filled(scratch, branches, memory):
            silent = _silencing(unit, own, {unit.name for unit in ran}, memory)
        if silent is None:
            continue
        chosen.append(silent)
        if _is_identity(scratch, call, _joined(chosen), memory):
            break
    else:
        raise NoIdentity(
            f"{place}: no weights were found whose zeroing turns a copy of "
            f"{type(block).__name__} into the identity{_WAYS_OUT}"
        )
    for silent in reversed(chosen.copy()):
        fewer = [other for other in chosen if other is not silent]
        if fewer and _is_identity(scratch, call, _joined(fewer), memory):
            chosen = fewer
    return _joined(chosen)


def _joined(parts: Sequence[Zeroing]) -> Zeroing:
    return tuple(dict(pair for part in parts for pair in part).items())


def _execution(block: nn.Module, call: Call) -> list[_Unit]:
    """The sub-modules that ran, in order."""
    ran: list[_Unit] = []
    handles = []
    for name, module in block.named_modules():

        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
        ) -> None:
            ran.append(_Unit(name, module, Call.of(args, kwargs)))

        if name:
            handles.append(module.register_forward_pre_hook(record, with_kwargs=True))
    try:
        with torch.enable_grad():  # fused fast paths, which run no sub-module, need it off
            call.run(block)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _writers(unit: _Unit, executed: set[str]) -> list[list[str]]:
    """Groups of parameters that a unit uses as it runs, by name in the unit, the last first.

    What belongs to a sub-module that ran by itself is that unit's. (``nn.MultiheadAttention`` never
    runs its ``out_proj``, so that it is the attention's own.)
    """
    others = [ran for ran in executed if ran.startswith(f"{unit.name}.")]
    groups: list[list[str]] = []
    for inner, part in unit.module.named_modules():
        full = f"{unit.name}.{inner}"
        if any(full == ran or full.startswith(f"{ran}.") for ran in others):
            continue
        names = [
            f"{inner}.{key}".lstrip(".") for key, p in part._parameters.items() if p is not None
        ]
        usual = [name for name in names if name.rpartition(".")[2] in ("weight", "bias")]
        groups += [[name] for name in names if name not in usual]
        groups += [usual] if usual else []
    return groups[::-1]


def _silencing(unit: _Unit, own: set[str], executed: set[str], memory: _Memory) -> Zeroing | None:
    """The smallest change of a unit's own parameters that makes its output zero."""
    for group in _writers(unit, executed):
        if not {f"{unit.name}.{name}" for name in group} <= own:
            continue
        for gain in (0.0, -1.0):  # a norm whose gain is 1 + weight is silent at -1
            inner = tuple((name, gain if name.endswith("weight") else 0.0) for name in group)
            with _filled(unit.module, inner, memory), torch.no_grad():
                out = main_output(unit.call.run(unit.module))
            if out is not None and not out.any():
                return tuple((f"{unit.name}.{name}", value) for name, value in inner)
    return None


def _change(block: nn.Module, call: Call) -> float | None:
    """Largest change that the block makes to its stream; ``None`` if the shape differs."""
    with torch.no_grad():
        return _distance(call, main_output(call.run(block)))


def _distance(call: Call, out: Tensor | None) -> float | None:
    """Largest difference of an output from the stream that the block was given."""
    x = main_input(call.args, call.kwargs)
    if x is None or out is None or x.shape != out.shape:
        return None
    return float((out.detach().double() - x.double()).abs().max())


def keeps_shape(model: nn.Module, block: nn.Module, call: Call) -> bool:
    """Whether a block hands on a stream of the shape that it takes; a gate can blend no other."""
    trial = stand_in(model, copy_block(model, block, path=""), block).eval()
    with preserved_randomness():
        return _change(trial, call) is not None


def _is_identity(block: nn.Module, call: Call, zeroing: Zeroing, memory: _Memory) -> bool:
    with _filled(block, zeroing, memory):
        return _change(block, call) == 0.0


def why_not(block: nn.Module, call: Call, zeroing: Zeroing) -> str | None:
    """Why a zeroed block is no learnable identity on a real input; ``None`` if it is one.

    Args:
        block: A copy with the zeroing in it; it may be spent, its buffers move.
        call: What its like was really called with.
        zeroing: What was zeroed.
    """
    block.eval()
    with preserved_randomness(), torch.no_grad():
        reason = _why_changed(call, main_output(call.run(block)), mode="eval")
    if reason is not None:
        return reason
    block.train()
    parameters = {name: block.get_parameter(name) for name, _ in zeroing}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with preserved_randomness(), torch.enable_grad():
        out = main_output(call.run(block))
        reason = _why_changed(call, out, mode="train")
        if reason is not None:
            return reason
        still = _without_gradient(out, parameters)
    if still:
        return f"the zeroed {', '.join(still)} would get no gradient and never learn{_WAYS_OUT}"
    return None


def _why_changed(call: Call, out: Tensor | None, *, mode: str) -> str | None:
    change = _distance(call, out)
    if change is None:
        return "its output has another shape than its input" + _WAYS_OUT
    if change != 0.0:
        return f"in {mode} mode it still changes its input by {change:.3g}{_WAYS_OUT}"
    return None


def _without_gradient(out: Tensor | None, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The modules with a zeroed weight that gets no gradient; a bias alone is not enough."""
    if out is None or not out.requires_grad:
        return list(parameters)
    grads = torch.autograd.grad(
        (out * fixed_direction(out)).sum(), list(parameters.values()), allow_unused=True
    )
    still = [n for n, grad in zip(parameters, grads, strict=True) if not is_felt(grad)]
    owners = (n.rpartition(".")[0] or n for n in still if not n.endswith("bias"))
    return list(dict.fromkeys(owners))
