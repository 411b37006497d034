"""The report: complete, friendly to unfinished runs, and deaf to what is in the records."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.drawing.certificates import read_certificate
from stagegraph.drawing.render import render
from stagegraph.drawing.report import report_html
from stagegraph.drawing.timeline import timeline_svg
from stagegraph.graph.findings import Finding
from stagegraph.schema.load import load
from tests.drawing.geometry import ET
from tests.drawing.graphs import document, journal
from tests.drawing.test_history import wild_records

GRAPH = document("grow-on-plateau")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "span", "small"),
    *("section", "figure", "dl", "dt", "dd", "div", "table", "thead", "tbody", "tr", "th", "td"),
    *("code", "details", "summary", "ul", "li"),
    *("svg", "g", "rect", "circle", "path", "polygon", "text", "desc"),
}
ATTRIBUTES = {
    *("charset", "http-equiv", "content", "name", "lang", "class", "title", "style"),
    *("xmlns", "viewbox", "width", "height", "role", "aria-label", "x", "y", "rx", "cx", "cy"),
    *("r", "d", "points", "transform", "text-anchor", "stroke-width", "stroke-linecap"),
    *("data-key", "data-label", "data-edge", "data-box", "data-stage"),
}


class Reader(HTMLParser):
    """Collects what tags, attributes and text a page has, and that they are balanced."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = set(), set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def words(page):
    return " ".join(Reader(page).words)


def test_a_run_is_told_whole():
    text = words(report_html(GRAPH, journal("grow-on-plateau")))
    for part in (
        "grow-on-plateau", "ended: final", "13,800", "1,300", "1.2M → 1.99M", "best 1.341",
        "The way taken", "train → grow → warmup", "affordable(main:grow)", "left = 1800000",
        "undone by a roll-back", "main:grow#3", "1,596,800 → 1,993,600", "blocks.4, blocks.5",
        "back to step 6600", "out of memory while preparing blocks.6", "at_most 3 is used up",
        "cannot tell", "checkpoint_now",
    ):  # fmt: skip
        assert part in text, part


def test_a_run_that_goes_on_is_no_trouble():
    text = words(report_html(GRAPH, journal("grow-on-plateau-running")))
    assert "unfinished" in text and "stages now" in text and "main:settle" in text


def test_a_run_that_has_not_begun_is_no_trouble():
    text = words(report_html(GRAPH, []))
    assert "not started" in text and "No region has moved yet." in text


def test_records_of_unknown_types_are_listed_as_they_are():
    page = report_html(GRAPH, [{"type": "vendor:thing", "step": 3, "x": [1, 2]}])
    assert '{"type": "vendor:thing", "step": 3, "x": [1, 2]}' in words(page)


@pytest.mark.parametrize(
    ("certificate", "told"),
    [
        (
            {"kind": "add_head", "heads": "heads", "head": "turned", "like": "upright"},
            "heads: turned, like upright",
        ),
        ({"kind": "add_head", "heads": "heads", "head": "new", "like": None}, "heads: new"),
        ({"kind": "attach", "attached": {"blocks.0": "blocks.0.side"}}, "blocks.0: blocks.0.side"),
        ({"kind": "extend_context"}, "extend_context"),
    ],
)
def test_each_growth_says_what_it_added(certificate, told):
    assert read_certificate(certificate).blocks == told


def test_a_head_that_nobody_uses_yet_is_not_said_to_have_run():
    found = read_certificate({"head": "new", "executed": True, "gradient": {"reached": 0, "of": 2}})
    assert found.checks == ("not in use yet",)


def test_a_certificate_measured_on_a_model_is_read():
    certificate = {
        "stack": "blocks", "blocks": {"before": 2, "after": 4}, "inserted": [{"at": 2}, {"at": 3}],
        "change": {"eval": 0.0, "train": 1e-7, "alpha_1": 2e-7}, "exactness": "exact",
        "executed": True, "gradient": {"reached": 9, "of": 12}, "params": {"before": 5, "after": 8},
        "tolerance": 0.5, "memory": {"new_bytes": 2048, "peak_bytes": None, "how": "x"},
        "rehearsal": {"loss": 1.0, "peak_bytes": 3 * 2**30},
    }  # fmt: skip
    text = words(report_html(GRAPH, [{"type": "growth", "step": 3, "certificate": certificate}]))
    for part in (
        "5 → 8", "eval 0, train 1e-07, α at 1 2e-07", "blocks: 2 → 4 blocks, new at 2, 3",
        "ran: yes, gradient reached 9 of 12 parameters, tolerance 0.5",
        "2 KiB new, an update was tried, 3 GiB at its peak",
    ):  # fmt: skip
        assert part in text, part


