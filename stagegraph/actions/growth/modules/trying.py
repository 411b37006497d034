"""Trying: run new modules on what their hosts really read and make, before they are attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from stagegraph.actions.growth.modules.branches import Reads
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.probes import run_probe
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.actions.stream import main_input, main_output
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError

__all__ = ["refuse_unadded", "try_branches"]


def try_branches(
    site: Site, branches: Mapping[str, nn.Module], reads: Reads, *, place: str, seed: int
) -> dict[str, float]:
    """Run each branch on what its host reads and makes on the probe, in eval mode.

    Args:
        site: The model and its probe; nothing of the run stays.
        branches: The branches by today's path of their host.
        reads: What they read.
        place: Where it is written, for the message.
        seed: What random numbers start from.

    Returns:
        By host, the largest difference that its branch makes, relative to 64 rounding units of the
        host's output: up to 1 it is rounding.

    Raises:
        UnsupportedError: A host does not run on the probe, or its branch does not fit.
    """
    model, found = site.model, dict[str, float]()
    assert site.probe is not None
    with untouched(model, *branches.values()), torch.no_grad():
        for path, branch in branches.items():
            branch.eval()

            def run(
                _host: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                output: Any,
                at: str = path,
                branch: nn.Module = branch,
            ) -> None:
                base = main_output(output)
                read = main_input(args, kwargs) if reads == "input" else base
                with preserved_randomness():
                    found[at] = max(found.get(at, 0.0), _difference(branch, base, read, at, place))

            model.get_submodule(path).register_forward_hook(run, with_kwargs=True)
        model.eval()
        seed_all(seed)
        run_probe(model, site.probe)
    idle = [path for path in branches if path not in found]
    if idle:
        raise UnsupportedError(
            f"{place}: {', '.join(map(repr, idle))} did not run on the probe, so that nothing can "
            "be attached there"
        )
    return found


def _difference(
    branch: nn.Module, base: Tensor | None, read: Tensor | None, path: str, place: str
) -> float:
    if base is None or read is None:
        raise UnsupportedError(
            f"{place}: {path!r} {'makes' if base is None else 'reads'} no tensor of floating "
            "numbers, so that nothing can be attached there"
        )
    try:
        out = branch(base, read)
    except (RuntimeError, TypeError, ValueError, UnsupportedError) as error:
        raise UnsupportedError(
            f"{place}: what would be attached to {path!r} does not fit it (it reads "
            f"{tuple(read.shape)} and makes {tuple(base.shape)}): {error}; in_features, "
            "out_features and axis say how large it is and where its features are"
        ) from error
    if not out.numel():
        return 0.0
    unit = 64 * torch.finfo(base.dtype).eps * max(1.0, float(base.double().abs().max()))
    return float((out.double() - base.double()).abs().max()) / unit


def refuse_unadded(place: str, path: str, added: float, zeroed: Iterable[str]) -> NoReturn:
    """Say that a branch that was to begin with zero does not."""
    raise UnsupportedError(
        f"{place}: the new module of {path!r} was to add nothing at first, with "
        f"{', '.join(zeroed)} zeroed, and adds {added:.3g} units of rounding; write init: keep, "
        "and blend it in with an alpha ramp from 0"
    )
