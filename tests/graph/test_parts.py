"""What can be measured and pruned, told before the run."""

import pytest

from tests.graph.documents import findings

AROUND = """
metrics: {{loss: {{goal: minimize, every: 9 steps}}}}
initial: grow
stages:
  grow: {{kind: grow, actions: [{growths}], next: rest}}
  rest: {{kind: consolidate, duration: 9 steps, next: look}}
  look:
    kind: train
    actions: [{{type: attribute, metric: loss, of: {of}}}]
    transitions: [{{target: cut, when: "harmful(loss, by=1%)"}}]
    duration: 9 steps
    next: done
  cut: {{kind: grow, actions: [{{type: prune, of: {what}}}], next: calm}}
  calm: {{kind: settle, lr_factor: 0.5, duration: 9 steps, next: look}}
  done: {{kind: final}}
"""
DEEP = "{type: deepen, stack: b, add: 1, name: tall}"
WIDE = "{type: widen, space: mlp, factor: 2, name: wide}"
MORE = "{type: add_experts, moe: [b.moe], add: 1, name: more}"


def errors(growths, of="all", what="worst"):
    from stagegraph.schema.yaml_reader import read_yaml

    data = read_yaml(AROUND.format(growths=growths, of=of, what=what)).data
    return [found.message for found in findings(data) if found.severity == "error"]


@pytest.mark.parametrize("kind", [DEEP, "{type: attach, host: [b], module: linear, name: tall}"])
def test_blocks_and_branches_can_be_pruned(kind):
    assert errors(kind) == errors(kind, what="grown") == errors(kind, what="{grown: tall}") == []


def test_what_the_worst_may_be_must_be_such_that_it_can_be_pruned():
    (told,) = errors(f"{DEEP}, {MORE}")
    assert told.startswith("'worst' may be what a growth by add_experts added, which cannot be")
    assert errors(f"{DEEP}, {MORE}", of="{grown: tall}") == []
    assert errors(f"{DEEP}, {WIDE}") == [], "what cannot be measured is never the worst"


def test_a_growth_is_named_with_its_kind():
    assert errors(f"{DEEP}, {WIDE}", what="{grown: wide}") == [
        "the growth 'wide' cannot be pruned: it is a widen, whose additions are no parts that can "
        "be taken out"
    ]
    assert errors(f"{DEEP}, {WIDE}", what="grown") == []
    (told,) = errors(WIDE, what="grown")
    assert told.startswith("what this region grows cannot be pruned: it is a widen")


def test_nothing_but_a_grow_stage_prunes():
    document = AROUND.format(growths=DEEP, of="all", what="worst").replace(
        "target: cut, when", "target: done, actions: [{type: prune, of: worst}], when"
    )
    from stagegraph.schema.yaml_reader import read_yaml

    found = [f for f in findings(read_yaml(document).data) if f.code == "growth-outside-grow"]
    (told,) = found
    assert told.message.startswith(
        "'prune' changes the model's shape, but stands on the transition"
    )
