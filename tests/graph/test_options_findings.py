"""What the checks say of options that are used up, and of what stands on the way into a trial."""

from tests.graph.documents import findings

TRYING = {
    "metrics": {"loss": {"goal": "minimize"}},
    "budget": {"steps": 400},
    "initial": "train",
    "stages": {
        "train": {"kind": "train", "duration": "9 steps", "next": "grow"},
        "grow": {
            "kind": "grow",
            "actions": [{"type": "snapshot", "name": "before"}],
            "options": [
                {"name": "a", "actions": [{"type": "deepen", "stack": "b", "add": 1}]},
                {"name": "b", "actions": [{"type": "deepen", "stack": "b", "add": 2}]},
            ],
            "next": "rest",
        },
        "rest": {"kind": "consolidate", "duration": "9 steps", "next": "done"},
        "done": {"kind": "final"},
    },
    "interrupts": [
        {
            "name": "undo",
            "within": ["rest"],
            "when": "regressed(loss, by=5%, since=before)",
            "actions": [{"type": "roll_back", "to": "before", "exclude": "grow"}],
            "target": "train",
            "at_most": 5,
        }
    ],
}


def codes(document):
    return {finding.code for finding in findings(document)}


def test_a_rollback_to_a_stage_that_only_a_growth_follows_uses_the_options_up():
    """What is excluded does not come back with the snapshot."""
    assert "stuck-when-full" in codes(TRYING)
    train = {
        **TRYING["stages"]["train"],
        "transitions": [{"target": "done", "when": "exhausted(grow)"}],
    }
    assert "stuck-when-full" not in codes(
        {**TRYING, "stages": {**TRYING["stages"], "train": train}}
    )


def test_without_options_a_rollback_takes_the_growth_back_and_there_is_room_again():
    grow = {
        "kind": "grow",
        "actions": [
            {"type": "snapshot", "name": "before"},
            {"type": "deepen", "stack": "b", "add": 1},
        ],
        "next": "rest",
    }
    back = {
        **TRYING["interrupts"][0],
        "actions": [{"type": "roll_back", "to": "before", "rng": "fork"}],
    }
    document = {**TRYING, "stages": {**TRYING["stages"], "grow": grow}, "interrupts": [back]}
    assert "stuck-when-full" not in codes({**document, "budget": {"steps": 400, "params": "1M"}})


def test_an_attribution_on_the_way_into_a_trial_is_refused():
    way = {
        "target": "try",
        "when": "elapsed(5 steps)",
        "at_most": 1,
        "actions": [{"type": "attribute", "metric": "loss"}],
    }
    trial = {
        "kind": "trial",
        "options": TRYING["stages"]["grow"]["options"],
        "over": "9 steps",
        "metric": "loss",
        "next": "rest",
    }
    stages = {**TRYING["stages"], "try": trial}
    stages["train"] = {**stages["train"], "transitions": [way], "next": "grow"}
    (found,) = [f for f in findings({**TRYING, "stages": stages}) if f.code == "trial-misplaced"]
    assert "would measure the first option" in found.message and found.severity == "error"
    assert found.pointer == "/stages/train/transitions/0/actions/0"


def test_an_alpha_ramp_over_a_growth_in_width_by_its_name_is_refused():
    """What it is of adds no block, whatever other options do."""
    grow = {
        "kind": "grow",
        "options": [
            {"name": "a", "actions": [{"type": "deepen", "stack": "b", "add": 1, "name": "d"}]},
            {"name": "b", "actions": [{"type": "widen", "space": "m", "factor": 2, "name": "w"}]},
        ],
        "next": "ease",
    }
    for name, expected in (("w", ["alpha-of-width"]), ("d", [])):
        ramps = [
            {"type": "alpha_ramp", "of": {"grown": name}, "over": "9 steps"},
            {"type": "lr_ramp", "of": "grown", "start": 0, "over": "9 steps"},
        ]
        ease = {"kind": "warmup", "during": ramps, "next": "rest"}
        stages = {**TRYING["stages"], "grow": grow, "ease": ease}
        document = {**TRYING, "stages": stages, "interrupts": []}
        assert [c for c in codes(document) if c.startswith("alpha-of")] == expected
