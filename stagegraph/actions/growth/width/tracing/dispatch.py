"""The run under observation: every operator of a model, with the axes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stagegraph.actions.compiling import as_written
from stagegraph.actions.growth.width.tracing.axes import Ref
from stagegraph.actions.growth.width.tracing.book import Book, Call, Seen, Source, schema
from stagegraph.actions.growth.width.tracing.rules_contractions import CONTRACTIONS, attention
from stagegraph.actions.growth.width.tracing.rules_lookups import LOOKUPS
from stagegraph.actions.growth.width.tracing.rules_pointwise import (
    is_pointwise,
    pointwise,
    weight_norm,
)
from stagegraph.actions.growth.width.tracing.rules_reductions import REDUCTIONS
from stagegraph.actions.growth.width.tracing.rules_views import VIEWS
from stagegraph.actions.probes import Probe, Within, run_probe
from stagegraph.actions.undo import untouched

__all__ = ["Names", "observe"]

Names = dict[int, list[str]]
"""The names of each parameter and buffer, by its key (its first place in the model's order)."""

_RULES: dict[str, Callable[[Call], bool]] = {**VIEWS, **CONTRACTIONS, **REDUCTIONS, **LOOKUPS}
_RULES["_weight_norm_interface"] = weight_norm


_FACTORIES = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"})
"""They take only the type of their argument."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator with its real tensors."""

    def __init__(self, book: Book, stranger: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book = book
        self.stranger = stranger
        self.path: list[str] = [""]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        call = Call(self.book, func, args, kwargs or {}, out, self.path[-1])
        for tensor in call.tensors():
            if self.book.look(tensor) is None:
                self.stranger(tensor)
        changed = [(target, call.seen(target)) for target in _targets(call)]
        _apply(call)
        for target, old in changed:
            _written(call, target, old)
        return out


def _targets(call: Call) -> list[Tensor]:
    """The arguments that an operator changes in place."""
    arguments = schema(call.func).arguments
    changed = [one.name for one in arguments if one.alias_info and one.alias_info.is_write]
    return [call.args[name] for name in changed if isinstance(call.args[name], Tensor)]


def _written(call: Call, target: Tensor, old: Seen) -> None:
    """A tensor that was changed in place is the result, and so is what it is a view of."""
    outs = call.outs()
    if old.sort == "weight" or not outs or outs[0].shape != target.shape:
        return
    new = call.seen(outs[0])
    if new.sort == "activation":
        old.source.sort = "activation"
    call.book.enter(target, Seen(new.dims, old.source, new.raw, new.tag))


def _rule(call: Call) -> Callable[[Call], bool] | None:
    if call.name.startswith("_scaled_dot_product"):
        return attention
    found = _RULES.get(call.name)
    if found is None and is_pointwise(call.func):
        return pointwise
    return found


def _apply(call: Call) -> None:
    """Enter the axes of what an operator returned."""
    outs = call.outs()
    if not outs:
        return
    tensors = call.tensors()
    alone = not any(tensor.dim() for tensor in tensors) or not any(out.numel() for out in outs)
    if alone or call.name in _FACTORIES:
        for out in outs:  # a factory, a function of single numbers, or nothing at all
            call.give(
                call.fresh(out), out, like=Seen((), Source("constant")) if not alone else None
            )
        return
    rule = _rule(call)
    if rule is not None and _follow(rule, call):
        return
    if any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors) and any(
        out.dim() for out in outs
    ):
        call.blind()
    for out in outs:
        call.give(call.fresh(out), out)


def _follow(rule: Callable[[Call], bool], call: Call) -> bool:
    """Use a rule; false where it does not fit, or what it says contradicts what was known."""
    before = call.axes.conflicts
    try:
        known = rule(call)
    except (IndexError, KeyError, TypeError, ValueError):
        return False  # a variant of the operator that the rule was not written for: it is blind
    if known and call.axes.conflicts > before:
        call.blind()
    return known


def _names(model: nn.Module) -> tuple[Names, dict[int, Tensor]]:
    names: Names = {}
    tensors: dict[int, Tensor] = {}
    keys: dict[int, int] = {}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in every:
        key = keys.setdefault(id(tensor), len(keys))
        names.setdefault(key, []).append(name)
        tensors[key] = tensor
    return names, tensors


@contextmanager
def _paths(model: nn.Module, watch: _Watch, finished: Callable[[Any], None]) -> Iterator[None]:
    """Keep the path of the module that runs."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _args: Any) -> None:
        watch.path.append(names.get(id(module), watch.path[-1]))

    def leave(module: nn.Module, _args: Any, output: Any) -> None:
        watch.path.pop()
        if module is model:
            finished(output)

    entering = nn.modules.module.register_module_forward_pre_hook(enter)
    leaving = nn.modules.module.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        entering.remove()
        leaving.remove()


@contextmanager
def _step_by_step() -> Iterator[None]:
    """No fused path that hides the modules and their operators."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with as_written():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Strangers:
    """Tensors that no operator has made and that are no parameters: attributes, or inputs."""

    def __init__(self, book: Book, model: nn.Module, own: dict[int, Tensor], probe: Probe) -> None:
        self._book = book
        self._own = {(t.data_ptr(), t.shape, t.stride()): t for t in own.values() if t.numel()}
        self._kept = {
            id(value)
            for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor)
        }
        probe = probe.batch if isinstance(probe, Within) else probe
        self._known_inputs = not callable(probe) or isinstance(probe, Tensor)

    def called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Enter what the model itself is called with: its inputs."""
        values = [list(one.values()) if isinstance(one, Mapping) else one for one in args]
        for leaf in tree_leaves([values, kwargs]):
            if not isinstance(leaf, Tensor):
                continue
            seen = self._book.look(leaf)
            if seen is None or seen.sort == "constant":
                self._enter(leaf, is_input=True)

    def __call__(self, tensor: Tensor) -> None:
        """Enter a tensor: an alias of a parameter's data, an input, or a constant."""
        twin = self._own.get((tensor.data_ptr(), tensor.shape, tensor.stride()))
        seen = None if twin is None else self._book.look(twin)
        if seen is not None:
            self._book.enter(tensor, seen)
            return
        known = self._known_inputs or id(tensor) in self._kept
        self._enter(tensor, is_input=not known)

    def _enter(self, tensor: Tensor, *, is_input: bool) -> None:
        flags = ("input",) if is_input else ()
        dims = tuple(self._book.axes.fresh(size, *flags) for size in tensor.shape)
        self._book.enter(
            tensor, Seen(dims, Source("activation" if is_input else "constant"), is_input)
        )


