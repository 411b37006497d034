"""Lines for the terminal: they fit, they tell, they obey nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagegraph.drawing.clean import cells, clip, for_terminal
from stagegraph.drawing.terminal import ended, moved, status_line, summary
from tests.drawing.graphs import document, journal
from tests.drawing.test_history import wild_records

STATUS = {
    "stages": {"main": "main:settle"},
    "step": 7250,
    "of": 20_000,
    "metrics": {"val_loss": 1.4321, "acc": None},
    "lr": 3e-4,
    "params": 1_993_600,
    "waits": ["150 steps of settle", "plateau"],
    "seconds": 725.0,
}


def test_the_status_is_told_in_one_line():
    assert status_line(STATUS, 200) == (
        "settle  step 7,250/20k 36%  val_loss 1.432  acc unknown  "
        "waits for 150 steps of settle and 1 more  lr 0.0003  1.99M params  12m05s"
    )


def test_what_does_not_fit_goes_least_important_first():
    assert status_line(STATUS, 45) == "settle  step 7,250/20k 36%  val_loss 1.432"
    assert status_line(STATUS, 5) == "sett…"


def test_a_status_with_several_regions_names_them():
    stages = {"arch": "arch:done", "data": "data:hard"}
    assert status_line({"stages": stages}, 80) == "arch:done data:hard"


def test_a_status_of_nothing_is_no_trouble():
    assert status_line({}, 80) == "no stage yet"


@given(st.integers(1, 120), st.dictionaries(st.text(max_size=8), st.floats(), max_size=4))
def test_the_status_fits_and_obeys_nobody(width, metrics):
    line = status_line({**STATUS, "metrics": metrics, "waits": ["\x1b]0;title\x07"]}, width)
    assert cells(line) <= width
    assert "\x1b" not in line and "\n" not in line


def test_colour_comes_only_when_asked_for():
    assert "\x1b" not in status_line(STATUS, 200)
    assert status_line(STATUS, 200, colour=True).startswith("\x1b[1msettle\x1b[0m")


def test_a_move_is_told_with_its_evidence():
    record = next(r for r in journal("grow-on-plateau") if r["type"] == "move" and r["via"])
    lines = moved(record).split("\n")
    assert lines[0] == "step 3,000  main: train → grow → warmup  (transition, visit 1)"
    assert "      ✓ left(steps) > 6000  [left(steps) = 17000]" in lines
    assert lines[-1] == "    + main:grow.actions[0]"


def test_an_interrupt_is_called_by_its_name():
    records = [r for r in journal("grow-on-plateau") if r.get("kind") == "interrupt"]
    assert "(interrupt undo, visit 3)" in moved(records[0])


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            {"type": "roll_back", "step": 90, "to": 40, "snapshot": "before"},
            "step 90  roll back  to step 40",
        ),
        (
            {"type": "error", "step": 5, "action": "a", "reason": "no\x1b room", "attempt": 2},
            "step 5  error  a: no\\x1b room (attempt 2)",
        ),
        (
            {"type": "growth", "step": 5, "cohort": "c", "certificate": {"exactness": "exact"}},
            "step 5  growth  c, exact",
        ),
        ({"type": "blocked", "step": 5, "edge": "e", "reason": "r"}, "step 5  blocked  e: r"),
        ({"type": "event"}, "step ?  event  unknown"),
    ],
)
def test_other_happenings_take_a_line(record, line):
    assert moved(record) == line


def test_the_end_is_told():
    record = {"type": "end", "step": 9, "reason": "final", "stages": {"main": "main:done"}}
    assert ended(record) == moved(record) == "step 9  ended: final  in done"


def test_a_run_is_summed_up():
    text = summary(journal("grow-on-plateau"), graph=document("grow-on-plateau"))
    assert text.startswith("grow-on-plateau: ended: final\n")
    for part in ("13,800 and 1,300 undone", "1.2M → 1.99M", "best 1.341", "growths 2 (1 more"):
        assert part in text


@given(wild_records())
def test_any_records_can_be_told(records):
    for text in (summary(records), *(moved(record) for record in records)):
        assert "\x1b" not in text and "\x07" not in text


def test_wide_characters_take_two_columns():
    assert cells("学習") == 4
    assert clip("学習する", 5) == "学習…"
    assert for_terminal("a\u202eb") == "a\\u202eb"
