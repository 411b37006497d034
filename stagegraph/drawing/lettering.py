"""How wide text is, approximately, and how it is broken into lines."""

from __future__ import annotations

from stagegraph.drawing.clean import cells, clip

__all__ = ["MONO", "SANS", "mono_width", "sans_width", "wrap"]

SANS = "'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif"
"""Faces with the same metrics as far as possible, so that the estimate holds."""
MONO = "'SF Mono',Menlo,Consolas,'Liberation Mono','DejaVu Sans Mono',monospace"

_WIDTHS = {
    0.24: "ijl'|",
    0.30: " !,./:;I[]\\ft·",
    0.36: '()-`r{}"',
    0.42: "*^",
    0.53: "Jcksvxyz",
    0.58: "0123456789abdeghnopqu?_L$#",
    0.61: "+<=>~−×≤≥≠±",
    0.65: "FTZ",
    0.70: "ABEKPSVXY&",
    0.75: "CDHNRUw",
    0.81: "GOQ",
    0.87: "Mm",
    0.95: "W%",
    1.05: "@→←…—",
}
_WIDER = 1.1
"""Where none of these faces is there, another stands in; DejaVu Sans is so much wider."""
_EM = {character: width for width, row in _WIDTHS.items() for character in row}


def sans_width(text: str, size: float, *, bold: bool = False) -> float:
    """The width of text in the proportional face, in the unit of ``size``; rather too wide."""
    ems = sum(_EM.get(character) or 0.62 * cells(character) for character in text)
    return ems * size * _WIDER * (1.07 if bold else 1.0)


def mono_width(text: str, size: float) -> float:
    """The width of text in the fixed face."""
    return 0.604 * cells(text) * size


def wrap(text: str, width: int, lines: int) -> tuple[str, ...]:
    """Break text into lines of at most ``width`` columns; the last ends in … if some is left.

    A line is broken before ``and`` and ``or`` where that leaves it half full.

    >>> wrap("plateau(val_loss) and left(steps) > 6k", 20, 3)
    ('plateau(val_loss)', 'and left(steps) > 6k')
    """
    out: list[str] = []
    rest = " ".join(text.split())
    while rest and len(out) < lines:
        if cells(rest) <= width:
            return (*out, rest)
        if len(out) == lines - 1:
            break
        cut = _cut(rest, width)
        out.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return (*out, clip(rest, width)) if rest else tuple(out)


def _cut(text: str, width: int) -> int:
    """Where to break: before a joining word if that is late enough, else at a space."""
    head = text[: width + 1]
    for word in (" and ", " or "):
        at = head.rfind(word)
        if at >= width * 0.4:
            return at
    for mark in (", ", " "):
        at = head.rfind(mark)
        if at >= width * 0.4:
            return at + len(mark) - 1
    return width