def _floating(output: Any) -> list[Tensor]:
    """The outputs of a plain model; of one that returns a mapping, its probe's main one."""
    values = output if type(output) in (tuple, list) else [output]
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def observe(model: nn.Module, probe: Probe) -> tuple[Book, Names, dict[int, Tensor]]:
    """Run a model on its probe and write down what its operators do to the axes.

    Returns:
        The book, the names of the parameters and buffers by key, and these by key.
    """
    names, own = _names(model)
    book = Book()
    for key, tensor in own.items():
        dims = tuple(
            () if size == 1 else (Ref(book.axes.leaf(size), ((key, dim),)),)
            for dim, size in enumerate(tensor.shape)
        )
        book.enter(tensor, Seen(dims, Source("weight")))
    strangers = _Strangers(book, model, own, probe)
    watch = _Watch(book, strangers)
    outputs: list[Tensor] = []
    with untouched(model), _step_by_step(), torch.no_grad():
        model.eval()
        model.register_forward_pre_hook(strangers.called, with_kwargs=True)
        with _paths(model, watch, lambda output: outputs.extend(_floating(output))), watch:
            outputs.append(run_probe(model, probe))
    for tensor in outputs:
        seen = book.look(tensor)
        if seen is not None and tensor.dim():
            book.outputs.append(seen.dims)
    return book, names, own
