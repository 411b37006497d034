"""Spoiling: right inputs with something wrong in them, and inputs that never were right."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.targets import Target

__all__ = ["inputs"]

_PIECES = (
    *(
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ":",
        ",",
        "-",
        "- ",
        "? ",
        "| ",
        "> ",
        "&a ",
        "*a ",
        "!!python/",
    ),
    *("<<: ", "#", "'", '"', "\\", "\\u0000", "\n", "\n  ", "\t", "\r", "\0", "\ufeff", "\x1b[31m"),
    *(
        "%",
        "---\n",
        "...\n",
        "null",
        "true",
        "~",
        "0x1",
        "1e999",
        ".nan",
        ".inf",
        "1_000",
        "9" * 400,
    ),
    *(
        "-1",
        "0",
        "1e308",
        "\ud7ff",
        "\udc80",
        "8" * 32,
        "\u2028",
        "é",
        "<b>",
        "../../x",
        "not ",
        " and ",
        " or ",
        "<",
        "==",
    ),
    *(
        "__import__('os')",
        "plateau(",
        "grown",
        "stop",
        "back",
        "steps",
        "1 step",
        "0 steps",
        "kind: ",
    ),
    *("when: ", "type: ", "stages: ", "next: ", "target: ", "actions: ", "regions: ", "use: "),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), 1e-320),
    *(
        float("inf"),
        "",
        "x",
        "1/0",
        "1e999999999",
        "9" * 5000,
        "7/3",
        "\0",
        "<script>",
        [],
        [[]],
        {},
    ),
    *([0] * 50, {"": 0}, [1, 2], {"type": "plateau"}, "main:train", "main:grow", ["main:done", 1]),
)

text_pieces = st.sampled_from(_PIECES)
values = st.sampled_from(_VALUES).map(copy.deepcopy)


@st.composite
def spoilt_text(draw: Any, seeds: tuple[str, ...]) -> str:
    """A right text, cut, doubled, and with pieces put in."""
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = min(len(text), at + draw(st.integers(0, 40)))
        match draw(st.integers(0, 4)):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:at] + draw(text_pieces) + text[at:]
            case 2:
                text = text[:at] + text[at:to] * draw(st.integers(2, 6)) + text[to:]
            case 3:
                text = text[:at] + draw(st.text(max_size=3)) + text[to:]
            case _:
                other = draw(st.sampled_from(seeds))
                text = text[:at] + other[at:to] + text[to:]
    return text


@st.composite
def spoilt_data(draw: Any, seeds: tuple[Any, ...]) -> Any:
    """Right JSON data with some values in it replaced, left out, or moved."""
    data = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        data = _spoil(draw, data)
    return data


def _spoil(draw: Any, data: Any) -> Any:
    """One change at a place that is walked to from the root."""
    at = data
    while isinstance(at, dict | list) and at:
        keys: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        below = at[key]
        if isinstance(below, dict | list) and below and draw(st.integers(0, 9)):
            at = below
            continue
        match draw(st.integers(0, 5)):
            case 0:
                del at[key]
            case 1 if isinstance(at, dict):
                at[draw(st.sampled_from([*keys, "x", ""]))] = copy.deepcopy(below)
            case 2 if isinstance(at, list):
                at.append(copy.deepcopy(below))
            case 3:
                at[key] = _number_near(draw, below)
            case _:
                at[key] = draw(values)
        return data
    return draw(values)


def _number_near(draw: Any, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return draw(values)
    return value + draw(st.sampled_from([-1, 1, -1000, 1000, 0.5]))


def inputs(target: Target) -> st.SearchStrategy[Any]:
    """What a target is given: mostly right inputs spoilt, sometimes anything."""
    seeds = target.seeds
    anything = st.text(max_size=60) | st.lists(text_pieces, max_size=12).map("".join)
    match target.kind:
        case "text":
            return spoilt_text(seeds) | spoilt_text(seeds) | anything
        case "json":
            tree = st.recursive(
                values,
                lambda inner: (
                    st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=5), inner, max_size=4)
                ),
                max_leaves=8,
            )
            return spoilt_data(seeds) | spoilt_data(seeds) | spoilt_data(seeds) | tree
        case "bytes":
            texts = tuple(seed.decode(errors="surrogateescape") for seed in seeds)
            lines = st.sampled_from(seeds).flatmap(_spoilt_lines)
            return spoilt_text(texts).map(_encoded) | lines | st.binary(max_size=60)


def _encoded(text: str) -> bytes:
    """Bytes that were no text come back as they were; other halves of characters stay halves."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


@st.composite
def _spoilt_lines(draw: Any, content: bytes) -> bytes:
    """JSON lines with the data in one of them spoilt; what is no JSON stays as it is."""
    lines = content.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    try:
        record = json.loads(lines[at])
    except ValueError:
        return content
    lines[at] = json.dumps(_spoil(draw, record)).encode()
    return b"\n".join(lines) + b"\n"
