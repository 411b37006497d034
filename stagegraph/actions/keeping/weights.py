"""Weights: what a model has learnt, to be kept for good, and back into a model as it was made.

The tensors have the names of the model's ``state_dict()``, so that whoever reads safetensors can
use them without stagegraph. Beside them stands what the model has been through, by which a model
as it was made grows to the same shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stagegraph.actions.attribute_holding import write_attributes
from stagegraph.actions.companions import Companions
from stagegraph.actions.keeping.checkpoint import to_host
from stagegraph.actions.keeping.plain import pack, unpack
from stagegraph.actions.keeping.shape import load_shape, shape_of
from stagegraph.actions.keeping.tensor_files import read_tensors, tensor_files
from stagegraph.actions.module_state import buffers_of, passing_buffers, put_buffers
from stagegraph.actions.number_holding import write_numbers
from stagegraph.actions.parameters import unwrapped
from stagegraph.actions.randomness import RandomState
from stagegraph.actions.standing import Standing
from stagegraph.actions.undo import Moment, UndoLog
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError, StageGraphError, UnsupportedError, another_version
from stagegraph.schema.spaces import Spaces

__all__ = ["Weights", "load_weights", "take_weights", "why_not_saved"]

SHAPE = "shape.json"
"""The file that says what the model has been through."""

TENSORS, BUFFERS, EXTRA = "tensors", "buffers", "extra"
"""What names of files begin with: the state dict; buffers that are not in it; extra states."""

_VERSION = 1
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights in host memory.

    Attributes:
        name: What the graph calls them.
        moment: Where training stood, as JSON data.
        shape: What the model had been through, as JSON data.
        tensors: The tensors of its state dict; tied ones are one tensor under several names.
        buffers: By stable id: the buffers that modules do not keep in their state dict.
        extra: The tensors of what else is in its state dict.
    """

    name: str
    moment: Mapping[str, Any]
    shape: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """How many bytes of tensors its files have; tied ones are written under each name."""
        several = (self.tensors, self.buffers, self.extra)
        return sum(tensor.nbytes for tensors in several for tensor in tensors.values())

    def files(self) -> dict[str, Callable[[BinaryIO], None]]:
        """Writers of the files that hold it, by file name."""
        text = json.dumps(self.shape, allow_nan=False, indent=1).encode()

        def write(out: BinaryIO) -> None:
            out.write(text)

        return {
            SHAPE: write,
            **tensor_files(self.tensors, TENSORS),
            **tensor_files(self.buffers, BUFFERS),
            **tensor_files(self.extra, EXTRA),
        }


def take_weights(standing: Standing, name: str, moment: Mapping[str, Any]) -> Weights:
    """Copy a model's weights to host memory.

    Args:
        standing: The model.
        name: What to call them.
        moment: Where training stands, as JSON data.

    Raises:
        UnsupportedError: Something in the model's state dict cannot be kept; the message says what.
    """
    model, lineage = standing.model, standing.lineage
    tensors, others = _contents(model)
    passing = set(passing_buffers(model, lineage))
    buffers = {key: one for key, one in buffers_of(model, lineage).items() if key in passing}
    _refuse_odd(buffers)
    tree, extra = pack(others, "the model's state")
    shape = {
        "version": _VERSION,
        "model": _shape(standing),
        "held_attributes": standing.attributes.values(),
        "held_numbers": standing.numbers.values(),
        "tied": _tied(tensors),
        "extra": tree,
    }
    copies: dict[int, Tensor] = {}
    return Weights(
        name,
        moment,
        shape,
        {key: _copied(one, copies) for key, one in tensors.items()},
        {key: _copied(one, copies) for key, one in buffers.items()},
        {key: _copied(one, copies) for key, one in extra.items()},
    )


def why_not_saved(model: nn.Module) -> list[str]:
    """Why a model's weights cannot be kept, if they cannot."""
    try:
        _, others = _contents(unwrapped(model))
        pack(others, "the model's state")
    except UnsupportedError as error:
        return [str(error)]
    return []


def _shape(standing: Standing) -> dict[str, Any]:
    """What the engine's state says of the model; what its optimizers alone know is left out."""
    shape = shape_of(standing)
    own = {standing.lineage.stable(name) for name, _ in standing.model.named_parameters()}
    shape["frozen"] = {key: flag for key, flag in shape["frozen"].items() if key in own}
    shape["snapshots"] = []
    return shape


