"""What is found inside of a template is told at the stage that uses it, with the place inside."""

from __future__ import annotations

import pytest

from stagegraph.graph.check import check
from stagegraph.graph.places import split_pointer
from stagegraph.schema.load import load

CYCLE = "growth: [{type: deepen, stack: blocks, add: 2}], warmup: 50 steps, consolidate: 90 steps"


def document(use, more="next: done", top=""):
    return load(f"""
stagegraph: 1
name: x
{top}
metrics: {{loss: {{goal: minimize, every: 10 steps}}}}
initial: a
stages:
  a:
    use: {use.partition(" ")[0]}
    with: {{{use.partition(" ")[2]}}}
    {more}
  done: {{kind: final}}
""")


def found(graph, code):
    return [(f.pointer, f.line, f.message) for f in check(graph) if f.code == code]


def test_a_name_in_a_field_that_does_not_exist_is_told_at_the_use():
    graph = document(f"grow_cycle trigger: los < 1, {CYCLE}")
    (one,) = found(graph, "undeclared-metric")
    assert one == (
        "/stages/a/use",
        9,
        "'los' is not declared in 'metrics'; did you mean 'loss'? "
        "(in what the template puts in: /stages/wait/transitions/0/when)",
    )


def test_what_a_rule_finds_is_told_at_the_use():
    graph = document(f"grow_cycle trigger: loss < 1, {CYCLE}")
    (one,) = found(graph, "no-progress-exit")
    assert one[:2] == ("/stages/a/use", 9)
    assert one[2].startswith("'a.wait' waits for 'loss < 1', and no way out of it opens")
    assert one[2].endswith(" (in what the template puts in: /stages/wait)")


def test_a_template_in_a_template_has_the_whole_way_in():
    graph = document(f"sequential growths: [{{trigger: loss < 1, {CYCLE}}}]")
    (one,) = found(graph, "no-progress-exit")
    assert one[0] == "/stages/a/use"
    assert one[2].endswith("(in what the template puts in: /stages/growth1/use/stages/wait)")


def test_a_template_in_an_entry_of_graphs_is_told_there():
    graph = load(f"""
stagegraph: 1
name: x
metrics: {{loss: {{goal: minimize}}}}
graphs:
  mine:
    initial: a
    stages:
      a: {{use: grow_cycle, with: {{trigger: loss < 1, {CYCLE}}}, next: end}}
      end: {{kind: final}}
initial: use
stages: {{use: {{use: mine, next: done}}, done: {{kind: final}}}}
""")
    (one,) = found(graph, "no-progress-exit")
    assert one[:2] == ("/graphs/mine/stages/a/use", 9)
    assert one[2].startswith("'use.a.wait' ")


def test_a_stage_may_be_called_use():
    graph = load("{stagegraph: 1, name: x, initial: use, stages: {use: {kind: train}}}")
    assert split_pointer(graph, "/stages/use/next") == ("/stages/use/next", "")
    (one,) = found(
        load(
            "{stagegraph: 1, name: x, initial: use, stages: "
            "{use: {kind: train, duration: 5 steps}, done: {kind: final}}}"
        ),
        "duration-without-next",
    )
    assert one[0] == "/stages/use/duration"


def test_a_next_that_leads_nowhere_is_told_where_it_is_written():
    graph = document(f"grow_cycle {CYCLE}", "next: dnoe")
    (one,) = found(graph, "unknown-target")
    assert one == ("/stages/a/next", 11, "there is no stage 'dnoe'; did you mean 'done'?")


def test_a_template_without_its_fields_is_told_so():
    graph = load(
        "{stagegraph: 1, name: x, initial: a, stages: "
        "{a: {use: spike_rule, next: done}, done: {kind: final}}}"
    )
    ((_, _, message),) = found(graph, "unknown-graph")
    assert message == (
        "'spike_rule' is a template: fill it in with 'with', or add 'spike_rule' to 'graphs'"
    )


def test_an_entry_with_the_name_of_a_template_is_used_without_fields():
    graph = load(f"""
stagegraph: 1
name: x
graphs:
  grow_cycle:
    initial: a
    stages: {{a: {{kind: train, duration: 5 steps, next: b}}, b: {{kind: final}}}}
initial: mine
stages:
  mine: {{use: grow_cycle, next: theirs}}
  theirs: {{use: grow_cycle, with: {{{CYCLE}}}, next: done}}
  done: {{kind: final}}
""")
    assert [f.code for f in check(graph) if f.severity == "error"] == []
    from stagegraph.graph.compile import compile_graph

    stages = compile_graph(graph)[0].stages
    assert set(stages) == {
        "main:mine.a",
        *(f"main:theirs.{name}" for name in ("grow", "warmup", "consolidate")),
        "main:done",
    }


@pytest.mark.parametrize(
    ("use", "more", "codes"),
    [
        (
            f"grow_cycle trigger: loss < 1, wait: 9 steps, {CYCLE}, undo: {{metric: loss}}",
            "",
            ("rollback-on-one-value",),
        ),
        ("warmup_stable_decay stable: [9 steps, 9 steps], decay: 5 steps", "", ()),
        ("gradual_unfreezing groups: [a, b], every: 9 steps", "", ()),
        (
            "context_extension space: p, lengths: [8], warmup: 5 steps, train: 5 steps",
            "",
            ("no-monitor",),
        ),
    ],
)
def test_what_the_templates_expand_to_is_found_fault_with_as_anything_else(use, more, codes):
    codes = {*codes, "unused-metric"}
    assert {f.code for f in check(document(use))} <= codes


def test_a_spike_rule_needs_no_end_and_no_next():
    graph = load("""
stagegraph: 1
name: x
metrics: {loss: {goal: minimize}}
regions:
  main: {initial: a, stages: {a: {kind: train, duration: 99 steps, next: b}, b: {kind: final}}}
  watch:
    initial: spikes
    stages:
      spikes:
        use: spike_rule
        with: {metric: loss, lasting: 4 steps, every: 10 steps, at_most: 2, then: stop}
""")
    assert check(graph) == []


@pytest.mark.parametrize(
    ("graphs", "use", "told"),
    [
        ("{g: {initial: nope, stages: {a: {kind: train}}}}", "next: done", "/graphs/g/initial"),
        ("{g: {initial: a, stages: {a: {kind: final}}}}", "next: c", "/stages/c/next"),
        ("{g: {initial: a, stages: {a: {kind: final}}}}", "next: nope", "/stages/c/next"),
        ("{g: {initial: a, stages: {a: {kind: final}}}}", "next: main:nope", "/stages/c/next"),
    ],
)
def test_an_entry_that_leads_nowhere_is_told_where_it_says_so(graphs, use, told):
    graph = load(f"""
stagegraph: 1
name: x
graphs: {graphs}
initial: start
stages:
  start: {{kind: train, duration: 5 steps, next: c}}
  c: {{use: g, {use}}}
  done: {{kind: final}}
""")
    errors = [f for f in check(graph) if f.severity == "error"]
    assert told in {f.pointer for f in errors}, errors
    assert {f.pointer.partition("/next")[0] for f in errors} <= {"/graphs/g/initial", "/stages/c"}
