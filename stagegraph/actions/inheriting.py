"""Inheriting: the weights of a smaller model into a larger one, with an account of every tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Inherited
from stagegraph.actions.growth.attributes import owners_of
from stagegraph.actions.growth.inherit.fits import Fit, Status
from stagegraph.actions.growth.inherit.inherit import InheritPlan, NewContents, of_weights
from stagegraph.actions.growth.inherit.pairing import Depth
from stagegraph.actions.growth.inherit.weights import Inheritable, read_weights
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.parameters import unwrapped
from stagegraph.actions.probes import Probe
from stagegraph.actions.undo import Moment
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Inherit
from stagegraph.schema.base import Model
from stagegraph.schema.spaces import Spaces

__all__ = ["InheritReport", "TensorReport", "inherit"]

How = Literal["split", "uneven", "zero_out", "zero_in", "pair", "corner"]


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What became of one parameter or buffer.

    Attributes:
        name: Its name; of a tied one the first.
        source: The name in the weights that it comes from; ``None`` if from none.
        status: ``copied``, ``grown``, ``left`` as it was, or ``refused``.
        before: The shape in the weights; ``None`` if it is not there.
        after: Its own shape.
        words: How it was mapped, or why it was not.
    """

    name: str
    source: str | None
    status: Status
    before: tuple[int, ...] | None
    after: tuple[int, ...]
    words: str

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "name": self.name,
            "from": self.source,
            "status": self.status,
            "before": None if self.before is None else list(self.before),
            "after": list(self.after),
            "words": self.words,
        }


