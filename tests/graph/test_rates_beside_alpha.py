"""An alpha ramp needs a learning-rate ramp over the same parameters, not over any others."""

import pytest

from stagegraph.graph.blending import may_name
from tests.graph.documents import findings


def without_lr(of, growth=None, **more):
    growth = growth or {"type": "deepen", "stack": "net.blocks", "add": 1, "name": "deeper"}
    ramps = [
        {"type": "alpha_ramp", "of": "grown", "over": "9 steps"},
        {"type": "lr_ramp", "of": of, "start": 0, "over": "9 steps", **more},
    ]
    document = {
        "initial": "grow",
        "stages": {
            "grow": {"kind": "grow", "actions": [growth], "next": "warm"},
            "warm": {"kind": "warmup", "during": ramps, "next": "rest"},
            "rest": {"kind": "consolidate", "duration": "9 steps", "next": "done"},
            "done": {"kind": "final"},
        },
    }
    return "alpha-without-lr" in {finding.code for finding in findings(document)}


@pytest.mark.parametrize("of", ["head.*", "net.head", "network", "net.block", "h*"])
def test_a_pattern_elsewhere_is_no_ramp_of_what_has_grown(of):
    assert without_lr(of)


WITHIN = ["net", "net.blocks", "net.blocks.*", "net.b*", "*.up", "net.blocks.2.up.weight"]


@pytest.mark.parametrize(
    "of",
    ["grown", "all", *WITHIN, {"grown": "deeper"}, {"group": "head"}, ["head.*", "grown"]],
)
def test_what_may_be_of_it_counts(of):
    assert not without_lr(of)


def test_what_is_taken_out_does_not_count():
    assert without_lr("all", but="grown")


@pytest.mark.parametrize(
    "rate",
    [{"start": 1, "end": 0.1}, {"start": 2}, {"type": "lr_factor", "factor": 3, "over": None}],
    ids=str,
)
def test_a_rate_that_begins_in_full_does_not_count(rate):
    document = growing_twice("grown")
    ramp = {**document["stages"]["ease"]["during"][1], **rate}
    document["stages"]["ease"]["during"][1] = {
        key: value
        for key, value in ramp.items()
        if value is not None and not (key == "start" and ramp["type"] == "lr_factor")
    }
    assert "alpha-without-lr" in {finding.code for finding in findings(document)}


def growing_twice(of):
    first = {"type": "deepen", "stack": "blocks", "add": 1, "name": "one"}
    return {
        "initial": "grow",
        "stages": {
            "grow": {"kind": "grow", "actions": [first], "next": "warm"},
            "warm": {
                "kind": "warmup",
                "during": [
                    {"type": "alpha_ramp", "of": "grown", "over": "9 steps"},
                    {"type": "lr_ramp", "of": "grown", "start": 0, "over": "9 steps"},
                ],
                "next": "again",
            },
            "again": {"kind": "grow", "actions": [{**first, "name": "two"}], "next": "ease"},
            "ease": {
                "kind": "warmup",
                "during": [
                    {"type": "alpha_ramp", "of": "grown", "over": "9 steps"},
                    {"type": "lr_ramp", "of": of, "start": 0, "over": "9 steps"},
                ],
                "next": "rest",
            },
            "rest": {"kind": "consolidate", "duration": "9 steps", "next": "done"},
            "done": {"kind": "final"},
        },
    }


def test_the_rate_of_an_earlier_growth_is_another():
    codes = {
        name: {finding.code for finding in findings(growing_twice({"grown": name}))}
        for name in ("one", "two")
    }
    assert "alpha-without-lr" in codes["one"]
    assert "alpha-without-lr" not in codes["two"]


def test_the_host_of_what_is_attached_tells_too():
    attached = {"type": "attach", "host": ["blocks.*.mlp"], "module": "adapter", "bottleneck": 2}
    assert without_lr("head.*", attached)
    assert not without_lr("blocks.0", attached)


def test_nothing_is_claimed_of_two_patterns_that_may_agree():
    assert may_name("blocks.*.up", "blocks.*")
    assert may_name("*", "blocks")
    assert not may_name("blocks.1", "block")
