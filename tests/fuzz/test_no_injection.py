"""Text of a user stays text: no markup comes of it in a page, no command in a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.cli.main import main
from stagegraph.drawing.terminal import status_line, summary
from tests.drawing.graphs import journal

MARK = "zqx"
"""No picture has it by itself."""

_BREAKS = (
    *("<", ">", '"', "'", "&", "&lt;", "</script>", "</style>", "</title>", "</svg>", "]]>", "-->"),
    *("<![CDATA[", "<!--", "\\", "`", "\x00", "\x1b[31m", "\x9b2J", "\x1b]8;;http://x\x07", "\x7f"),
    *("\u202e", "\u2028", "\r", "\n", "\t", "{{", "${", "%%", "javascript:", "\x08", "%", ";"),
)
hostile = st.lists(
    st.sampled_from(_BREAKS)
    | st.just(f"<{MARK} on{MARK}={MARK}>")
    | st.just(f'" on{MARK}="{MARK}')
    | st.just(f"' on{MARK}='{MARK}")
    | st.just(f"\x1b[{MARK}m"),
    min_size=1,
    max_size=6,
).map(lambda parts: "".join(["x", *parts])[:190])

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def document(text: str) -> dict[str, Any]:
    """A graph with the text wherever free text may stand."""
    return {
        "stagegraph": 1,
        "name": text,
        "note": text,
        "$schema": text,
        "metrics": {"loss": {"goal": "minimize", "source": [text], "note": text}},
        "waive": {"no-progress-exit": text + "..."},
        "budget": {"steps": 500},
        "initial": "a",
        "stages": {
            "a": {
                "kind": "train",
                "note": text,
                "during": [{"type": "freeze", "of": text}],
                "transitions": [{"target": "b", "when": "loss < 1"}],
            },
            "b": {"kind": "final"},
        },
    }


class Seen(HTMLParser):
    """What a browser would make of a page: elements and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.found += [name for name, _ in attrs]
        self.found += [
            f"{name}={value}"
            for name, value in attrs
            if name in ("href", "src") and value and not value.startswith("#")
        ]

    handle_startendtag = handle_starttag

    def handle_decl(self, decl: str) -> None:
        self.found.append(decl)

    def handle_comment(self, data: str) -> None:
        self.found.append(data)


def no_markup(page: str) -> None:
    assert f"<{MARK}" not in page
    seen = Seen()
    seen.feed(page)
    assert not [part for part in seen.found if MARK in part or "javascript" in part]
    assert not [part for part in seen.found if part.startswith("on")]


def no_command(text: str) -> None:
    assert CONTROL.search(text) is None


def spoilt_records(text: str) -> list[dict[str, Any]]:
    """A journal of every type of record, the text in place of each text but the types."""
    return [_spoilt(record, text) for record in journal("grow-on-plateau")] + [
        {"type": "missing", "step": 1, "boundary": 1, "name": text, "asked": text, "edges": [text]},
        {"type": "clock", "step": 1, "boundary": 1, "seconds": text, "usual": 1, "updates": text},
        {"type": text, "step": 1, "boundary": 1, text: {text: [text]}},
    ]


def _spoilt(value: Any, text: str) -> Any:
    match value:
        case dict():
            return {
                key: inner if key in ("type", "progress") else _spoilt(inner, text)
                for key, inner in value.items()
            }
        case list():
            return [_spoilt(inner, text) for inner in value]
        case str():
            return text
    return value


some = settings(max_examples=25, deadline=None)


@some
@given(text=hostile)
def test_text_of_a_document_is_text_in_every_picture(text):
    graph = sg.load(document(text))
    findings = sg.check(graph)
    page = sg.render(graph, "html", findings=findings)
    no_markup(page)
    svg = sg.render(graph, "svg")
    no_markup(svg)
    ET.fromstring(svg)  # it is well-formed, whatever the text
    outline = sg.render(graph, "text")
    no_command(outline.replace("\n", ""))
    for kind in ("mermaid", "dot"):
        no_command(sg.render(graph, kind).replace("\n", "").replace("\t", ""))


@some
@given(text=hostile)
def test_text_of_a_journal_is_text_in_report_and_terminal(text):
    graph = sg.load(document(text))
    records = spoilt_records(text)
    no_markup(sg.render(graph, "html", records=records))
    svg = sg.render(graph, "svg", records=records)
    no_markup(svg)
    ET.fromstring(svg)
    no_command(summary(records, graph=graph).replace("\n", ""))
    status = {"stages": {text: text}, "metrics": {text: text}, "waits": [text], "lr": [text]}
    no_command(status_line(status, width=200))


@some
@given(text=hostile)
def test_commands_write_no_command_to_the_terminal(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    path = folder / "g.json"
    path.write_text(json.dumps(document(text)), encoding="utf-8")
    broken = folder / "broken.json"
    broken.write_text(
        json.dumps({**document(text), text: text, "initial": text, "events": [text]}),
        encoding="utf-8",
    )
    for arguments in (
        ["validate", str(path)],
        ["validate", str(broken)],
        ["validate", text],
        ["diff", str(path), str(broken)],
        ["simulate", str(path), "--formula", "loss = 3"],
        ["simulate", str(path), "--formula", text],
        ["render", str(path), "-o", text],
    ):
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.suppress(SystemExit),
            contextlib.chdir(folder),
        ):
            main(arguments)
        no_command((out.getvalue() + err.getvalue()).replace("\n", ""))


@some
@given(text=hostile)
def test_errors_quote_nothing_that_a_terminal_obeys(text):
    for data in (
        {**document("x"), "initial": text},
        {**document("x"), text: 1},
        {**document("x"), "events": [text]},
        {**document("x"), "stages": {text: {"kind": text}}},
        {**document("x"), "metrics": {"loss": {"goal": text}}},
    ):
        with pytest.raises(sg.DocumentError) as refused:
            sg.load(data)
        no_command(str(refused.value).replace("\n", ""))
    engine = sg.Engine(sg.load(document("x")))
    for call in (lambda: engine.step(**{text: 1.0}), lambda: engine.send(text)):
        with pytest.raises(sg.StageGraphError) as wrong:
            call()
        no_command(str(wrong.value))