def _contents(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a model's state dict as they lie, and all else in it.

    Raises:
        UnsupportedError: The model is wrapped, or a tensor cannot be kept; all are named.
    """
    wrapped = [
        f"{path or 'the model'} is wrapped in {type(part).__name__}, and each of its processes "
        "would save; give the engine the model inside"
        for path, part in model.named_modules()
        if type(part).__name__ in _WRAPPERS
    ]
    if wrapped:
        raise UnsupportedError("; ".join(wrapped))
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            tensors[key] = value
        else:
            others[key] = value
    _refuse_odd(tensors)
    return tensors, others


def _refuse_odd(tensors: Mapping[str, Tensor]) -> None:
    odd = [f"{key} {why}" for key, tensor in tensors.items() if (why := _why_odd(tensor))]
    if odd:
        raise UnsupportedError(
            f"{'; '.join(odd)}: what is saved are dense tensors that have contents, whole in this "
            "process"
        )


def _why_odd(tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        return "has no shape before the first forward"
    plain = tensor.detach()
    if type(plain) is not Tensor:
        return f"is a {type(plain).__name__}"
    if plain.layout is not torch.strided or plain.is_quantized:
        return f"is quantized or of layout {plain.layout}"
    return "is on the device 'meta'" if plain.is_meta else None


def _copied(tensor: Tensor, copies: dict[int, Tensor]) -> Tensor:
    known = copies.get(id(tensor))
    if known is None:
        known = copies[id(tensor)] = to_host(tensor.detach())
    return known


def _tied(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names that mean one tensor, for each that has several."""
    names: dict[int, list[str]] = {}
    for key, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(key)
    return sorted(sorted(several) for several in names.values() if len(several) > 1)


def load_weights(
    model: nn.Module, files: Mapping[str, bytes], *, parts: Mapping[str, Any] | None = None
) -> None:
    """Give a model as it was made the shape and the weights that were kept.

    Random numbers are left as they are.

    Args:
        model: The model, of the shape that it had at the run's beginning.
        files: The contents of the files.
        parts: What the graph names and only code can give.

    Raises:
        SnapshotError: They cannot be read, or are of another model; the model is as it was.
    """
    model = unwrapped(model)
    standing = Standing(
        model, (), Companions.of(None, None, None, None), None, Spaces(), parts or {}
    )
    random, log = RandomState.capture(), UndoLog()
    owners = standing.owners()
    log.push(Moment([model], owners=owners, buffers=True, parameters=True).restore)
    try:
        _load(standing, files)
    except (StageGraphError, *DAMAGE, RuntimeError) as error:
        log.undo()
        told = str(error) if isinstance(error, StageGraphError) else repr(error)
        raise SnapshotError(
            f"cannot be loaded into this {type(model).__name__}: {told}; give a new model, made as "
            "the run's own was at its beginning, and parts= as the engine had them"
        ) from error
    except BaseException:
        log.undo()
        raise
    finally:
        random.restore()


def _load(standing: Standing, files: Mapping[str, bytes]) -> None:
    model = standing.model
    shape = json.loads(files[SHAPE])
    if shape["version"] != _VERSION:
        raise SnapshotError(another_version("this model", shape["version"], newest=_VERSION))
    load_shape(standing, shape["model"])
    tensors = _read(files, TENSORS)
    extra = unpack(shape["extra"], _read(files, EXTRA), "what it keeps beside tensors")
    now, others = _contents(model)
    _require_same({**tensors, **extra}, {**now, **others})
    if _tied(now) != shape["tied"]:
        raise SnapshotError(
            f"the names that mean one tensor were {shape['tied']}, and are {_tied(now)} here"
        )
    model.load_state_dict({**tensors, **extra})
    buffers = _read(files, BUFFERS)
    put_buffers(buffers, buffers, model, standing.lineage)
    write_attributes(model, shape["held_attributes"], what="what was saved")
    write_numbers(model, shape["held_numbers"], what="what was saved")


def _read(files: Mapping[str, bytes], what: str) -> dict[str, Tensor]:
    names = sorted(name for name in files if name.startswith(f"{what}-"))
    return read_tensors([files[name] for name in names])


def _require_same(kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another model: other names, shapes or types, all of them told.

    Raises:
        SnapshotError: There are any.
    """
    wrong = list(_differences(kept, now))
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SnapshotError(f"{'; '.join(wrong[:5])}{more}")


def _differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"it has no {key!r}" for key in kept if key not in now)
    yield from (f"its {key!r} was not saved" for key in now if key not in kept)
    for key, one in kept.items():
        other = now.get(key)
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            continue
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            yield (
                f"{key!r} was {tuple(one.shape)} of {one.dtype}, and is {tuple(other.shape)} of "
                f"{other.dtype} here"
            )
