"""Sheet: the style sheet of our SVG pictures, and the few shapes they share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from stagegraph.drawing.lettering import MONO, SANS
from stagegraph.drawing.markup import Content, Markup, element, joined
from stagegraph.drawing.palette import CURVES, KINDS, OTHER, kind_class

__all__ = ["group", "page", "rectangle", "style_sheet", "text"]

_LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2430",
    "soft": "#5a6575",
    "faint": "#8b95a3",
    "rule": "#dde2e9",
    "wash": "#f7f8fa",
    "way": "#5b6878",
}
_DARK = {
    "paper": "#12161c",
    "ink": "#e6eaf0",
    "soft": "#a3aebc",
    "faint": "#7a8594",
    "rule": "#2c343f",
    "wash": "#181d25",
    "way": "#93a0b1",
}


@cache
def style_sheet() -> Markup:
    """The rules, for light surroundings and, where the viewer asks for it, for dark ones."""
    light, dark = _rules(_LIGHT, dark=False), _rules(_DARK, dark=True)
    return Markup(f"{_FIXED}{light}@media (prefers-color-scheme:dark){{{dark}}}")


_FIXED = (
    f".sg text{{font-family:{SANS};font-size:11.5px}}"
    f".sg .mono{{font-family:{MONO};font-size:10.5px}}"
    ".sg .small{font-size:10.5px}"
    ".sg .tiny{font-size:9.5px}"
    ".sg .name{font-size:14px;font-weight:700}"
    ".sg .title{font-size:18px;font-weight:700}"
    ".sg .strong{font-weight:700}"
    ".sg .way,.sg .curve{fill:none;stroke-linejoin:round}"
    ".sg .way{stroke-width:1.5}"
    ".sg .taken{stroke-width:3.2}"
    ".sg .dashed{stroke-dasharray:6 4}"
    ".sg .dotted{stroke-dasharray:2 4;stroke-linecap:round}"
    ".sg .back{opacity:.42}"
    ".sg .box{stroke-width:1.6}"
    ".sg .seen .box{stroke-width:2.6}"
)


def _rules(colours: dict[str, str], *, dark: bool) -> str:
    paper, ink, soft = colours["paper"], colours["ink"], colours["soft"]
    rules = [
        f".sg .paper{{fill:{paper}}}",
        f".sg .wash{{fill:{colours['wash']};stroke:{colours['rule']}}}",
        f".sg .rule{{stroke:{colours['rule']};fill:none}}",
        f".sg .frame{{stroke:{colours['faint']};fill:none}}",
        f".sg text{{fill:{ink}}}",
        f".sg .soft{{fill:{soft}}}",
        f".sg .faint{{fill:{colours['faint']}}}",
        f".sg .way{{stroke:{colours['way']}}}",
        f".sg .tip{{fill:{colours['way']}}}",
        f".sg .dot{{fill:{ink};stroke:{ink}}}",
        f".sg .ring{{fill:none;stroke:{ink}}}",
        f".sg .chip{{fill:{paper};stroke:{colours['rule']}}}",
        f".sg .bare{{fill:{paper};stroke:none}}",
        f".sg .framed .bare{{fill:{colours['wash']}}}",
    ]
    for kind, colour in {**KINDS, "other": OTHER}.items():
        name = kind_class(kind)
        rules += [
            f".sg .{name} .box{{fill:{colour.dark if dark else colour.fill};stroke:{colour.line}}}",
            f".sg .{name} .bar,.sg .band.{name}{{fill:{colour.line}}}",
            f".sg .{name} .kind{{fill:{colour.pale if dark else colour.name}}}",
            f".sg .way.{name}{{stroke:{colour.line}}}",
            f".sg .tip.{name}{{fill:{colour.line}}}",
            f".sg .chip.{name}{{stroke:{colour.line}}}",
            f".sg text.{name}{{fill:{colour.pale if dark else colour.name}}}",
        ]
    for index, colour_of_curve in enumerate(CURVES):
        rules += [
            f".sg .c{index}{{stroke:{colour_of_curve}}}",
            f".sg .f{index}{{fill:{colour_of_curve}}}",
        ]
    return "".join(rules)


def text(
    content: str, x: float, y: float, classes: str = "", *, anchor: str | None = None
) -> Markup:
    """One line of text; ``y`` is its base line."""
    return element(
        "text",
        content,
        attributes={"x": x, "y": y, "class": classes or None, "text-anchor": anchor},
    )


def rectangle(
    x: float, y: float, width: float, height: float, classes: str, *, corner: float = 0.0
) -> Markup:
    """A rectangle, its corners rounded."""
    return element(
        "rect",
        attributes={
            "x": x,
            "y": y,
            "width": max(0.0, width),
            "height": max(0.0, height),
            "rx": corner or None,
            "class": classes,
        },
    )


def group(
    parts: Iterable[Content], classes: str = "", *, tooltip: str = "", **attributes: str
) -> Markup:
    """Several shapes as one, with what a pointer resting on it shows."""
    named = {key.replace("_", "-"): value for key, value in attributes.items()}
    return element(
        "g",
        element("title", tooltip) if tooltip else None,
        joined(parts),
        attributes={"class": classes or None, **named},
    )


def page(
    parts: Iterable[Content], width: float, height: float, *, title: str, description: str
) -> Markup:
    """A whole SVG: accessible name and description, style, paper, and what is on it."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        element("style", style_sheet()),
        rectangle(0, 0, width, height, "paper"),
        joined(parts),
        attributes={
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            "width": round(width),
            "height": round(height),
            "class": "sg",
            "role": "img",
            "aria-label": title,
        },
    )
