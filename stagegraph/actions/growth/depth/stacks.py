"""Stacks of blocks: find one, copy its blocks, put blocks in and take them out, in place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from stagegraph.actions.copying import duplicate
from stagegraph.actions.growth.depth.compiled import compile_alike
from stagegraph.actions.growth.modules.branches import attachments
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = [
    "Stack",
    "copy_block",
    "find_entries",
    "find_stack",
    "insert",
    "insert_entries",
    "left_out_hooks",
    "own_modules",
    "own_parameters",
    "remove",
    "remove_entries",
    "stacks",
]

Stack = nn.ModuleList | nn.Sequential

_CONTAINERS = frozenset((dict, list, set, OrderedDict))

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def stacks(model: nn.Module) -> dict[str, Stack]:
    """All stacks of a model that blocks can be put into, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if path and isinstance(module, Stack) and _numbered(module)
    }


def _numbered(stack: Stack) -> bool:
    names = list(stack._modules)
    return bool(names) and names == [str(index) for index in range(len(names))]


def find_stack(model: nn.Module, pattern: str, *, place: str) -> tuple[str, Stack]:
    """The one stack that a path (or a glob) means.

    Raises:
        SelectorError: There is none, or more than one, or what is there is no stack.
    """
    known = stacks(model)
    if pattern in known:
        return pattern, known[pattern]
    matching = [path for path in known if fnmatchcase(path, pattern)]
    if len(matching) == 1:
        return matching[0], known[matching[0]]
    if matching:
        raise SelectorError(
            f"{place}: stack {pattern!r} matches {', '.join(matching)}; name one of them"
        )
    there = dict(model.named_modules()).get(pattern)
    if there is not None:
        what = (
            "is empty: there is no block to copy"
            if isinstance(there, Stack) and not len(there)
            else "names its blocks; only blocks numbered from 0 can be put between"
            if isinstance(there, Stack)
            else f"is a {type(there).__name__}; a stack is an nn.ModuleList or nn.Sequential"
        )
        raise SelectorError(f"{place}: {pattern!r} {what}{did_you_mean(pattern, known)}")
    raise SelectorError(
        f"{place}: there is no nn.ModuleList or nn.Sequential {pattern!r} in the model"
        f"{did_you_mean(pattern, known)}"
    )


