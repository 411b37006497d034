"""Teachers: frozen copies of a model as it was at a boundary, to learn from later.

A teacher lives in the host's memory and is on an accelerator only while somebody learns from it.
It is always in eval mode, and nothing that it runs leaves a trace: neither in its own buffers nor
in the global random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.attribute_holding import write_attributes
from stagegraph.actions.copying import copy_model
from stagegraph.actions.gates import Gates
from stagegraph.actions.growth.attributes import matching_attributes
from stagegraph.actions.growth.depth.stacks import left_out_hooks
from stagegraph.actions.growth.operations import unwind
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.parameters import num_parameters
from stagegraph.actions.probes import Probe, call, run_probe
from stagegraph.actions.randomness import preserved_randomness
from stagegraph.actions.undo import untouched
from stagegraph.errors import ActionError, SnapshotError

__all__ = ["TEACHER", "Teacher", "make"]

TEACHER = "teacher:"
"""How the id of a teacher begins; no snapshot's does."""

_HOST = torch.device("cpu")


class Teacher:
    """One teacher.

    Args:
        module: A copy of the model that is the teacher's own, in eval mode.
        lineage: The structural changes that the model had been through.
        alphas: Alpha per block that had a gate.
        attributes: Stable ids of attributes that an activity held, such as the one that says which
            head is in use; what they hold is in the module.
    """

    def __init__(
        self,
        module: nn.Module,
        lineage: Lineage,
        alphas: Mapping[str, float],
        attributes: Iterable[str] = (),
    ) -> None:
        self.module = module
        self.lineage = lineage
        self.attributes = tuple(attributes)
        self.alphas = {block: alpha for block, alpha in alphas.items() if alpha != 1.0}
        Gates().set(self.alphas, lambda block: module.get_submodule(lineage.today(block)))
        self._modules = {
            lineage.stable(name): part
            for name, part in module.named_modules(remove_duplicate=False)
        }
        self._buffers = [
            (part._buffers, name, buffer.detach().clone())
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else _HOST

    def place(self, device: torch.device) -> None:
        """Move it to a device, to be used there."""
        if self.device != device:
            self.module.to(device)

    def release(self) -> None:
        """Move it back into the host's memory."""
        self.place(_HOST)

    def run(self, inputs: Probe) -> Any:
        """What it puts out; no gradient, no random number and no buffer moves."""
        with torch.no_grad(), preserved_randomness(), self.unmoved():
            return call(self.module, inputs)

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Buffers that a forward moves in eval mode too are put back."""
        before = [(owner[name], owner[name]._version) for owner, name, _ in self._buffers]  # type: ignore[union-attr]
        try:
            yield
        finally:
            for (owner, name, value), (buffer, version) in zip(self._buffers, before, strict=True):
                if owner[name] is not buffer or buffer._version != version:  # type: ignore[union-attr]
                    owner[name] = buffer
                    buffer.copy_(value)  # type: ignore[union-attr]

    def module_of(self, stable: str) -> nn.Module | None:
        """Its module of a stable id, if it has one."""
        return self._modules.get(stable)

    def pack(self, attributes: Iterable[str] = ()) -> dict[str, Any]:
        """The same in plain containers and tensors, for ``torch.save``.

        Args:
            attributes: Stable ids of attributes that are held in the model now: what the teacher's
                hold must be told too, for it is read back from the model's structure.
        """
        return {
            "lineage": self.lineage.as_json(),
            "alphas": dict(self.alphas),
            "attributes": self._values_of((*self.attributes, *attributes)),
            "parameters": {key: p.detach().cpu() for key, p in self._parameters().items()},
            "buffers": {key: b.detach().cpu() for key, b in self._named_buffers().items()},
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any], *, model: nn.Module, lineage: Lineage) -> Teacher:
        """The inverse of :meth:`pack`, from the structure of the model.

        Args:
            packed: What :meth:`pack` gave.
            model: The model, which has been through at least what it had when the teacher was made.
            lineage: What the model has been through.

        Raises:
            SnapshotError: It cannot be read, or does not fit the model.
        """
        try:
            own = Lineage.from_json(packed["lineage"])
            alphas, attributes = dict(packed["alphas"]), dict(packed["attributes"])
            kept = {"parameter": packed["parameters"], "buffer": packed["buffers"]}
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"this teacher cannot be read: {error!r}") from error
        module = _structure(model, lineage, own)
        held = {own.today(key): value for key, value in attributes.items()}
        write_attributes(module, held, what="this teacher")
        teacher = cls(module, own, {})
        _fill("parameter", teacher._parameters(), kept["parameter"])
        _fill("buffer", teacher._named_buffers(), kept["buffer"])
        return cls(module, own, alphas, attributes)

    def _values_of(self, attributes: Iterable[str]) -> dict[str, Any]:
        found = {
            key: matching_attributes(self.module, self.lineage.today(key)) for key in attributes
        }
        return {key: there[0].value for key, there in found.items() if there}

    def _parameters(self) -> dict[str, Tensor]:
        return {self.lineage.stable(name): p for name, p in self.module.named_parameters()}

    def _named_buffers(self) -> dict[str, Tensor]:
        return {self.lineage.stable(name): b for name, b in self.module.named_buffers()}


def _structure(model: nn.Module, lineage: Lineage, wanted: Lineage) -> nn.Module:
    """A copy of a model as it was before its newest growths."""
    if not lineage.starts_with(wanted):
        raise SnapshotError(
            "a teacher had been through growths that this model has not; give what snapshots() had "
            "returned to load_snapshots() after load_state_dict()"
        )
    module = copy_model(model)
    while len(lineage.changes) > len(wanted.changes):
        unwind(module, (), lineage)
        lineage = lineage.without_last()
    return module


def _fill(what: str, now: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    for key in sorted(set(now) ^ set(kept)):
        who = "the model" if key in now else "the saved teacher"
        raise SnapshotError(f"a teacher does not fit this model: only {who} has a {what} {key!r}")
    for key, tensor in now.items():
        if tensor.shape != kept[key].shape or tensor.dtype != kept[key].dtype:
            raise SnapshotError(
                f"a teacher does not fit this model: its {what} {key!r} is {_what(kept[key])}, "
                f"the model's {_what(tensor)}"
            )
        tensor.data = kept[key].detach().to("cpu", copy=True)


def _what(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def make(
    model: nn.Module,
    *,
    name: str,
    lineage: Lineage,
    alphas: Mapping[str, float],
    attributes: Iterable[str] = (),
    probe: Probe | None,
    place: str,
) -> tuple[Teacher, dict[str, Any]]:
    """Make a teacher of a model as it is now.

    Returns:
        The teacher, and what was done as JSON data.

    Raises:
        ActionError: The copy does not compute what the model computes.
        UnsupportedError: The model cannot be copied.
    """
    held = map(lineage.stable, attributes)
    teacher = Teacher(copy_model(model), Lineage(lineage.changes), alphas, held)
    hooked = left_out_hooks(model)
    if probe is None and hooked:
        raise ActionError(
            place,
            f"the model has hooks of yours on {', '.join(hooked)}, which a teacher does not get; "
            "give probe=... so that it can be seen whether they change what it computes",
        )
    difference = None if probe is None else _difference(model, teacher, probe)
    if difference is not None and not difference <= 1e-3:
        cause = f"; the hooks on {', '.join(hooked)} are not copied" if hooked else ""
        raise ActionError(
            place,
            "in eval mode the copy does not compute on the probe what the model does (they differ "
            f"by {difference:.3g} of the largest output){cause}: something outside of its "
            "parameters, buffers and attributes takes part",
        )
    return teacher, {
        "kind": "teacher",
        "teacher": name,
        "params": num_parameters(teacher.module),
        "hooks_left_out": hooked,
        "difference": difference,
    }


def _difference(model: nn.Module, teacher: Teacher, probe: Probe) -> float:
    """How far the two are apart on the probe, relative to the largest output."""
    with untouched(model), torch.no_grad():
        expected = run_probe(model.eval(), probe)
    teacher.place(expected.device)
    with torch.no_grad(), preserved_randomness(), teacher.unmoved():
        got = run_probe(teacher.module, probe)
    teacher.release()
    if expected.shape != got.shape:
        return float("inf")
    expected, got = expected.nan_to_num(), got.nan_to_num()
    largest = expected.abs().max().clamp_min(1e-30)
    return float((expected - got).abs().max() / largest)