@dataclass(frozen=True, slots=True)
class InheritReport:
    """What a model inherited.

    Attributes:
        tensors: Every parameter and buffer that a state dict has, tied ones once.
        unused: The names in the weights that nothing took.
        written: The attributes that were changed, with the value before and after.
        promised: Whether the model was to compute what the smaller one does: all was mapped.
        change: The largest difference of both models' outputs on the probe, in eval mode;
            ``None`` where the smaller model or a probe was not given, or the shapes differ.
        exactness: What that amounts to.
        forgotten: How many parameters the optimizers forgot the state of.
    """

    tensors: tuple[TensorReport, ...]
    unused: tuple[str, ...]
    written: Mapping[str, tuple[Any, Any]]
    promised: bool
    change: float | None
    exactness: Literal["exact", "exact up to rounding", "approximate"] | None
    forgotten: int

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors were copied, grown, left and refused, and how many were not used."""
        found = dict.fromkeys(("copied", "grown", "left", "refused"), 0)
        for one in self.tensors:
            found[one.status] += 1
        return {**found, "unused": len(self.unused)}

    def table(self) -> str:
        """All of it as a text for people, a line per tensor."""
        rows = [("tensor", "from", "status", "shape", "how")]
        rows += [_row(one) for one in self.tensors]
        rows += [("-", name, "unused", "", "") for name in self.unused]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in rows
        ]
        lines += [f"{path}: {old!r} to {new!r}" for path, (old, new) in self.written.items()]
        lines.append(", ".join(f"{count} {word}" for word, count in self.counts.items() if count))
        if self.exactness is not None:
            told = "of another shape" if self.change is None else f"by {self.change:.3g} at most"
            lines.append(f"output on the probe: {self.exactness}, differs {told}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "counts": self.counts,
            "tensors": [one.as_json() for one in self.tensors],
            "unused": list(self.unused),
            "written": {path: list(values) for path, values in self.written.items()},
            "promised": self.promised,
            "change": self.change,
            "exactness": self.exactness,
            "forgotten": self.forgotten,
        }


def _row(one: TensorReport) -> tuple[str, str, str, str, str]:
    after = _shape(one.after)
    shape = after if one.before in (None, one.after) else f"{_shape(one.before or ())} to {after}"
    source = "-" if one.source is None else "=" if one.source == one.name else one.source
    return one.name, source, one.status, shape, one.words


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one"


def inherit(  # noqa: PLR0913 - one way in, every choice named once
    model: nn.Module,
    weights: Inheritable,
    *,
    spaces: Spaces | Mapping[str, Any] | None = None,
    stacks: Depth = "identity",
    how: How = "split",
    rename: Mapping[str, str] | None = None,
    leave: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    zero: Sequence[str] = (),
    optimizer: Optimizer | Sequence[Optimizer] = (),
    state: Literal["reset", "keep"] = "reset",
    probe: Probe | None = None,
    seed: int = 0,
    strict: bool = False,
) -> InheritReport:
    """Give a model the weights of a smaller one, in place.

    Where a tensor is larger here, the declared spaces of its axes say how n units become N: what
    writes a space is multiplied by R, what reads it by D, with D R = I, so that the model computes
    what the smaller one did. Norms, tied weights, running statistics and additional blocks are
    allowed for. Nothing is cut off. Parameters and buffers keep identity, dtype and device.

    Example::

        report = sg.inherit(large, small, spaces=sg.load("grow.yaml").spaces, probe=ids)
        print(report.table())

    Args:
        model: The larger model.
        weights: A state dict, the smaller model itself, or the path of a checkpoint
            (``.safetensors``, or of ``torch.save``, read with ``weights_only=True``).
        spaces: Which axes belong together, as a graph declares them.
        stacks: What blocks become that the smaller model does not have.
        how: Where units come from that it does not have; ``corner`` needs no spaces and does not
            keep the function.
        rename: Per pattern over the names of the weights what they are called here.
        leave: Patterns of parameters and buffers to leave as they are.
        sizes: Sizes of the smaller model's spaces that do not follow from its tensors.
        zero: For ``identity``: the modules inside a block whose output to zero, if they are not to
            be found by trial.
        optimizer: The model's optimizer, or several.
        state: Whether they forget the state of parameters that get other contents.
        probe: A batch as both models take it; needed for additional blocks that become the
            identity, and to measure how the outputs differ.
        seed: For whatever is random; nobody else's numbers are drawn.
        strict: Whether a tensor that cannot be taken is an error, and an output that differs from
            that of the smaller model, where it is given and all was mapped.

    Returns:
        What became of every tensor.

    Raises:
        SelectorError: A pattern matches nothing.
        UnsupportedError: The weights cannot be read, or not be fitted so; nothing was changed.
    """
    several = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    action = _read(
        Inherit,
        {
            "type": "inherit",
            "source": "weights",
            "how": how,
            "stacks": stacks,
            "zero": list(zero),
            "rename": dict(rename or {}),
            "leave": list(leave),
            "sizes": dict(sizes or {}),
            "strict": strict,
            "state": state,
        },
    )
    site = Site(
        unwrapped(model),
        [innermost(one) for one in several],
        probe=probe,
        spaces=spaces if isinstance(spaces, Spaces) else _read(Spaces, dict(spaces or {})),
    )
    planned = of_weights(site, action, read_weights(weights, place="inherit"), place="inherit")
    prepared = planned.prepare(site, seed=seed)
    change = planned.change(Lineage(), cohort="weights", step=0)
    moment = Moment([site.model], site.optimizers, owners=owners_of(site.model))
    try:
        evidence = prepared.commit(site, change).evidence
    except BaseException:
        moment.restore()
        raise
    return _report(planned, prepared, change, evidence)


_M = TypeVar("_M", bound=Model)


def _read(kind: type[_M], data: Mapping[str, Any]) -> _M:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}"
            for one in error.errors()
        )
        raise UnsupportedError(f"inherit: {told}") from error


def _report(
    planned: InheritPlan, prepared: NewContents, change: Inherited, evidence: Mapping[str, Any]
) -> InheritReport:
    fitting, from_source = planned.fitting, evidence["from_source"] or {}
    zeroed = {f"{path}.{name}" for path, names in prepared.zeroed.items() for name in names}
    return InheritReport(
        tensors=tuple(_of_fit(one, zeroed) for one in fitting.fits),
        unused=fitting.unused,
        written={one.path: (one.before, one.after) for one in change.written},
        promised=fitting.exact,
        change=from_source.get("change"),
        exactness=from_source.get("exactness"),
        forgotten=evidence["state"]["forgotten"],
    )


def _of_fit(one: Fit, zeroed: Collection[str]) -> TensorReport:
    words = [one.words] if one.words else []
    if one.name in zeroed:
        words.append("zeroed, for the identity")
    if len(one.names) > 1:
        words.append(f"one with {', '.join(one.names[1:])}")
    return TensorReport(
        name=one.name,
        source=one.origin if one.content is not None else None,
        status=one.status,
        before=None if one.content is None else tuple(one.content.shape),
        after=tuple(one.tensor.shape),
        words="; ".join(words),
    )
