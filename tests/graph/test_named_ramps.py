"""A named ramp goes on while stages list it: it is cut short only if it never had its time."""

import pytest

from tests.graph.documents import findings

CUT = ["/stages/settle/during/0"]
EASE = {"type": "lr_ramp", "of": "all", "start": 0, "end": 1, "over": "7 steps"}


def cut_short(first, stays="3 steps", **more):
    stages = {
        "first": {"during": ["ease"], "next": "settle", **first},
        "settle": {
            "kind": "settle",
            "lr_factor": 0.3,
            "during": ["ease"],
            "duration": stays,
            "next": "done",
        },
        "done": {"kind": "final"},
        **more,
    }
    document = {"initial": "first", "activities": {"ease": EASE}, "stages": stages}
    return [f.pointer for f in findings(document) if f.code == "ramp-cut-short"]


@pytest.mark.parametrize(
    ("first", "stays", "expected"),
    [
        ({"kind": "warmup"}, "3 steps", []),
        ({"kind": "train", "duration": "4 steps"}, "3 steps", []),
        ({"kind": "train", "duration": "4 steps"}, "2 steps", CUT),
        ({"kind": "train", "duration": "4 steps", "during": []}, "3 steps", CUT),
    ],
)
def test_the_time_in_the_stages_before_counts(first, stays, expected):
    assert cut_short(first, stays) == expected


def test_a_way_in_on_which_it_begins_anew_is_found():
    other = {"kind": "train", "duration": "9 steps", "next": "settle"}
    first = {"kind": "warmup", "transitions": [{"target": "other", "when": "step > 3"}]}
    assert cut_short(first, other=other) == CUT
