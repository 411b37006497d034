"""What all schema models share: frozen, closed, and deeply immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

__all__ = ["FrozenMap", "Model", "Note", "Seq", "as_union"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class Model(BaseModel):
    """The base of everything a user may write: frozen, strict, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    positional: ClassVar[tuple[str, ...]] = ()
    """For what can be called in a guard string: the fields that need no keyword."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Seq = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A list in a document, a tuple in the model."""


def as_union(value: Any) -> Any:
    """One thing, or a list of them, as a tuple; the JSON Schema allows both for what uses it."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Note = Annotated[str, StringConstraints(max_length=2000)]


class FrozenMap(Mapping[K, V]):
    """A read-only, hashable mapping that keeps the order of its keys.

    Two maps with the same items are equal whatever their order: meaning never hangs on it.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V] | None = None) -> None:
        self._items: dict[K, V] = dict(items or {})

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._items == dict(other)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        key, value = get_args(source)
        items = handler.generate_schema(dict[key, value])  # type: ignore[valid-type]
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.no_info_before_validator_function(_as_dict, items),
            serialization=core_schema.wrap_serializer_function_ser_schema(
                _serialize_map, schema=items
            ),
        )


def _as_dict(value: Any) -> Any:
    return dict(value) if isinstance(value, FrozenMap) else value


def _serialize_map(value: Any, handler: core_schema.SerializerFunctionWrapHandler) -> Any:
    return handler(dict(value))