def test_findings_are_listed():
    finding = Finding("no-monitor", "warning", "nobody looks", "look", "/stages", "a.yaml", 3)
    text = words(report_html(GRAPH, [], findings=[finding]))
    assert "no-monitor" in text and "nobody looks" in text and "a.yaml:3" in text


@pytest.mark.parametrize("records", [(), journal("grow-on-plateau")], ids=["graph", "run"])
def test_nothing_is_fetched_and_nothing_runs(records):
    page = render(GRAPH, "html", records=records)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in (
        page.replace("&#x27;", "'")
    )
    reader = Reader(page)
    assert reader.open == []
    assert reader.tags <= TAGS
    assert reader.attributes <= ATTRIBUTES
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_html_of_a_graph_has_every_way_in_full():
    text = words(render(GRAPH, "html"))
    assert "when plateau(val_loss, worth=0.005, over=1000 steps) and affordable(grow)" in text


def spoiled(value, text):
    """A record with every text in it, keys too, made harmful."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [spoiled(item, text) for item in value]
    if isinstance(value, dict):
        return {key + text: spoiled(item, text) for key, item in value.items()}
    return value


def spoil_record(record, text, *, kinds):
    kept = {"type": record["type"]} if kinds else {"type": record["type"] + text}
    return kept | {k: spoiled(v, text) for k, v in record.items() if k != "type"}


RECORDS = journal("grow-on-plateau")
MARK = "<zq"
EVIL = st.text(st.sampled_from("<>&\"'/=;`#%-! \n\r\t\x00\x1b\u2028\u202e]zq"), max_size=12).map(
    lambda text: f"{MARK} onload='x'{text}{MARK}>]]>--></style></title></script>"
)
FIRST = list({record["type"]: record for record in RECORDS}.values())


@settings(max_examples=60)
@given(EVIL, st.booleans())
def test_no_mark_of_a_record_reaches_the_page(text, kinds):
    records = [spoil_record(record, text, kinds=kinds) for record in FIRST]
    for page in (report_html(GRAPH, records), timeline_svg(GRAPH, records)):
        assert MARK not in page
        reader = Reader(page)
        assert reader.tags <= TAGS
        assert reader.attributes <= ATTRIBUTES
    ET.fromstring(timeline_svg(GRAPH, records))


@settings(max_examples=40)
@given(EVIL)
def test_no_mark_of_a_document_reaches_the_page(text):
    clean = "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)
    graph = load(
        {
            "stagegraph": 1,
            "name": clean[:200],
            "note": clean,
            "initial": "grow",
            "stages": {
                "grow": {
                    "kind": "grow",
                    "note": clean,
                    "actions": [{"type": "deepen", "stack": clean[:256], "add": 1}],
                    "next": "warmup",
                },
                "warmup": {
                    "kind": "warmup",
                    "during": [
                        {"type": "alpha_ramp", "of": "grown", "over": "5 steps"},
                        {"type": "lr_factor", "of": clean[:256], "factor": 0.5},
                    ],
                    "next": "done",
                },
                "done": {"kind": "final"},
            },
        }
    )
    for page in (render(graph, "svg"), render(graph, "html"), report_html(graph, [])):
        assert MARK not in page
        assert Reader(page).tags <= TAGS
    ET.fromstring(render(graph, "svg"))
    assert MARK not in render(graph, "mermaid")


def that_any_records_make_a_page(records):
    Reader(report_html(GRAPH, records))


@settings(max_examples=20)
@given(wild_records())
def test_any_records_make_a_page(records):
    that_any_records_make_a_page(records)


@pytest.mark.slow
@settings(max_examples=800)
@given(wild_records())
def test_any_records_make_a_page_many(records):
    that_any_records_make_a_page(records)
