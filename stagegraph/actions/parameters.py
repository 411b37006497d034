"""Selections of parameters and modules, by today's names and by cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from stagegraph.actions.cohorts import new_parts
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.sharding.tensors import whole as all_of
from stagegraph.engine.ports import Selected
from stagegraph.errors import SelectorError, did_you_mean

__all__ = [
    "Selection",
    "is_finite",
    "num_parameters",
    "select",
    "shown_name",
    "subtree_matches",
    "unwrapped",
]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selection came to.

    Attributes:
        everything: Whether all was selected; the optimizers' own parameters are then meant too.
        parameters: The parameters, each once, in the model's order.
        modules: The modules whose whole subtree was selected, and those all of whose own
            parameters were.
        slices: Parameters of which some entries are selected, and not all, with booleans of their
            shape: what a growth in width added, or what was there before it.
        excepted: ``id`` of each parameter that was taken out of all, as a whole or in part.
    """

    everything: bool
    parameters: tuple[nn.Parameter, ...]
    modules: tuple[nn.Module, ...]
    slices: tuple[tuple[nn.Parameter, Tensor], ...] = ()
    excepted: frozenset[int] = frozenset()

    def without(self, other: Selection) -> Selection:
        """What of this is not in another one.

        A parameter of which the other has some entries is left with the rest of them.
        """
        whole = {id(parameter) for parameter in other.parameters}
        partly = {id(parameter): mask for parameter, mask in other.slices}
        modules = {id(module) for module in other.modules}
        slices = [
            (p, mask & ~partly[id(p)] if id(p) in partly else mask)
            for p, mask in self.slices
            if id(p) not in whole
        ]
        slices += [(p, ~partly[id(p)]) for p in self.parameters if id(p) in partly]
        return Selection(
            self.everything,
            tuple(p for p in self.parameters if id(p) not in whole and id(p) not in partly),
            tuple(module for module in self.modules if id(module) not in modules),
            tuple((p, mask) for p, mask in slices if bool(mask.any())),
            self.excepted | whole | partly.keys(),
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own model, out of ``torch.compile`` and ``DistributedDataParallel``."""
    while True:
        inside = model._modules.get("_orig_mod")
        if isinstance(model, DistributedDataParallel):
            inside = model.module
        if inside is None:
            return model
        model = inside


def num_parameters(model: nn.Module) -> int:
    """How many numbers the model learns; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def is_finite(tensor: Tensor) -> bool:
    """Whether no number in a tensor is infinite or NaN.

    A sum that is finite had nothing else in it, and takes a tenth of the time; one that is not may
    have become too large by itself.
    """
    tensor = all_of(tensor)
    has_sum = tensor.dtype.is_floating_point and tensor.itemsize > 1  # a float of 8 bits has none
    if has_sum and bool(tensor.detach().sum().isfinite()):
        return True
    return bool(tensor.isfinite().all())


def shown_name(name: str) -> str:
    """A name as it reads without the layer that compiling a sub-module puts in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def subtree_matches(model: nn.Module, glob: str) -> set[str]:
    """The names of all modules and parameters that a glob takes; a module takes its subtree."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    hit = {name for name in names if fnmatchcase(name, glob) or fnmatchcase(shown_name(name), glob)}
    return hit | {name for name in names if _has_prefix_in(name, hit)}


def _has_prefix_in(name: str, prefixes: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in prefixes for end in range(1, len(parts)))


def _known_names(model: nn.Module) -> list[str]:
    modules = [shown_name(name) for name, _ in model.named_modules() if name]
    return modules + [shown_name(name) for name, _ in model.named_parameters()]


def select(
    model: nn.Module,
    selected: Selected,
    *,
    lineage: Lineage,
    place: str,
    optimizers: Sequence[Optimizer] = (),
) -> Selection:
    """The parameters and modules that a selection means today.

    Raises:
        SelectorError: A glob, a cohort or a group that matches nothing; all of them are named.
    """
    taken: set[str] = set()
    parts: dict[str, Tensor] = {}
    wrong: list[str] = []
    for glob in selected.globs:
        hit = subtree_matches(model, glob)
        if not hit:
            near = did_you_mean(glob, _known_names(model))
            wrong.append(f"{glob!r} matches no parameter and no module of the model{near}")
        taken |= hit
    for cohort in selected.cohorts:
        changes = lineage.cohort(cohort)
        names = lineage.added_names(changes)
        found = new_parts(lineage, changes)
        for name, mask in found.items():
            parts[name] = parts[name] | mask if name in parts else mask
        if not changes:
            near = did_you_mean(cohort, lineage.cohorts())
            wrong.append(f"no growth of the name {cohort!r} has added anything{near}")
        elif not (names or found) and any(change.modules for change in changes):
            wrong.append(f"all that the growth {cohort!r} had added was pruned")
        taken |= {name for block in names for name in _subtree(model, block)}
    members = _of_groups(optimizers, selected.groups, wrong)
    if not (taken or parts or wrong or members or selected.everything or selected.cohorts):
        wrong.append("nothing is selected: no growth has added anything yet")
    if wrong:
        raise SelectorError(f"{place}: " + "; ".join(wrong))
    gathered = _gather(model, taken, members, everything=selected.everything)
    return replace(gathered, slices=_slices(model, parts, gathered, lineage))


def _of_groups(
    optimizers: Sequence[Optimizer], patterns: Iterable[str], wrong: list[str]
) -> dict[int, nn.Parameter]:
    """The parameters of groups, by identity; patterns that match none are told in ``wrong``."""
    members: dict[int, nn.Parameter] = {}
    for pattern in patterns:
        found = _members(optimizers, pattern)
        if not found:
            wrong.append(f"{pattern!r} is the name of no group{_known_groups(optimizers, pattern)}")
        members |= {id(parameter): parameter for parameter in found}
    return members


def _members(optimizers: Sequence[Optimizer], pattern: str) -> list[nn.Parameter]:
    return [
        parameter
        for optimizer in optimizers
        for group in optimizer.param_groups
        if isinstance(group.get("name"), str) and fnmatchcase(group["name"], pattern)
        for parameter in group["params"]
    ]


def _known_groups(optimizers: Sequence[Optimizer], pattern: str) -> str:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    names = [group["name"] for group in groups if isinstance(group.get("name"), str)]
    if names:
        return did_you_mean(pattern, names)
    return (
        " of the optimizer: none of its groups has a name; give them one beside their parameters, "
        "as in {'params': ..., 'name': 'encoder'}"
    )


def _slices(
    model: nn.Module, parts: Mapping[str, Tensor], gathered: Selection, lineage: Lineage
) -> tuple[tuple[nn.Parameter, Tensor], ...]:
    whole = {id(parameter) for parameter in gathered.parameters}
    found = {lineage.today(name): mask for name, mask in parts.items()}
    named = dict(model.named_parameters(remove_duplicate=False))
    return tuple(
        (named[name], mask)
        for name, mask in found.items()
        if name in named and id(named[name]) not in whole
    )


def _subtree(model: nn.Module, module: str) -> Iterable[str]:
    yield module
    tree = dict(model.named_modules(remove_duplicate=False)).get(module)
    if tree is None:
        return  # a parameter of its own
    for name, _ in tree.named_modules(remove_duplicate=False):
        if name:
            yield f"{module}.{name}"
    for name, _ in tree.named_parameters(remove_duplicate=False):
        yield f"{module}.{name}"


def _gather(
    model: nn.Module,
    taken: set[str],
    members: Mapping[int, nn.Parameter],
    *,
    everything: bool,
) -> Selection:
    parameters = {
        id(parameter): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if everything or name in taken or id(parameter) in members
    }
    parameters |= members  # an optimizer may train what is not the model's
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = [p for p in module._parameters.values() if p is not None]
        if everything or name in taken or (own and all(id(p) in parameters for p in own)):
            modules[id(module)] = module
    return Selection(everything, tuple(parameters.values()), tuple(modules.values()))
