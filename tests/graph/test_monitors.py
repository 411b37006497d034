"""After each growth: does something compare with what was before it, and what does it not see?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.graph.documents import findings

DEEP = {"type": "deepen", "stack": "blocks", "add": 1}
RANDOM = {**DEEP, "how": "random"}
SNAPSHOT = {"type": "snapshot", "name": "s"}
RAMP = {"type": "lr_ramp", "of": "grown", "start": 0, "over": "9 steps"}


def grown(number: str, following: str, *actions: dict[str, Any]) -> dict[str, Any]:
    """A growth with what follows it, the names of the stages with a number."""
    return {
        f"grow{number}": {"kind": "grow", "actions": [*actions, DEEP], "next": f"warm{number}"},
        f"warm{number}": {"kind": "warmup", "during": [RAMP], "next": f"rest{number}"},
        f"rest{number}": {"kind": "consolidate", "duration": "9 steps", "next": following},
    }


def undo(*within: str, when: str = "regressed(loss, by=5%, since=s)") -> dict[str, Any]:
    return {"name": "undo", "within": list(within), "when": when, "target": "end"}


def document(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    ways = {"duration": "9 steps", "next": "done"}
    merged: dict[str, Any] = {"train": {"kind": "train", "duration": "9 steps", "next": "grow1"}}
    for some in stages:
        merged |= some
    merged |= {"end": {"kind": "train", **ways}, "done": {"kind": "final"}}
    metrics = {"loss": {"goal": "minimize"}}
    return {"metrics": metrics, "initial": "train", "stages": merged, **more}


def unmonitored(one: dict[str, Any]) -> list[str]:
    return [f.pointer for f in findings(one) if f.code == "no-monitor"]


TWO = (grown("1", "grow2", SNAPSHOT), grown("2", "done"))


def test_each_growth_is_asked_for_by_itself():
    """A monitor of the first says nothing of the second, unless it is asked after that too."""
    assert unmonitored(document(*TWO)) == ["/stages/grow1", "/stages/grow2"]
    assert unmonitored(document(*TWO, interrupts=[undo("rest1")])) == ["/stages/grow2"]
    assert unmonitored(document(*TWO, interrupts=[undo("rest1", "rest2")])) == []
    assert unmonitored(document(*TWO, interrupts=[undo("rest2")])) == []


def test_what_the_second_growth_remembers_anew_is_no_longer_from_before_the_first():
    stages = (grown("1", "grow2", SNAPSHOT), grown("2", "done", SNAPSHOT))
    assert unmonitored(document(*stages, interrupts=[undo("rest2")])) == ["/stages/grow1"]


def test_a_baseline_that_is_taken_after_the_growth_does_not_count():
    one = document(grown("1", "done"), interrupts=[undo("rest1")])
    one["stages"]["rest1"]["actions"] = [{"type": "baseline", "name": "s"}]
    assert unmonitored(one) == ["/stages/grow1"]
    one["stages"]["train"]["actions"] = [{"type": "baseline", "name": "s"}]
    assert unmonitored(one) == ["/stages/grow1"]
    del one["stages"]["rest1"]["actions"]
    assert unmonitored(one) == []


def test_a_comparison_before_the_growth_alone_does_not_count():
    one = document(grown("1", "done"), interrupts=[undo("train")])
    one["stages"]["train"]["actions"] = [{"type": "baseline", "name": "s"}]
    assert unmonitored(one) == ["/stages/grow1"]


def test_harmful_and_a_trial_that_compares_with_no_growth_count():
    harmful = undo("rest1", when="harmful(loss, by=1%)")
    assert unmonitored(document(grown("1", "done"), interrupts=[harmful])) == []
    options = [{"name": n, "actions": [{**DEEP, "add": k}]} for n, k in (("a", 1), ("b", 2))]
    trial = {"kind": "trial", "options": options, "over": "9 steps", "metric": "loss"}
    for more, expected in (({}, ["/stages/grow1"]), ({"worth": "1%", "otherwise": "end"}, [])):
        stages = grown("1", "done")
        stages["grow1"] = {**trial, **more, "next": "warm1"}
        assert unmonitored(document(stages)) == expected


def test_another_region_s_monitor_of_its_own_growth_does_not_count():
    def region(*more: dict[str, Any]) -> dict[str, Any]:
        one = document(grown("1", "done", *more))
        return {"initial": "train", "stages": one["stages"]}

    regions = {"a": {**region(SNAPSHOT), "interrupts": [undo("rest1")]}, "b": region()}
    one = {"metrics": {"loss": {"goal": "minimize"}}, "regions": regions}
    assert unmonitored(one) == ["/regions/b/stages/grow1"]
    watch = {
        "look": {"kind": "train", "actions": [{"type": "baseline", "name": "w"}]},
        "end": {"kind": "final"},
    }
    watch["look"]["transitions"] = [{"target": "end", "when": "regressed(loss, by=5%, since=w)"}]
    regions["w"] = {"initial": "look", "stages": watch}
    assert unmonitored(one) == []


@pytest.mark.parametrize("kind", ["grow", "trial"])
def test_random_weights_in_an_option_are_not_handed_over_either(kind: str):
    options = [{"name": n, "actions": [one]} for n, one in (("a", DEEP), ("b", RANDOM))]
    stages = grown("1", "done")
    trial = {"over": "9 steps", "metric": "loss"} if kind == "trial" else {}
    stages["grow1"] = {"kind": kind, "options": options, **trial, "next": "warm1"}
    one = document(stages)
    found = [f.pointer for f in findings(one) if f.code == "growth-without-transfer"]
    assert found == ["/stages/grow1/options/1/actions/0"]
    stages["warm1"]["during"].append({"type": "alpha_ramp", "of": "grown", "over": "9 steps"})
    one = document(stages)
    assert not [f for f in findings(one) if f.code == "growth-without-transfer"]
    stages["warm1"]["during"].pop()


def unanswered(*ways: dict[str, Any], **more: Any) -> list[str]:
    one = document(grown("1", "done", SNAPSHOT), interrupts=list(ways), **more)
    return [f.pointer for f in findings(one) if f.code == "nonfinite-unanswered"]


@pytest.mark.parametrize(
    ("when", "found"),
    [
        ("regressed(loss, by=5%, since=s)", True),
        ("unstable(loss, since=s, over=9 steps)", True),
        ("not recovered(loss, within=1%, since=s)", True),
        ("elapsed(4 steps) and not (recovered(loss, within=1%, since=s) or step > 90)", True),
        ("not recovered(loss, within=1%, since=s) or nonfinite(loss) >= 1", False),
        ("recovered(loss, within=1%, since=s)", False),  # what is not known to be good goes on
        ("not not recovered(loss, within=1%, since=s)", False),
        ("not improved(loss, by=1%, since=s)", False),  # growth no longer helps: no answer to harm
        ("loss > 5", False),
    ],
)
def test_what_compares_numbers_does_not_answer_for_nan(when: str, found: bool):
    assert unanswered(undo("rest1", when=when)) == (["/interrupts/0/when"] if found else [])


@pytest.mark.parametrize("more", ["", " or nonfinite(loss) >= 1"])
def test_what_another_region_answers_is_asked_too(more: str):
    one = document(grown("1", "done", SNAPSHOT))
    grows = {"initial": one.pop("initial"), "stages": one.pop("stages")}
    way = {"target": "after", "when": f"regressed(loss, by=5%, since=s){more}"}
    watch = {"now": {"kind": "train", "transitions": [way]}, "after": {"kind": "train"}}
    one["regions"] = {"m": grows, "w": {"initial": "now", "stages": watch}}
    asked = [f.pointer for f in findings(one) if f.code == "nonfinite-unanswered"]
    assert asked == ([] if more else ["/regions/w/stages/now/transitions/0/when"])


def test_nonfinite_elsewhere_after_the_growth_answers():
    undoing, counting = undo("rest1"), "nonfinite(loss) >= 2"
    assert unanswered(undoing, {**undo("warm1", when=counting), "name": "nan"}) == []
    assert unanswered(undoing, {**undo("train", when=counting), "name": "nan"}) != []
    loud = {"loss": {"goal": "minimize", "nonfinite": "error"}}
    one = {**document(grown("1", "done", SNAPSHOT), interrupts=[undoing]), "metrics": loud}
    assert "nonfinite-unanswered" not in {f.code for f in findings(one)}
