"""A trial in words: what was tried, what comes next, what was kept."""

import pytest

from stagegraph.drawing.happenings import happenings
from stagegraph.drawing.history import read_history
from stagegraph.drawing.terminal import moved
from stagegraph.drawing.trying import trial_words


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"status": "begun", "option": None, "tried": []}, "begins with no growth"),
        (
            {"status": "goes on", "option": "wide", "tried": [[None, 2.5], ["deep", None]]},
            "tried no growth 2.5, deep no finite value; goes on with wide",
        ),
        (
            {"status": "kept", "option": "wide", "tried": [["wide", 2.25]]},
            "tried wide 2.25; kept wide",
        ),
        (
            {"status": "none kept", "option": None, "tried": [["wide", 2.25]]},
            "tried wide 2.25; none was worth it",
        ),
        (
            {"status": "begun", "option": "a", "tried": [], "passed_over": {"b": "failed: no"}},
            "begins with a (left out: b: failed: no)",
        ),
        ({"status": "given up", "tried": []}, "given up: the run ends; tried nothing to its end"),
        ({"tried": [7, [], "x"], "status": "kept"}, "tried ? no finite value"),
    ],
)
def test_what_a_record_says(record, words):
    assert words in trial_words(record)


def test_the_terminal_and_the_report_tell_of_it():
    record = {
        "type": "trial",
        "step": 5,
        "stage": "main:try",
        "status": "kept",
        "option": "wide",
        "tried": [["wide", 2.25]],
    }
    assert moved(record) == "step 5  trial  main:try tried wide 2.25; kept wide"
    assert "tried wide 2.25; kept wide" in str(happenings(read_history([record])))
