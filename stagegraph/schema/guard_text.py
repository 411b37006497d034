"""Guard strings: the second spelling of guard and expression trees, read and written.

The grammar, loosest first (rule S19)::

    or         := and ("or" and)*
    and        := not ("and" not)*
    not        := "not" not | comparison
    comparison := sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)*
    sum        := product (("+" | "-") product)*
    product    := unary (("*" | "/") unary)*
    unary      := "-" unary | number | name | name "(" arguments ")" | "(" or ")"
    arguments  := [argument ("," argument)*]
    argument   := [name "="] (number | number unit | reference)

It is not Python's grammar and is not read by Python: nothing in it can run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import ValidationError

from stagegraph.errors import did_you_mean
from stagegraph.progress import UNIT_WORDS, Duration, parse_number
from stagegraph.schema.amounts import bounded, in_reach
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import EXPRESSION_CALLS, Arithmetic, NameExpr, Negative
from stagegraph.schema.guards import (
    GUARD_CALLS,
    MAX_TREE_DEPTH,
    All,
    Any_,
    Compare,
    Not,
    tree_depth,
)
from stagegraph.schema.names import GRAMMAR_WORDS

__all__ = ["GuardTextError", "format_guard", "parse_expression", "parse_guard"]

MAX_LENGTH = 2000
MAX_DEPTH = MAX_TREE_DEPTH

Node = Model | float
T = TypeVar("T")
N = TypeVar("N", bound=Node)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:%|[kMBT](?![A-Za-z0-9_]))?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*(?:[.:][A-Za-z][A-Za-z0-9_]*)*)"
    r"|(?P<mark><=|>=|==|!=|[-+*/(),=<>])"
    r"|(?P<end>\Z))",
    re.ASCII,
)
_SPACE = " \t\n\r\f\v"
"""What the lexer skips: ``\\s`` of ASCII."""

_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
_CALLS = {**GUARD_CALLS, **EXPRESSION_CALLS}
_GUARDS: tuple[type[Model], ...] = (Compare, All, Any_, Not, *GUARD_CALLS.values())


class GuardTextError(ValueError):
    """A guard string that cannot be read; the message begins with the column, from 1."""

    def __init__(self, column: int, message: str) -> None:
        self.column = column
        super().__init__(f"column {column}: {message}")


class Token(NamedTuple):
    kind: str
    text: str
    column: int


def parse_guard(text: str) -> Model:
    """Read a guard string as a guard tree.

    >>> parse_guard("not val_loss < 0.5").of.op
    '<'

    Raises:
        GuardTextError: With the column, what was found, and what was meant.
    """
    parser = _Parser(text)
    column = parser.token.column
    return parser.finish(_as_guard(parser.disjunction(), column))


def parse_expression(text: str) -> Node:
    """Read an expression string as an expression tree.

    Raises:
        GuardTextError: As :func:`parse_guard`.
    """
    parser = _Parser(text)
    column = parser.token.column
    return parser.finish(_as_number(parser.sum(), column))


def _tokens(text: str) -> list[Token]:
    if len(text) > MAX_LENGTH:
        raise GuardTextError(
            MAX_LENGTH, f"a guard string has at most {MAX_LENGTH} characters, this has {len(text)}"
        )
    tokens: list[Token] = []
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            column = at + len(text[at:]) - len(text[at:].lstrip(_SPACE)) + 1
            raise GuardTextError(
                column,
                f"unexpected {text[column - 1]!r}; a guard has numbers, names, calls, parentheses, "
                "comparisons, + - * /, and, or, not",
            )
        kind = match.lastgroup or "end"
        tokens.append(Token(kind, match[kind], match.start(kind) + 1))
        if kind == "end":
            return tokens
        at = match.end()


class _Parser:
    """A cursor over tokens, with one method per level of precedence."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._at]

    def finish(self, tree: N) -> N:
        if self.token.kind != "end":
            raise GuardTextError(
                self.token.column,
                f"unexpected {self.token.text!r} after a complete condition; join two conditions "
                "with 'and' or 'or'",
            )
        if tree_depth(tree) > MAX_DEPTH:
            raise GuardTextError(1, f"nested deeper than {MAX_DEPTH}")
        return tree

    def disjunction(self) -> Node:
        return self._joined("or", Any_, "any", self._conjunction)

    def _conjunction(self) -> Node:
        return self._joined("and", All, "all", self._negation)

    def _joined(self, word: str, model: type[Model], tag: str, part: Callable[[], Node]) -> Node:
        column = self.token.column
        first = part()
        if not self._take(word):
            return first
        parts = [_as_guard(first, column)]
        while True:
            column = self.token.column
            parts.append(_as_guard(part(), column))
            if not self._take(word):
                return model.model_validate({"type": tag, "of": tuple(parts)})

    def _negation(self) -> Node:
        column = self.token.column
        if not self._take("not"):
            return self._comparison()
        with_not = self._deeper(column, self._negation)
        return Not(type="not", of=cast(Any, _as_guard(with_not, column)))

    def _comparison(self) -> Node:
        column = self.token.column
        left = self.sum()
        parts: list[Model] = []
        while self.token.kind == "mark" and self.token.text in _COMPARISONS:
            op = self._advance().text
            left_number = _as_number(left, column)
            column = self.token.column
            right = _as_number(self.sum(), column)
            parts.append(
                Compare.model_validate(
                    {"type": "compare", "left": left_number, "op": op, "right": right}
                )
            )
            left = right
        if not parts:
            return left
        return parts[0] if len(parts) == 1 else All(type="all", of=cast(Any, tuple(parts)))

    def sum(self) -> Node:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._chain(("*", "/"), self._unary)

    def _chain(self, ops: tuple[str, ...], part: Callable[[], Node]) -> Node:
        column = self.token.column
        left = part()
        length = 0
        while self.token.kind == "mark" and self.token.text in ops:
            length += 1
            if length > MAX_DEPTH:
                raise GuardTextError(column, f"more than {MAX_DEPTH} terms in a row")
            op = self._advance().text
            left_number = _as_number(left, column)
            column = self.token.column
            right = _as_number(part(), column)
            left = Arithmetic.model_validate(
                {"type": "arithmetic", "op": op, "left": left_number, "right": right}
            )
        return left

    def _unary(self) -> Node:
        token = self.token
        if token.kind == "mark" and token.text == "-":
            self._advance()
            if self.token.kind == "number":
                return -self._number()
            inner = _as_number(self._deeper(token.column, self._unary), token.column)
            return Negative(type="negative", of=cast(Any, inner))
        if token.kind == "mark" and token.text == "(":
            self._advance()
            inner_node = self._deeper(token.column, self.disjunction)
            self._expect(")", f"the parenthesis opened at column {token.column} is not closed")
            return inner_node
        if token.kind == "number":
            return self._number()
        if token.kind == "name" and token.text not in GRAMMAR_WORDS:
            return self._name()
        found = repr(token.text) if token.text else "the end"
        raise GuardTextError(
            token.column, f"a number, a name, a call or a parenthesis was expected, got {found}"
        )

    def _number(self) -> float:
        token = self._advance()
        try:
            number = in_reach(float(parse_number(token.text)))
        except ValueError as error:
            raise GuardTextError(token.column, str(error)) from error
        if self.token.kind == "name" and self.token.text in UNIT_WORDS:
            raise GuardTextError(
                token.column,
                f"'{token.text} {self.token.text}' is an amount; amounts are arguments, as in "
                f"elapsed({token.text} {self.token.text}); compare 'step' with a bare number",
            )
        return number

    def _name(self) -> Node:
        token = self._advance()
        if self.token.text == "(":
            return self._call(token)
        if ":" in token.text or "." in token.text:
            raise GuardTextError(
                token.column,
                f"the reference {token.text!r} stands alone; ask with in({token.text}) or "
                f"visits({token.text})",
            )
        if token.text in GUARD_CALLS:
            raise GuardTextError(token.column, f"write {token.text}(...) with parentheses")
        try:
            return NameExpr(type="name", name=token.text)
        except ValidationError as error:
            raise GuardTextError(token.column, _first_message(error)) from error

    def _call(self, name: Token) -> Node:
        model = _CALLS.get(name.text)
        if model is None:
            raise GuardTextError(
                name.column, f"unknown call {name.text!r}{did_you_mean(name.text, _CALLS)}"
            )
        opened = self._advance()
        fields = [field for field in model.model_fields if field not in ("type", "note")]
        given: dict[str, Any] = {}
        while not self._take(")"):
            if given:
                self._expect(
                    ",", f"a comma or the parenthesis that closes column {opened.column} is missing"
                )
            column = self.token.column
            key, value = self._argument(name.text, model, fields, len(given))
            if key in given:
                raise GuardTextError(column, f"{key!r} is given twice")
            given[key] = value
        tag = model.model_fields["type"].annotation
        try:
            return model.model_validate({"type": tag.__args__[0], **given})  # type: ignore[union-attr]
        except ValidationError as error:
            raise GuardTextError(name.column, f"{name.text}: {_first_message(error)}") from error

    def _argument(
        self, call: str, model: type[Model], fields: list[str], position: int
    ) -> tuple[str, Any]:
        token = self.token
        if token.kind == "name" and self._tokens[self._at + 1].text == "=":
            self._at += 2
            if token.text not in fields:
                raise GuardTextError(
                    token.column,
                    f"{call} takes no argument {token.text!r}{did_you_mean(token.text, fields)}",
                )
            return token.text, self._value()
        if position >= len(model.positional):
            takes = ", ".join(f"{field}=" for field in fields[len(model.positional) :])
            raise GuardTextError(
                token.column,
                f"{call} takes {len(model.positional)} argument(s) without a keyword"
                + (f"; the others are {takes}" if takes else ""),
            )
        return model.positional[position], self._value()

    def _value(self) -> Any:
        token = self.token
        if token.kind == "name":
            return self._advance().text
        if token.kind != "number":
            found = repr(token.text) if token.text else "the end"
            raise GuardTextError(
                token.column, f"an argument is a number, an amount or a name, got {found}"
            )
        self._advance()
        unit = self.token
        try:
            if unit.kind != "name":
                return parse_number(token.text)
            self._advance()
            return Duration.parse(f"{token.text} {unit.text}")
        except ValueError as error:
            raise GuardTextError(token.column, str(error)) from error

    def _deeper(self, column: int, part: Callable[[], T]) -> T:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GuardTextError(column, f"nested deeper than {MAX_DEPTH}")
        node = part()
        self._depth -= 1
        return node

    def _advance(self) -> Token:
        token = self.token
        if token.kind != "end":
            self._at += 1
        return token

    def _take(self, text: str) -> bool:
        if self.token.kind == "end" or self.token.text != text:
            return False
        self._at += 1
        return True

    def _expect(self, text: str, otherwise: str) -> None:
        if not self._take(text):
            raise GuardTextError(self.token.column, otherwise)


