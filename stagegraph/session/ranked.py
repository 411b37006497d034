"""Ranked: what an engine does otherwise where several ranks run it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from stagegraph.engine.ports import Actor, Reader
from stagegraph.engine.ranks import Group, lead
from stagegraph.engine.weakly import weakly
from stagegraph.errors import RunFolderError, UnsupportedError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.session.following import Following
from stagegraph.session.recording import Found, Recording
from stagegraph.session.saving import Files
from stagegraph.session.together import Together

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup

    from stagegraph.actions.actor import TorchActor

__all__ = [
    "find_together",
    "own_files",
    "rank_front",
    "refuse_shards",
    "shake_hands",
    "wait_before_forward",
]


def own_files(contents: Sequence[bytes]) -> Files:
    """The files of a checkpoint that hold what is each rank's own."""
    if not contents:
        return {}
    from stagegraph.actions.ranks.own import own_file

    return {own_file(rank): partial(_put, content) for rank, content in enumerate(contents)}


def _put(content: bytes, out: BinaryIO) -> None:
    out.write(content)


def rank_front(
    asked: ProcessGroup | Group | Literal["auto"] | None,
    graph: CompiledGraph,
    reader: Reader | None,
    actor: TorchActor | None,
    model: nn.Module | None,
) -> Together | None:
    """The front of an engine that decides with other ranks; ``None`` if it decides alone.

    Raises:
        RankError: There is no process group, and one was asked for or is needed.
        UnsupportedError: The model's gradients are averaged over ranks that are not asked.
    """
    group = _group(asked, with_torch=model is not None)
    if group is None:
        if actor is not None and actor.replicas > 1:
            raise UnsupportedError(
                "the model is in a DistributedDataParallel of several ranks, and this engine "
                "would decide alone: leave group=None out, so that they decide together"
            )
        return None
    together = Together(group, graph, reader)
    if actor is not None and model is not None:
        from stagegraph.actions.ranks.agreement import Agreement

        actor.join(Agreement(group))
        if actor.monitor is not None:
            actor.monitor.over_ranks = weakly(together.reduce_measured)
        wait_before_forward(together, model)
    return together


def wait_before_forward(together: Together, model: nn.Module) -> None:
    """Have what waits decided before the model is called to train, as the loop calls it."""
    from stagegraph.actions.ranks.forward import BeforeForward

    together.before_forward = BeforeForward(model, weakly(together.settle_before_forward)).arm


def refuse_shards(
    model: nn.Module, run: str | os.PathLike[str] | None, *, kept_by_host: bool
) -> None:
    """Refuse to keep checkpoints of a model that no rank has whole.

    Raises:
        UnsupportedError: The run's folder was to get some.
    """
    from stagegraph.actions.sharding.tensors import shards_in

    if run is not None and not kept_by_host and shards_in(model):
        raise UnsupportedError(
            "the model is sharded, and a run's folder keeps no shards: give checkpoints=None, and "
            "save and load with stagegraph.trainers.fsdp2; the folder keeps graph and journal"
        )


def _group(asked: Any, *, with_torch: bool) -> Group | None:
    if isinstance(asked, Group):
        return asked if asked.size > 1 else None
    if asked is None or (asked == "auto" and not with_torch and "torch" not in sys.modules):
        return None
    from stagegraph.actions.ranks.group import group_of

    return group_of(asked)


def shake_hands(
    together: Together,
    actor: Actor,
    run: str | os.PathLike[str] | None,
    checkpoints: object,
    seed: int,
) -> None:
    """See that all ranks have begun the same thing.

    Raises:
        RankError: They have not.
    """
    lines: Sequence[str] = getattr(actor, "structure_lines", list)()
    given: Sequence[str] = getattr(actor, "given", list)()
    folder = None if run is None else os.fspath(run)
    together.shake_hands(
        seed=seed,
        run=folder,
        checkpoints=None if checkpoints is None else str(checkpoints),
        arguments=list(given),
        structure=list(lines),
    )


def find_together(
    record: Recording | Following,
    together: Together | None,
    find: Callable[[Recording], Found] = Recording.find,
) -> Found:
    """What to go on from: rank 0 chooses, and all read it.

    Args:
        record: This rank's hold on the run's folder.
        together: The ranks, or ``None``.
        find: How rank 0 chooses.

    Raises:
        RankError: Another rank cannot.
        RunFolderError: As for :meth:`Recording.find`.
        SnapshotError: As for :meth:`Recording.find`.
    """
    if together is None:
        assert isinstance(record, Recording)
        return find(record)
    fault: Exception | None = None
    kept: list[Found] = []

    def found() -> Mapping[str, Any]:
        assert isinstance(record, Recording)
        kept.append(find(record))
        return record.told(kept[0])

    if isinstance(record, Recording):
        lead(together.group, found)
    else:
        try:
            kept.append(record.find())
        except RunFolderError as error:
            fault = error
    together.all_or_none(fault)
    return kept[0]
