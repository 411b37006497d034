"""Webpage: what our HTML pages share. One file, nothing fetched, nothing that runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stagegraph.drawing.lettering import MONO, SANS
from stagegraph.drawing.markup import Content, Markup, element, joined

__all__ = ["cards", "figure", "folded", "section", "table", "webpage"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = (
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5a6575;--rule:#dde2e9;"
    "--wash:#f7f8fa;--good:#0e7048;--bad:#a92434;--link:#1f5c99}"
    "@media (prefers-color-scheme:dark){:root{--paper:#12161c;--ink:#e6eaf0;--soft:#a3aebc;"
    "--rule:#2c343f;--wash:#181d25;--good:#6fd9ac;--bad:#f39aa4;--link:#8fc1f2}}"
    f"body{{margin:0;background:var(--paper);color:var(--ink);font:14px/1.5 {SANS}}}"
    "main{max-width:1240px;margin:0 auto;padding:28px 28px 60px}"
    "h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}"
    "h2{font-size:18px;margin:38px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--rule)}"
    ".soft{color:var(--soft)}"
    ".badge{display:inline-block;padding:2px 10px;border-radius:11px;font-size:12px;"
    "font-weight:700;border:1px solid currentColor;vertical-align:4px;margin-left:10px}"
    ".good{color:var(--good)}.bad{color:var(--bad)}.link{color:var(--link)}"
    ".cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0 0;padding:0}"
    ".cards>div{background:var(--wash);border:1px solid var(--rule);border-radius:8px;"
    "padding:10px 16px;min-width:120px;max-width:340px}"
    ".cards dt{font-size:12px;color:var(--soft)}"
    ".cards dd{margin:0;font-size:18px;font-weight:700;overflow-wrap:anywhere}"
    ".cards dd small{font-size:12px;font-weight:400;color:var(--soft)}"
    "figure{margin:0;overflow-x:auto;border:1px solid var(--rule);border-radius:8px}"
    "figure svg{display:block;margin:0 auto;max-width:none}"
    ".fit svg{width:100%;height:auto;min-width:760px}"
    ".wide{overflow-x:auto}"
    "table{border-collapse:collapse;width:100%;font-size:13px}"
    "th{text-align:left;color:var(--soft);font-weight:600;padding:6px 10px;"
    "border-bottom:1px solid var(--rule);white-space:nowrap}"
    "td{padding:7px 10px;border-bottom:1px solid var(--rule);vertical-align:top;"
    "overflow-wrap:anywhere;min-width:88px}"
    "td.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}"
    "tr.undone td{color:var(--soft)}"
    f"code{{font-family:{MONO};font-size:12px;overflow-wrap:anywhere}}"
    "details>summary{cursor:pointer}"
    "details ul{margin:4px 0 0;padding-left:18px;list-style:none}"
    ".mark{font-weight:700}.mark.true{color:var(--good)}.mark.false{color:var(--bad)}"
    ".sees{display:inline-block;margin:1px 0 1px 8px;padding:0 7px;border-radius:9px;"
    "background:var(--wash);border:1px solid var(--rule);font-size:12px;color:var(--soft)}"
    "@media print{figure{overflow:visible}}"
)


def webpage(title: str, parts: Iterable[Content]) -> str:
    """A whole page."""
    head = element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element(
            "meta",
            attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"},
        ),
        element("meta", attributes={"name": "referrer", "content": "no-referrer"}),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    body = element("body", element("main", joined(parts, "\n")))
    whole = element("html", head, body, attributes={"lang": "en"})
    return f"<!DOCTYPE html>\n{whole}\n"


def section(title: str, *parts: Content) -> Markup:
    """A part of the page under its title."""
    return element("section", element("h2", title), *parts)


def figure(svg: str, *, fit: bool = False) -> Markup:
    """A picture of ours; ``fit``: as wide as the page."""
    classes = {"class": "fit"} if fit else {}
    return element("figure", Markup(svg), attributes={**classes})


def cards(entries: Iterable[tuple[str, str, str]]) -> Markup:
    """Facts at a glance: name, value, and a remark."""
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", value, element("small", f" {remark}") if remark else None),
            )
            for name, value, remark in entries
        ),
        attributes={"class": "cards"},
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Content]], *, undone: Iterable[int] = ()
) -> Markup:
    """A table; cells that begin with a digit stand right. Rows in ``undone`` stand back."""
    pale = set(undone)
    top = element("tr", *(element("th", head) for head in heads))
    body = [
        element(
            "tr",
            *(_cell(cell) for cell in row),
            attributes={"class": "undone" if index in pale else None},
        )
        for index, row in enumerate(rows)
    ]
    whole = element("table", element("thead", top), element("tbody", *body))
    return element("div", whole, attributes={"class": "wide"})


def _cell(cell: Content) -> Markup:
    plain = cell is not None and not isinstance(cell, Markup)
    numeric = plain and str(cell)[:1].isdigit() and len(str(cell)) < 16
    return element("td", cell or "", attributes={"class": "number" if numeric else None})


def folded(summary: Content, *inside: Content) -> Markup:
    """Something that opens when asked."""
    return element("details", element("summary", summary), *inside)
