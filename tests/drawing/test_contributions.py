"""The bars of an attribution: which way, how long, named, the worst marked."""

import pytest

from stagegraph.drawing.contributions import LABELS, WIDTH, contributions_svg
from stagegraph.drawing.parts import attributed, pruned
from stagegraph.drawing.report import report_html
from stagegraph.drawing.terminal import moved
from tests.drawing.geometry import ET, SVG, read_sheet
from tests.drawing.graphs import document


def one(name, value, **more):
    return {"module": f"id-{name}", "name": name, "cohort": "tall", "contribution": value} | more


RECORD = {
    "type": "attribution",
    "step": 400,
    "boundary": 400,
    "metric": "probe_loss",
    "goal": "minimize",
    "base": 1.5,
    "contributions": [
        one("blocks.2", 0.4),
        one("blocks.3", 0.1, alpha=0.5),
        one("blocks.4", -0.2),
        one("blocks.5", None),
    ],
    "cohorts": [{"cohort": "tall", "contribution": 0.3, "modules": 4}],
    "not_separable": [{"cohort": "wide", "why": "it lies inside of tensors"}],
    "worst": "id-blocks.4",
}
PRUNE = {
    "type": "prune",
    "step": 401,
    "boundary": 401,
    "place": "main:cut.actions[0]",
    "names": ["blocks.4"],
    "params": {"before": 1200, "after": 1000, "removed": 200},
    "exactness": "approximate",
}


def bars(svg):
    """Per label the left end, the width and the class of its bar."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        rectangles = group.findall(f"{SVG}rect")
        if group.get("data-label") is not None and rectangles:
            (bar,) = rectangles
            found[group.get("data-label")] = (
                float(bar.get("x")),
                float(bar.get("width")),
                bar.get("class"),
            )
    return found


def test_a_bar_is_as_long_as_its_contribution_and_points_its_way():
    found = bars(contributions_svg(RECORD))
    assert found.pop("blocks.5")[1:] == (1.0, "wash"), "a mark, and no bar, where it is unknown"
    assert set(found) == {"blocks.2", "blocks.3", "blocks.4", "tall"}
    zero = found["blocks.2"][0]
    assert found["blocks.3"][0] == zero == found["tall"][0]
    assert found["blocks.4"][0] + found["blocks.4"][1] == pytest.approx(zero, abs=0.02)
    unit = found["blocks.2"][1] / 0.4
    for name, value in (("blocks.3", 0.1), ("blocks.4", 0.2), ("tall", 0.3)):
        assert found[name][1] == pytest.approx(value * unit, abs=0.02)
    good, bad = found["blocks.2"][2], found["blocks.4"][2]
    assert good != bad and found["blocks.3"][2] == good


def test_names_and_values_are_written_and_the_worst_is_marked():
    texts = [text for text, _, _ in read_sheet(contributions_svg(RECORD)).texts]
    for expected in (
        *("probe_loss at step 400", "1.5 with all modules in place; minimize"),
        *("blocks.2", "+0.4", "worst -0.2", "unknown", "of tall, α 0.5", "all 4 together"),
        "wide was not measured: it lies inside of tensors",
    ):
        assert expected in texts
    assert sum("worst" in text for text in texts) == 1


@pytest.mark.parametrize(
    "values",
    [(0.4, 0.1), (-0.4, -0.1), (0.0, 0.0), (None, None), (1e-12, -1e12), (5.0, -5.0)],
)
def test_everything_stands_on_the_page(values):
    rows = [one(f"blocks.{index}", value) for index, value in enumerate(values)]
    svg = contributions_svg({**RECORD, "contributions": rows, "cohorts": []})
    sheet = read_sheet(svg)
    for x, width, _ in bars(svg).values():
        assert x > LABELS and x + width < WIDTH
    assert all(0 <= x <= sheet.width and 0 <= y <= sheet.height for _, x, y in sheet.texts)


def test_a_report_has_a_chart_per_attribution_the_newest_first_and_tells_of_prunes():
    later = {**RECORD, "step": 800, "boundary": 800}
    page = report_html(document("grow-on-plateau"), [RECORD, PRUNE, later])
    assert page.index("probe_loss at step 800") < page.index("probe_loss at step 400")
    assert "blocks.4 taken out, 1.2k → 1k params, approximate" in page
    assert "Other records" not in page
    assert "Contributions" not in report_html(document("grow-on-plateau"), [PRUNE])


def test_both_are_told_in_a_line():
    assert attributed(RECORD) == "4 modules, best blocks.2 +0.4, worst blocks.4 -0.2"
    assert pruned(PRUNE) == "blocks.4 taken out, 1.2k → 1k params, approximate"
    assert moved(PRUNE) == f"step 401  prune  {pruned(PRUNE)}"
    assert moved(RECORD) == f"step 400  attribution  probe_loss: {attributed(RECORD)}"


@pytest.mark.parametrize("wild", [None, 3, "x", [], {}, [None], [3], [{"contribution": "x"}]])
def test_whatever_a_record_holds_is_drawn_or_left_out(wild):
    for key in ("contributions", "cohorts", "not_separable", "worst", "base", "metric", "step"):
        record = {**RECORD, key: wild}
        report_html(document("grow-on-plateau"), [record, {**PRUNE, "names": wild}])
        moved(record)
