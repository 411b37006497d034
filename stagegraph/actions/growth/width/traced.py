"""What a trace has found: plain values, by today's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "NormKind",
    "Traced",
    "TracedAxis",
    "TracedFactor",
    "TracedMember",
    "TracedNorm",
    "TracedSpace",
    "TracedUse",
]

NormKind = Literal["layer", "rms", "group", "batch", "l2"]


@dataclass(frozen=True, slots=True)
class TracedFactor:
    """One factor of an axis.

    Attributes:
        size: How many units it has.
        space: The space it belongs to; ``None`` where it is free or of the data.
        roles: Of ``in`` (contracted: it reads the space), ``out`` (it appears in a contraction's
            result: it writes), ``elem`` (used elementwise), ``index`` (looked up by integers),
            ``data`` (tied to the batch, the sequence or the image), ``fixed`` (a number that the
            code counts on, such as the 3 of q, k, v), ``blind`` (used by an operator whose effect
            is not known), ``free`` (ties to nothing).
        parts: The axes it is the concatenation of; empty for most.
    """

    size: int
    space: str | None
    roles: frozenset[str]
    parts: tuple[TracedAxis, ...] = ()


@dataclass(frozen=True, slots=True)
class TracedAxis:
    """One dimension of a parameter or buffer: the product of its factors, leftmost slowest."""

    factors: tuple[TracedFactor, ...]

    @property
    def parts(self) -> tuple[TracedAxis, ...]:
        """What the axis is the concatenation of, where it is one."""
        return self.factors[0].parts if len(self.factors) == 1 else ()


@dataclass(frozen=True, slots=True)
class TracedMember:
    """A place where a space occurs.

    Attributes:
        name: Parameter or buffer.
        dim: Its dimension.
        factor: Which factor of it, counted from the left through all parts.
        roles: As in ``TracedFactor``.
    """

    name: str
    dim: int
    factor: int
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class TracedNorm:
    """A normalisation that ran.

    Attributes:
        op: The operator, such as ``aten.native_layer_norm``; the last one of a hand-written norm.
        module: Path of the module it ran in.
        kind: ``batch`` is per channel: it does not normalise over the axis.
        gain: The parameter that it is multiplied with.
        bias: The parameter that is added.
        eps: What keeps it from dividing by zero, where it could be seen.
        groups: For ``group``.
    """

    op: str
    module: str
    kind: NormKind
    gain: str | None = None
    bias: str | None = None
    eps: float | None = None
    groups: int | None = None


@dataclass(frozen=True, slots=True)
class TracedSpace:
    """Axes that must be grown together.

    Attributes:
        size: How many units it has.
        members: Where it occurs, in the model's order.
        norms: The norms over it (and the batch norms along it).
        softmaxes: Paths of the modules in which a softmax runs over it.
        reduced_by: Other reductions over it: operator and module path.
        sliced: Paths of the modules in which fixed intervals of it are cut out, as rotary position
            embeddings do; new units must then go inside each interval.
        adds: How many sums of two activations run along it: what a residual stream has.
        hints: What it was seen as: ``heads``, ``head_dim``, ``value_dim``, ``channels``,
            ``lookup``, ``positions``.
        is_input: It is an axis of the model's data.
        is_output: It is an axis of the model's output, and must not grow unasked.
    """

    size: int
    members: tuple[TracedMember, ...]
    norms: tuple[TracedNorm, ...] = ()
    softmaxes: tuple[str, ...] = ()
    reduced_by: tuple[tuple[str, str], ...] = ()
    sliced: tuple[str, ...] = ()
    adds: int = 0
    hints: frozenset[str] = frozenset()
    is_input: bool = False
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class TracedUse:
    """One use of a parameter.

    Attributes:
        op: The operator.
        module: Path of the module it ran in.
        roles: For each dimension the role it had, ``None`` where it had none.
    """

    op: str
    module: str
    roles: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """All that one run of the model told.

    Attributes:
        axes: For each parameter and buffer, under each of its names, one axis per dimension.
        spaces: The spaces by id; an id is the first place where the space occurs.
        uses: For each parameter and buffer, how it was used; a tied one has uses that differ.
        blind: Operators whose effect on the axes is not known, and the module they ran in. What
            they join is not found here.
    """

    axes: Mapping[str, tuple[TracedAxis, ...]]
    spaces: Mapping[str, TracedSpace]
    uses: Mapping[str, tuple[TracedUse, ...]]
    blind: tuple[tuple[str, str], ...]