def own_parameters(model: nn.Module, block: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters, by name in the block, that a copy of it gets anew.

    What the block shares with the rest of the model, it goes on sharing.
    """
    return _own_parameters(block, _rest(model, block))


def _own_parameters(block: nn.Module, rest: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    shared = {id(parameter) for module in rest for parameter in module._parameters.values()}
    return {name: p for name, p in block.named_parameters() if id(p) not in shared}


def _rest(model: nn.Module, block: nn.Module) -> list[nn.Module]:
    """All modules of the model that can be reached without passing through the block."""
    seen: dict[int, nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in seen or module is block:
            continue
        seen[id(module)] = module
        waiting.extend(child for child in module._modules.values() if child is not None)
    return list(seen.values())


def copy_block(model: nn.Module, block: nn.Module, *, path: str) -> nn.Module:
    """A copy of a block with parameters of its own, and without hooks or gradients.

    Branches that were attached inside it are part of it; the hooks that run them are copied too.

    What belongs to the rest of the model (a rotary table, a config, a shared bias) is shared by
    the copy, as its siblings share it. No random number is drawn.

    Raises:
        UnsupportedError: The block cannot be copied so.
    """
    rest = _rest(model, block)
    _refuse_uncopyable(block, rest, path)
    own = _own_modules(block, rest)
    try:
        new = duplicate(block, _kept(rest, own), own=own)
    except (TypeError, RuntimeError, ValueError) as error:
        raise UnsupportedError(f"block {path!r} cannot be copied: {error}") from error
    compile_alike(block, new)
    return new


def _own_modules(block: nn.Module, rest: Sequence[nn.Module]) -> list[nn.Module]:
    outside = set(map(id, rest))
    return [module for module in block.modules() if id(module) not in outside]


def _tensors(modules: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [
        tensor
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]


def _kept(rest: Sequence[nn.Module], own: Sequence[nn.Module]) -> dict[int, Any]:
    """What copying the block must not copy: the modules, tensors and objects of the rest."""
    kept: dict[int, Any] = {id(module): module for module in rest}
    for module in rest:
        kept |= {id(one): one for one in vars(module).values() if type(one) not in _CONTAINERS}
    for module in own:
        kept.pop(id(module), None)
    shared = {id(tensor): tensor for tensor in _tensors(rest)}
    for tensor in _tensors(own):
        kept.pop(id(tensor), None)
    return kept | shared


def _refuse_uncopyable(block: nn.Module, rest: Sequence[nn.Module], path: str) -> None:
    if any(is_lazy(p) for p in block.parameters()):
        raise UnsupportedError(
            f"block {path!r} has parameters without a shape yet (a lazy module); run the model "
            "once before it grows"
        )
    if any(True for _ in block.parameters()) and not _own_parameters(block, rest):
        raise UnsupportedError(
            f"block {path!r} shares all its parameters with the rest of the model; a copy would "
            "add none"
        )
    inside = set(map(id, block.modules()))
    for name, module in block.named_modules():
        if any(id(hook.branch) not in inside for hook in attachments(module)):
            raise UnsupportedError(
                f"{path}.{name} runs a branch that is a child of a module around {path!r}, which a "
                "copy would share; attach it to a module inside instead"
            )
        if any(
            isinstance(hook, WeightNorm | SpectralNorm)
            for hook in vars(module)["_forward_pre_hooks"].values()
        ):
            raise UnsupportedError(
                f"{path}.{name} computes its weight in a hook, which a copy would share; use "
                "torch.nn.utils.parametrizations instead"
            )


def left_out_hooks(block: nn.Module) -> list[str]:
    """The modules of a block that have hooks of the user's, which a copy does not get."""
    return [
        name or "."
        for name, module in block.named_modules()
        if any(not _is_ours(hook) for key in _HOOKS for hook in getattr(module, key).values())
    ]


def _is_ours(hook: object) -> bool:
    owner = hook.__self__ if isinstance(hook, MethodType) else hook
    return type(owner).__module__.startswith("stagegraph.")


def insert(stack: Stack, blocks: Mapping[int, nn.Module]) -> None:
    """Put blocks at these places of the grown stack; the others move up."""
    old = iter(list(stack))
    total = len(stack._modules) + len(blocks)
    grown = [blocks[at] if at in blocks else next(old) for at in range(total)]
    _fill(stack, grown)


def remove(stack: Stack, at: Sequence[int]) -> None:
    """Take the blocks at these places out; the others move down."""
    gone = set(at)
    _fill(stack, [block for place, block in enumerate(stack) if place not in gone])


def _fill(stack: Stack, blocks: Sequence[nn.Module]) -> None:
    stack._modules.clear()
    stack._modules.update({str(index): block for index, block in enumerate(blocks)})


def find_entries(entries: nn.Module, *, path: str, place: str) -> list[Any]:
    """The modules of a list, or the parameters of a list of parameters, in order.

    Raises:
        UnsupportedError: It names them, or holds something else.
    """
    held = entries._parameters if isinstance(entries, nn.ParameterList) else entries._modules
    found = list(held.values())
    if list(held) != [str(index) for index in range(len(found))] or None in found:
        raise UnsupportedError(
            f"{place}: {path!r} does not hold one module or parameter per block, numbered from 0"
        )
    return found


def insert_entries(entries: nn.Module, new: Mapping[int, Any]) -> None:
    """Put modules or parameters at these places of the grown list; the others move up."""
    if not isinstance(entries, nn.ParameterList):
        insert(cast(Stack, entries), new)
        return
    old = iter(list(entries._parameters.values()))
    total = len(entries._parameters) + len(new)
    _fill_parameters(entries, [new[at] if at in new else next(old) for at in range(total)])


def remove_entries(entries: nn.Module, at: Sequence[int]) -> None:
    """Take the modules or parameters at these places out; the others move down."""
    if not isinstance(entries, nn.ParameterList):
        remove(cast(Stack, entries), at)
        return
    gone, held = set(at), entries._parameters.values()
    _fill_parameters(entries, [one for place, one in enumerate(held) if place not in gone])


def _fill_parameters(entries: nn.ParameterList, held: Sequence[Any]) -> None:
    entries._parameters.clear()
    entries._parameters.update({str(index): one for index, one in enumerate(held)})
    vars(entries)["_size"] = len(held)


def own_modules(model: nn.Module, block: nn.Module) -> list[nn.Module]:
    """The modules of a block that the rest of the model does not use."""
    return _own_modules(block, _rest(model, block))
