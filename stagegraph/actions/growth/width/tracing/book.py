"""What is written down while a model runs under the tracer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stagegraph.actions.growth.width.traced import NormKind
from stagegraph.actions.growth.width.tracing.axes import Axes, Dims, Refs

__all__ = [
    "Book",
    "Call",
    "Mark",
    "Norm",
    "Seen",
    "Sort",
    "Source",
    "Tag",
    "operator_name",
    "schema",
]

Sort = Literal["weight", "constant", "activation"]
"""Computed from parameters and buffers alone, from nothing at all, or from the data."""


@dataclass(slots=True)
class Norm:
    """A normalisation, as it is being recognised."""

    over: Refs
    op: str
    module: str
    kind: NormKind
    gain: int | None = None
    bias: int | None = None
    eps: float | None = None
    groups: int | None = None


@dataclass(slots=True)
class Tag:
    """What a tensor is on the way to: a norm or an attention.

    Attributes:
        what: ``mean``, ``centered``, ``square``, ``second`` (a second moment or its root),
            ``normed``, ``scores`` or ``probs``.
        over: The axes averaged over; the head axes of attention scores.
        inner: The contracted axes of attention scores.
        centered: Whether the mean was taken off before squaring.
        eps: What was added.
        norm: Of ``normed``: the norm, which a gain and a bias may still join.
        length: Whether it is a length rather than a mean square.
        reductions: Entries of ``Book.reductions`` that are a part of the norm.
    """

    what: str
    over: Refs = ()
    inner: Refs = ()
    centered: bool = False
    eps: float | None = None
    norm: Norm | None = None
    length: bool = False
    reductions: tuple[int, ...] = ()


@dataclass(slots=True)
class Source:
    """What a tensor and all views of it were computed from: a write into one counts for all."""

    sort: Sort = "activation"


@dataclass(slots=True)
class Seen:
    """A tensor's axes.

    Attributes:
        dims: One product of refs for each dimension.
        source: What it was computed from.
        raw: Whether its values are the model's input as it was given.
        tag: What it is on the way to.
    """

    dims: Dims
    source: Source = field(default_factory=Source)
    raw: bool = False
    tag: Tag | None = None

    @property
    def sort(self) -> Sort:
        """What it was computed from."""
        return self.source.sort


@dataclass(frozen=True, slots=True)
class Mark:
    """A role of a parameter's axis in one call."""

    call: int
    key: int
    dim: int
    node: int
    role: str
    op: str
    module: str


@dataclass(slots=True)
class Book:
    """All notes of one trace."""

    axes: Axes = field(default_factory=Axes)
    tensors: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    marks: list[Mark] = field(default_factory=list)
    blind: dict[tuple[str, str], None] = field(default_factory=dict)
    unless_data: list[tuple[Refs, str, str]] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    softmaxes: list[tuple[Refs, str]] = field(default_factory=list)
    reductions: dict[int, tuple[Refs, str, str]] = field(default_factory=dict)
    slices: list[tuple[Refs, str]] = field(default_factory=list)
    adds: list[Refs] = field(default_factory=list)
    outputs: list[Dims] = field(default_factory=list)
    calls: int = 0

    def enter(self, tensor: Tensor, seen: Seen) -> None:
        """Remember a tensor's axes as long as it lives."""
        self.tensors[tensor] = seen

    def look(self, tensor: Tensor) -> Seen | None:
        """What is known of a tensor."""
        found: Seen | None = self.tensors.get(tensor)  # type: ignore[no-untyped-call]
        return found


