"""The group: how ranks talk to each other, by a process group of their own on the host.

Rows of numbers go as one tensor of doubles; data goes as JSON text. Nothing is pickled, and no
accelerator waits. A group that has failed stays failed: the ranks have parted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from stagegraph.actions.keeping.tensor_files import bytes_of
from stagegraph.engine.ranks import Parted
from stagegraph.errors import RankError

__all__ = ["RankGroup", "group_of"]

T = TypeVar("T")


class RankGroup:
    """The ranks of a process group; fills :class:`stagegraph.engine.ranks.Group`.

    Args:
        parent: The process group whose ranks decide together; ``None``: all processes.
    """

    def __init__(self, parent: dist.ProcessGroup | None = None) -> None:
        members = dist.get_process_group_ranks(parent)
        # Other ranks need not know of a group of some.
        some = len(members) < dist.get_world_size()
        self._group = dist.new_group(members, backend="gloo", use_local_synchronization=some)
        self._rank = dist.get_rank(self._group)
        self._size = len(members)
        self._first = members[0]
        self._broken: str | None = None

    @property
    def rank(self) -> int:
        """Which this process is, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._size

    def gather(self, row: Sequence[float]) -> list[list[float]]:
        """As :meth:`stagegraph.engine.ranks.Group.gather`."""
        mine = torch.tensor(row, dtype=torch.float64)
        return [found.tolist() for found in self._all(mine)]

    def gather_data(self, data: Any) -> list[Any]:
        """As :meth:`stagegraph.engine.ranks.Group.gather_data`."""
        text = json.dumps(data, separators=(",", ":")).encode()
        return [json.loads(found) for found in self.gather_bytes(text)]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """As :meth:`stagegraph.engine.ranks.Group.gather_bytes`."""
        sizes = [int(found) for (found,) in self.gather([float(len(data))])]
        longest = max(sizes)
        if not longest:
            return [b""] * self._size
        mine = torch.zeros(longest, dtype=torch.uint8)
        if data:
            mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = self._all(mine)
        return [b"".join(bytes_of(one[:size])) for one, size in zip(found, sizes, strict=True)]

    def share(self, data: Any) -> Any:
        """As :meth:`stagegraph.engine.ranks.Group.share`."""
        text = json.dumps(data, separators=(",", ":")).encode() if not self._rank else b""
        size = torch.tensor([len(text)], dtype=torch.int64)
        self._from_first(size)
        content = torch.zeros(int(size), dtype=torch.uint8)
        if text:
            content[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._from_first(content)
        return json.loads(b"".join(bytes_of(content)))

    def _all(self, mine: Tensor) -> list[Tensor]:
        found = [torch.empty_like(mine) for _ in range(self._size)]
        self._call(lambda: dist.all_gather(found, mine, group=self._group))
        return found

    def _from_first(self, tensor: Tensor) -> None:
        self._call(lambda: dist.broadcast(tensor, src=self._first, group=self._group))

    def _call(self, collective: Callable[[], T]) -> T:
        if self._broken is not None:
            raise Parted(f"the ranks have parted before: {self._broken}")
        try:
            return collective()
        except RuntimeError as error:
            self._broken = str(error).strip().splitlines()[0]
            raise Parted(
                f"rank {self._rank} of {self._size} waited for the others in vain "
                f"({self._broken}); one of them has ended, its own output says why, or did not "
                "come: every rank must make the same calls of the engine"
            ) from error


_KNOWN: WeakKeyDictionary[dist.ProcessGroup, RankGroup] = WeakKeyDictionary()


def group_of(asked: dist.ProcessGroup | str | None) -> RankGroup | None:
    """The ranks that an engine decides with; ``None`` if it decides alone.

    The first call for a process group is a collective.

    Args:
        asked: A process group; ``"auto"``: all processes, if there are several; ``None``: none.

    Raises:
        RankError: There is no process group, and one was asked for.
    """
    if asked is None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        if asked != "auto":
            raise RankError("call torch.distributed.init_process_group() before Engine(group=...)")
        _refuse_unawares()
        return None
    parent = dist.group.WORLD if isinstance(asked, str) else asked
    assert parent is not None
    if dist.get_world_size(parent) < 2:
        return None
    known = _KNOWN.get(parent)
    if known is None:
        known = _KNOWN[parent] = RankGroup(parent)
    return known


def _refuse_unawares() -> None:
    """Refuse to decide alone in a process that a launcher has started among several.

    Raises:
        RankError: It is one.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size.isdigit() and int(size) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        raise RankError(
            f"this is one of {size} processes that torchrun has started, and no process group was "
            "made: each would decide alone; call torch.distributed.init_process_group() before "
            "Engine(...), or give Engine(group=None)"
        )
