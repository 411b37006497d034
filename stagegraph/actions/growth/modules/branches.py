"""Branches: new modules that a host runs beside itself, and the hook that makes it run them.

A branch is a child of its host under a new name, so that ``parameters()``, ``state_dict()``,
``.to()`` and whoever looks for layers by name find it; nothing that was there is replaced or
renamed. The host's own ``forward`` knows nothing of it: a forward hook hands what the host read and
what it made to the branch, and returns what the branch made of them. The hook is part of the
structure, as a layer is: it is copied with the host, and a lineage brings it back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn

from stagegraph.actions.lineage import Lineage
from stagegraph.actions.stream import main_input, main_output, with_main_output
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = [
    "Attachment",
    "Branch",
    "Reads",
    "attach_branch",
    "attachments",
    "detach_branch",
    "find_hosts",
    "in_order",
    "owner_of",
]

Reads = Literal["input", "output"]
"""What a branch reads: what its host reads, or what its host has made of it."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that run, or hand out, their children one by one; a new one would be among them."""


class Branch(nn.Module):
    """Adds what a module makes of one tensor to another: ``base + module(read)``.

    Called with the base first, it blends in like any block: at alpha it is the base, plus alpha
    times what the module makes.

    Args:
        module: The new module.
        axis: The axis of the features, if the module wants them last and they are not.
    """

    def __init__(self, module: nn.Module, *, axis: int = -1) -> None:
        super().__init__()
        self.module = module
        self.axis = axis

    def forward(self, base: Tensor, read: Tensor) -> Tensor:
        """The base and what the module adds to it."""
        moved = read if self.axis == -1 else read.movedim(self.axis, -1)
        added = main_output(self.module(moved))
        if added is not None and self.axis != -1:
            added = added.movedim(-1, self.axis)
        if added is None or added.shape != base.shape:
            raise UnsupportedError(
                f"a branch makes {'no tensor' if added is None else tuple(added.shape)}, and its "
                f"host {tuple(base.shape)}: they cannot be added"
            )
        return base + added.to(base.dtype)


class Attachment:
    """The forward hook of a host that runs one branch.

    Args:
        branch: The branch; it is called with what the host made, then what it reads.
        reads: What it reads.
    """

    def __init__(self, branch: nn.Module, reads: Reads) -> None:
        self.branch = branch
        self.reads = reads

    def __call__(
        self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The host's output with what the branch makes of it."""
        base = main_output(output)
        read = main_input(args, kwargs) if self.reads == "input" else base
        if base is None or read is None:
            raise UnsupportedError(
                f"a branch of a {type(host).__name__} needs tensors, and the host "
                f"{'made' if base is None else 'read'} none"
            )
        return with_main_output(output, self.branch(base, read))


def attachments(host: nn.Module) -> list[Attachment]:
    """The branches that a module runs, in order."""
    return [hook for hook in _hooks(host).values() if isinstance(hook, Attachment)]


def _hooks(host: nn.Module) -> OrderedDict[int, Any]:
    hooks: OrderedDict[int, Any] = vars(host)["_forward_hooks"]
    return hooks


def attach_branch(
    host: nn.Module, owner: nn.Module, name: str, branch: nn.Module, *, reads: Reads
) -> None:
    """Make a branch a child of its owner, and let the host run it.

    Branches run in the order in which they came, and before every other hook: a gate blends the
    host with all its branches, whether it was opened before or after them.
    """
    owner.add_module(name, branch)
    host.register_forward_hook(Attachment(branch, reads), with_kwargs=True)
    hooks = _hooks(host)
    for key in [key for key, hook in hooks.items() if not isinstance(hook, Attachment)]:
        hooks.move_to_end(key)


def in_order(host: nn.Module, branches: Sequence[nn.Module]) -> None:
    """Let a host run its branches in this order; those that are not named come after them."""
    hooks = _hooks(host)
    places = {id(branch): place for place, branch in enumerate(branches)}
    ours = [(key, hook) for key, hook in hooks.items() if isinstance(hook, Attachment)]
    others = [key for key, hook in hooks.items() if not isinstance(hook, Attachment)]
    ours.sort(key=lambda item: places.get(id(item[1].branch), len(places)))
    for key in [*(key for key, _ in ours), *others]:
        hooks.move_to_end(key)


def detach_branch(host: nn.Module, owner: nn.Module, name: str) -> nn.Module:
    """Take a branch away again.

    Returns:
        The branch.
    """
    branch = owner.get_submodule(name)
    hooks = _hooks(host)
    for key in [k for k, h in hooks.items() if isinstance(h, Attachment) and h.branch is branch]:
        del hooks[key]
        vars(host)["_forward_hooks_with_kwargs"].pop(key, None)
    del owner._modules[name]
    return branch


def find_hosts(model: nn.Module, globs: Sequence[str], *, place: str, what: str) -> list[str]:
    """The modules that patterns mean, in the model's order; ``*`` stands for one part of a path.

    Raises:
        SelectorError: A pattern matches nothing; all of them are named.
    """
    names = [name for name, _ in model.named_modules() if name]
    wrong: list[str] = []
    hit: set[str] = set()
    for glob in globs:
        matching = [name for name in names if _matches(name, glob)]
        if not matching:
            near = did_you_mean(glob, names)
            wrong.append(f"{what} {glob!r} matches no module of the model{near}")
        hit.update(matching)
    if wrong:
        raise SelectorError(f"{place}: " + "; ".join(wrong))
    return [name for name in names if name in hit]


def _matches(name: str, glob: str) -> bool:
    parts, patterns = [p for p in name.split(".") if p != "_orig_mod"], glob.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def owner_of(
    model: nn.Module, path: str, child: str, *, lineage: Lineage, place: str
) -> tuple[str, str]:
    """Which module a branch of a host becomes a child of, and under which name.

    It is the host itself, unless it is one that runs its children one by one: then the nearest
    around it that does not, under a name that tells the host.

    Raises:
        UnsupportedError: There is none, or the name is taken.
    """
    host = model.get_submodule(path)
    if isinstance(host, nn.ModuleList | nn.ModuleDict):
        raise UnsupportedError(
            f"{place}: {path!r} is a {type(host).__name__}, which is never called itself; name "
            f"what is in it, such as '{path}.*'"
        )
    around = path.split(".")
    while around and isinstance(model.get_submodule(".".join(around)), _CONTAINERS):
        around.pop()
    if not around and isinstance(model, _CONTAINERS):
        raise UnsupportedError(
            f"{place}: {path!r} and all around it run their children one by one, so that a new "
            "one would be run as one more layer; put the model inside a module of your own"
        )
    inside = lineage.stable(path).split(".")[len(around) :]
    name = "_".join([*inside, child])
    owner = model.get_submodule(".".join(around))
    if hasattr(owner, name):
        taken = f"{'.'.join([*around, name])!r}"
        raise UnsupportedError(
            f"{place}: {taken} is there already; give the new module another name with child:"
        )
    return ".".join(around), name