def _flatten(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _flatten(one)


def schema(func: torch._ops.OpOverload) -> torch.FunctionSchema:
    """An operator's signature."""
    return func._schema  # noqa: SLF001 - there is no public way to it


def operator_name(func: torch._ops.OpOverload) -> str:
    """Its name without ``aten::`` and without the overload."""
    return str(schema(func).name).partition("::")[2]


class Call:
    """One operator that has run, for its rule to look at.

    Args:
        book: Where to write.
        func: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
        module: Path of the module that it ran in.
    """

    def __init__(
        self,
        book: Book,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        module: str,
    ) -> None:
        self.book, self.axes, self.func, self.out, self.module = book, book.axes, func, out, module
        self.op = str(func).removesuffix(".default")
        self.name = operator_name(func).rstrip("_")
        book.calls += 1
        self.args: dict[str, Any] = {}
        for index, argument in enumerate(schema(func).arguments):
            if index < len(args):
                self.args[argument.name] = args[index]
            else:
                self.args[argument.name] = kwargs.get(argument.name, argument.default_value)

    def __getitem__(self, argument: str) -> Any:
        return self.args[argument]

    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return list(_flatten(tuple(self.args.values())))

    def outs(self) -> list[Tensor]:
        """The tensors among the results, in order."""
        return list(_flatten(self.out))

    def seen(self, tensor: Tensor) -> Seen:
        """A tensor's axes; one that nobody has entered is a constant with axes of its own."""
        found = self.book.look(tensor)
        if found is None:
            dims = tuple(self.axes.fresh(size) for size in tensor.shape)
            found = Seen(dims, Source("constant"))
            self.book.enter(tensor, found)
        return found

    def sort(self) -> Sort:
        """What the result is computed from."""
        sorts = {self.seen(tensor).sort for tensor in self.tensors()}
        order: tuple[Sort, ...] = ("activation", "weight")
        for sort in order:
            if sort in sorts:
                return sort
        return "constant"

    def give(
        self, dims: Iterable[Refs], tensor: Tensor | None = None, *, like: Seen | None = None
    ) -> None:
        """Enter the axes of a result: of the first, unless it is said which.

        Args:
            dims: Its axes.
            tensor: Which result.
            like: A tensor whose values it has, so that it is of its sort and has its tag.
        """
        tensor = self.outs()[0] if tensor is None else tensor
        dims = tuple(dims)
        old = self.book.look(tensor)
        if old is not None and any(ref.origins for refs in old.dims for ref in refs):
            return  # a buffer that is written in place stays what it is
        if len(dims) != tensor.dim() or any(
            self.axes.size(refs) != size for refs, size in zip(dims, tensor.shape, strict=True)
        ):
            raise ValueError(f"the tracer's rule for {self.op} gave axes of another shape")
        if like is None:
            self.book.enter(tensor, Seen(dims, Source(self.sort())))
        else:
            self.book.enter(tensor, Seen(dims, like.source, like.raw, like.tag))

    def mark(self, refs: Iterable[Refs], role: str) -> None:
        """Note the role of the parameter axes among some dimensions."""
        for dimension in refs:
            for ref in dimension:
                for key, dim in ref.origins:
                    mark = Mark(self.book.calls, key, dim, ref.node, role, self.op, self.module)
                    self.book.marks.append(mark)

    def key(self, tensor: Tensor) -> int | None:
        """The first parameter that a tensor is read from."""
        origins = [o for refs in self.seen(tensor).dims for ref in refs for o in ref.origins]
        return origins[0][0] if origins else None

    def blind(self) -> None:
        """Note that what this operator does to the axes is not known."""
        self.book.blind[self.op, self.module] = None
        for tensor in self.tensors():
            self.mark(self.seen(tensor).dims, "blind")

    def unless_data(self, *dimensions: Refs) -> None:
        """Note the same, but only if the axes turn out to be more than the data's."""
        for refs in dimensions:
            self.book.unless_data.append((refs, self.op, self.module))

    def fresh(self, tensor: Tensor, *flags: str) -> Dims:
        """New axes for a tensor."""
        return tuple(self.axes.fresh(size, *flags) for size in tensor.shape)

    def dim(self, argument: str = "dim", *, of: int | None = None) -> int:
        """A dimension among the arguments, counted from the left."""
        count = self.seen(self["self"]).dims if of is None else range(of)
        return int(self[argument]) % max(len(count), 1)
