"""Saved models: listed, and read back into a model as it was made."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagegraph.engine.ports import Record
from stagegraph.engine.records import record
from stagegraph.engine.state import State
from stagegraph.errors import RunFolderError, SnapshotError, UnsupportedError, did_you_mean
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.generation import Damaged, open_generation
from stagegraph.runs.saved import Broken, Saved, directory_of, relative
from stagegraph.schema.actions import SaveAction

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_saved", "require_folder", "saved", "saved_record"]


def saved(run: str | os.PathLike[str]) -> list[Saved]:
    """The models that a run has saved, the oldest first.

    What is not whole is left out with a warning. Nothing but manifests is read: that each byte is
    as it was written is seen by :func:`load_saved`.

    Example::

        for one in sg.saved("runs/a"):
            print(one.name, one.step, one.metrics, one.path)

    Args:
        run: The run's folder.

    Raises:
        RunFolderError: It holds no run, cannot be read, or a newer version wrote in it.
    """
    whole, broken = RunFolder(run).saved_models().survey()
    for one in broken:
        warnings.warn(f"a saved model is left out: {one}", stacklevel=2)
    return whole


def load_saved(
    model: nn.Module,
    run: str | os.PathLike[str] | Saved,
    name: str | None = None,
    *,
    parts: Mapping[str, Any] | None = None,
) -> Saved:
    """Give a model, made as the run's own was, the shape and the weights of a saved one.

    The growths that it had been through are done again, without training; then every tensor is what
    it was, bit for bit. Blocks that were half blended in are so again, and attributes that a stage
    held (which head is in use, a number) hold what they held. Gradients, optimizers and random
    numbers have no part in it.

    Example::

        model = Net()
        sg.load_saved(model, "runs/a", "anneal2")

    Args:
        model: A model made as the run's own was at its beginning: the size it had before it grew.
        run: The run's folder, or one that :func:`saved` has listed.
        name: Which one of the folder; the newest of this name. It can be left out where only one
            name has been saved.
        parts: What the graph names and only code can give, as the engine had it: builders.

    Returns:
        What was loaded.

    Raises:
        RunFolderError: There is none of this name, or it is not as it was written.
        SnapshotError: It is of another model. The model is as it was then.
        UnsupportedError: An engine holds this model.
        TypeError: A name was given beside one that is listed.
    """
    from stagegraph.actions.attach import is_held
    from stagegraph.actions.keeping.weights import load_weights

    if is_held(model):
        raise UnsupportedError(
            "an engine holds this model; close() the engine first, or give a new model"
        )
    if isinstance(run, Saved):
        if name is not None:
            raise TypeError(f"load_saved: {run.name!r} was given, and the name {name!r} too")
        chosen = run
    else:
        chosen = _choose(Path(run), name)
    files = _read(chosen)
    try:
        load_weights(model, files, parts=parts)
    except SnapshotError as error:
        raise SnapshotError(f"the saved model {chosen.name!r} ({chosen.path}) {error}") from error
    return chosen


def _choose(run: Path, name: str | None) -> Saved:
    """The newest of a name, if that is whole.

    Raises:
        RunFolderError: There is none, or it is not whole.
    """
    whole, broken = RunFolder(run).saved_models().survey()
    names = list(dict.fromkeys(one.name for one in whole))
    if name is None:
        places = {one.path.parent for one in whole} | {one.path.parent for one in broken}
        if len(places) != 1 or not names:
            raise RunFolderError(f"{run}: {_known(names)}; say which one, with name=")
        name = names[0]
    found = [one for one in whole if one.name == name]
    spoilt = [one for one in broken if one.path.parent.name == directory_of(name)]
    newest = max((one.path.name for one in found), default="")
    bad = next((one for one in spoilt if one.path.name > newest), None)
    if bad is not None:
        raise _damaged(name, bad, older=bool(found))
    if not found:
        raise RunFolderError(
            f"{run}: no model is saved as {name!r}{did_you_mean(name, names)}; {_known(names)}"
        )
    return found[-1]


def _known(names: list[str]) -> str:
    listed = ", ".join(map(repr, names))
    return f"the saved models are {listed}" if names else "no model has been saved in it"


def _damaged(name: str, one: Broken, *, older: bool) -> RunFolderError:
    remedy = "bring it back" + ", or load an older one that saved() lists" * older
    return RunFolderError(f"the saved model {name!r} is not as it was written: {one}; {remedy}")


def _read(chosen: Saved) -> dict[str, bytes]:
    """All files of a saved model, each with its digest.

    Raises:
        RunFolderError: One is not as it was written.
    """
    number = int(chosen.path.name.rpartition("-")[2])
    try:
        generation = open_generation(chosen.path, number, None)
    except Damaged as error:
        raise _damaged(chosen.name, Broken(number, chosen.path, str(error)), older=False) from error
    try:
        return {name: generation.read(name) for name in generation.names}
    except RunFolderError as error:
        told = str(error.__cause__ or error)
        raise _damaged(chosen.name, Broken(number, chosen.path, told), older=False) from error


def saved_record(state: State, one: Saved, run: Path) -> Record:
    """What the journal says of a saved model.

    Args:
        state: The state when it is told, which is later than the model's own.
        one: The saved model.
        run: The run's folder.
    """
    return record(
        "saved",
        state,
        name=one.name,
        of_step=one.step,
        of_boundary=one.boundary,
        path=relative(one, run),
        bytes=one.bytes,
    )


def require_folder(graph: CompiledGraph, run: object, *, kept_by_host: bool = False) -> None:
    """Refuse a graph that saves models, for a run that has no folder.

    Args:
        graph: The graph.
        run: The folder, or ``None``.
        kept_by_host: Whether the folder has no checkpoints, with which saved models are written.

    Raises:
        UnsupportedError: It does, and has none; all places are named.
    """
    from stagegraph.actions.attach import all_actions

    if run is not None and not kept_by_host:
        return
    why = (
        "is written with the checkpoints of the run's folder, and this run's are its host's; let "
        "the host save the model"
        if kept_by_host
        else "writes the model into the run's folder, and there is none; give Engine(run=...)"
    )
    places = [one.place for one in all_actions(graph) if isinstance(one.action, SaveAction)]
    if places:
        raise UnsupportedError("\n".join(f"{place}: save {why}" for place in places))