def _as_guard(node: Node, column: int) -> Model:
    if isinstance(node, _GUARDS):
        return node
    shown = format_guard(node)
    raise GuardTextError(column, f"{shown} is a number, not a condition; compare it with something")


def _as_number(node: Node, column: int) -> Node:
    if not isinstance(node, _GUARDS):
        return node
    raise GuardTextError(
        column, f"{format_guard(node)} is a condition, not a number; it cannot be computed with"
    )


def _first_message(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"the argument {place!r} is missing"
    message = _out_of_bounds(first) or first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


_BOUNDS = {
    "greater_than": ("over", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("under", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _out_of_bounds(error: Mapping[str, Any]) -> str | None:
    """What bounds a number that lies outside of them; ``None`` for other errors."""
    relation, key = _BOUNDS.get(error["type"], ("", ""))
    if not key:
        return None
    return f"it is {bounded(relation, error['ctx'][key])}, got {error['input']:g}"


_LEVELS = {"any": 1, "all": 2, "not": 3, "compare": 4}
_PRODUCT = 6


def format_guard(node: Node) -> str:
    """Write a guard or expression tree as the string that reads back as the same tree."""
    return _format(node, 0)


def _format(node: Node, level: int) -> str:
    text, own = _spell(node)
    return f"({text})" if own < level else text


def _spell(node: Node) -> tuple[str, int]:
    match node:
        case All() | Any_():
            word, own = (" and ", 2) if isinstance(node, All) else (" or ", 1)
            return word.join(_format(part, own + 1) for part in node.of), own
        case Not():
            return f"not {_format(node.of, 3)}", 3
        case Compare():
            return f"{_format(node.left, 5)} {node.op} {_format(node.right, 5)}", 4
        case Arithmetic():
            own = 5 if node.op in "+-" else _PRODUCT
            return f"{_format(node.left, own)} {node.op} {_format(node.right, own + 1)}", own
        case Negative():
            inner = _format(node.of, 8)
            return f"-({inner})" if inner[0].isdigit() else f"-{inner}", 7
        case NameExpr():
            return node.name, 9
        case Model():
            return _spell_call(node), 9
        case _:
            return _spell_number(node), (7 if node < 0 else 9)


def _spell_call(node: Model) -> str:
    name = getattr(node, "type")  # noqa: B009 - every callable model has it, Model does not
    parts = [_spell_value(getattr(node, field)) for field in node.positional]
    for field, info in type(node).model_fields.items():
        value = getattr(node, field)
        if field != "type" and field not in node.positional and value != info.default:
            parts.append(f"{field}={_spell_value(value)}")
    return f"{name}({', '.join(parts)})"


def _spell_value(value: Any) -> str:
    return _spell_number(value) if isinstance(value, int | float) else str(value)


def _spell_number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
