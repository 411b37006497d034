"""The state of all global random number generators, as one value."""

from __future__ import annotations

import hashlib
import importlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from stagegraph.errors import SnapshotError

__all__ = ["RandomState", "fixed_direction", "preserved_randomness", "seed_all"]


@dataclass(frozen=True, slots=True)
class RandomState:
    """What Python, numpy (where it is loaded), torch and its accelerators would draw next.

    >>> before = RandomState.capture()
    >>> first = torch.rand(1)
    >>> before.restore()
    >>> bool(torch.rand(1) == first)
    True
    """

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @classmethod
    def capture(cls) -> RandomState:
        """The state now."""
        numpy = sys.modules.get("numpy")
        initialized = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return cls(
            python=random.getstate(),
            numpy=None if numpy is None else numpy.random.get_state(),
            cpu=torch.get_rng_state(),
            cuda=tuple(torch.cuda.get_rng_state_all()) if initialized else (),
        )

    def restore(self) -> None:
        """Make it the state again; that of devices which are not here has no place to go."""
        random.setstate(self.python)
        numpy = sys.modules.get("numpy")
        if numpy is not None and self.numpy is not None:
            numpy.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        here = self.cuda[: torch.cuda.device_count()] if self.cuda else ()
        if here:
            torch.cuda.set_rng_state_all(list(here))

    def torch_would_draw_as(self, other: RandomState) -> bool:
        """Whether torch, on any device, would draw what it would draw in the other state."""
        mine, theirs = (self.cpu, *self.cuda), (other.cpu, *other.cuda)
        return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))

    def forked_seed(self, attempt: int) -> int:
        """A seed that differs per attempt and per state (so also per rank)."""
        digest = hashlib.sha256(str(attempt).encode())
        digest.update(bytes(self.cpu.tolist()))
        return int.from_bytes(digest.digest()[:4], "big")

    def pack(self) -> dict[str, Any]:
        """The same in tensors, lists and numbers, which ``torch.load`` takes with weights only."""
        version, internal, gauss = self.python
        numpy: list[Any] | None = None
        if self.numpy is not None:
            kind, keys, position, has_gauss, cached = self.numpy
            numpy = [kind, keys.tolist(), int(position), int(has_gauss), float(cached)]
        return {
            "python": [version, list(internal), gauss],
            "numpy": numpy,
            "cpu": self.cpu,
            "cuda": list(self.cuda),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> RandomState:
        """The inverse of :meth:`pack`."""
        version, internal, gauss = packed["python"]
        state: Any = None
        if packed["numpy"] is not None:
            numpy = _numpy()
            kind, keys, position, has_gauss, cached = packed["numpy"]
            state = (kind, numpy.array(keys, dtype="uint32"), position, has_gauss, cached)
        return cls(
            python=(version, tuple(internal), gauss),
            numpy=state,
            cpu=packed["cpu"],
            cuda=tuple(packed["cuda"]),
        )


def _numpy() -> Any:
    """Numpy, whose random numbers were kept; it may not be loaded yet and be used later."""
    try:
        return importlib.import_module("numpy")
    except ImportError as error:
        raise SnapshotError(
            "the state of numpy's random numbers was kept, and numpy is not installed here"
        ) from error


def seed_all(seed: int) -> None:
    """Seed every global generator with one number.

    CUDA's only where it is in use: a seed given before is one that CUDA begins with later, and no
    :class:`RandomState` could take it back.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    if torch.cuda.is_available() and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def fixed_direction(like: torch.Tensor) -> torch.Tensor:
    """Random numbers of a tensor's shape, the same at every call, drawn from nobody's generator."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """What is drawn inside is not missing afterwards."""
    state = RandomState.capture()
    try:
        yield
    finally:
        state.restore()
