"""simulate: the engine on numbers, from formulas, files and journals."""

import json
from pathlib import Path

import pytest

from stagegraph.engine.simulate import simulate
from stagegraph.errors import DocumentError, GraphError, MissingFact
from stagegraph.schema.load import load
from tests.engine.driving import HEADER, Run

DOCUMENTS = sorted((Path(__file__).parents[1] / "data" / "documents").glob("*.yaml"))

WAITING = """
metrics: {m: {goal: minimize, every: 10 steps}}
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: m < 1}], duration: 60 steps, next: b}
  b: {kind: train, duration: 5 steps, next: done}
  done: {kind: final}
"""


def intervals(simulation):
    return [(i.stage, i.start, i.end) for i in simulation.schedule]


def test_formulas_are_read_when_an_evaluation_is_due():
    asked = []

    def m(step):
        asked.append(step)
        return 3.0 - step / 10

    simulation = simulate(load(HEADER + WAITING), metrics={"m": m})
    assert asked == [10, 20, 30]
    assert intervals(simulation) == [("a", 0, 30), ("b", 30, 35), ("done", 35, 35)]
    assert (simulation.steps, simulation.ended) == (35, "final")
    text = simulate(load(HEADER + WAITING), metrics={"m": "3 - step / 10"})
    assert text.records == simulation.records


def test_csv_gives_its_values_at_their_steps(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,m,other\n10,2.0,x\n17,0.5,\n20,,\n40,3,\n")
    simulation = simulate(load(HEADER + WAITING), metrics=path)
    assert intervals(simulation) == [("a", 0, 17), ("b", 17, 22), ("done", 22, 22)]


def test_lines_of_json_do_the_same(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 10, "m": 2.0}\n\n{"step": 17, "m": 0.5}\n')
    assert intervals(simulate(load(HEADER + WAITING), metrics=path))[0] == ("a", 0, 17)


def test_graph_that_reads_no_metric_needs_none():
    text = "initial: a\nstages: {a: {kind: train, duration: 7 steps, next: b}, b: {kind: final}}"
    assert simulate(load(HEADER + text)).steps == 7


def test_missing_facts_are_named_by_their_arguments():
    text = """
budget: {params: 1M, tokens: 1M}
initial: a
stages:
  a: {kind: train, duration: 1 epoch, next: g}
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: c}
  c: {kind: consolidate, duration: 9 samples, next: done}
  done: {kind: final}
"""
    graph = load(HEADER + text)
    with pytest.raises(MissingFact) as raised:
        simulate(graph)
    assert str(raised.value) == (
        "the graph reads what was not given; give steps_per_epoch= (epochs), params= (params), "
        "samples_per_step= (samples), tokens_per_step= (tokens)"
    )
    rest = {"steps_per_epoch": 4, "samples_per_step": 3, "tokens_per_step": 1, "params": 10}
    with pytest.raises(MissingFact, match=r"give costs=\{'g': 400_000\}"):
        simulate(graph, **rest)
    with pytest.raises(MissingFact, match="names 'grw', which is no growth of the graph; known: g"):
        simulate(graph, **rest, costs={"grw": 1})
    assert intervals(simulate(graph, **rest, costs={"g": 1})) == [
        ("a", 0, 4),
        ("c", 4, 7),
        ("done", 7, 7),
    ]


def test_missing_metric_is_named(tmp_path):
    graph = load(HEADER + WAITING)
    with pytest.raises(MissingFact, match="the graph reads 'm', and metrics= does not have it"):
        simulate(graph)
    path = tmp_path / "curve.csv"
    path.write_text("step,mm\n1,2\n")
    with pytest.raises(MissingFact, match="the graph reads 'm', and metrics= does not have it"):
        simulate(graph, metrics=path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "m\n1\n", "1:1: there is no column 'step'"),
        ("a.csv", "step,m\n1,x\n", "2:1: this row is not a step with numbers"),
        ("a.jsonl", '{"step": 1, "m": 1}\nnonsense\n', "2:1: this line is not JSON"),
        ("a.jsonl", "[1]\n", "1:1: this line is no JSON object"),
    ],
)
def test_file_that_cannot_be_read_is_told_by_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DocumentError, match=message):
        simulate(load(HEADER + WAITING), metrics=path)


def test_graph_with_errors_is_refused():
    with pytest.raises(GraphError):
        simulate(load(HEADER + "initial: a\nstages: {a: {kind: train}}"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_documents_come_to_an_end(path):
    graph = load(path)
    metrics = dict.fromkeys(graph.metrics, "2 + 300 / (step + 100)")
    simulation = simulate(
        graph,
        metrics=metrics,
        steps_per_epoch=100,
        params=1_000_000,
        costs=dict.fromkeys(_growing(graph), 400000),
    )
    assert simulation.ended in ("final", "budget")


def _growing(graph):
    from stagegraph.graph.compile import compile_graph

    return [key for key, stage in compile_graph(graph)[0].stages.items() if stage.growths]


def test_rollbacks_are_simulated_with_the_epochs_of_the_branch():
    text = """
initial: a
metrics: {m: {goal: minimize, every: 2 steps}}
stages:
  a: {kind: train, duration: 1 epoch, next: b}
  b: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 epoch, next: done}
  done: {kind: final}
interrupts:
  - {name: undo, within: [b], when: "regressed(m, by=5%, since=s)", target: b, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
"""
    simulation = simulate(
        load(HEADER + text),
        metrics={"m": lambda step: 9.0 if step == 6 else 1.0},
        steps_per_epoch=4,
    )
    assert [(m["boundary"], m["edge"]) for m in simulation.moves[1:]] == [
        (4, "main:a.next"),
        (6, "main:interrupts.undo"),
        (10, "main:b.next"),
    ]


def test_journal_is_played_back_to_the_same_moves(tmp_path):
    """Metrics with an update, of an evaluation, and too late; an event from outside."""
    text = """
metrics: {m: {goal: minimize, every: 5 steps}, v: {goal: minimize}}
events: [go]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: v < 1}], duration: 90 steps, next: done}
  b: {kind: train, transitions: [{target: c, when: m < 1}], duration: 90 steps, next: done}
  c: {kind: train, transitions: [{target: d, when: v < 1}], duration: 90 steps, next: done}
  d: {kind: train, transitions: [{target: done, when: event(go)}], duration: 90 steps, next: done}
  done: {kind: final}
"""
    run = Run(text).step(2).step(v=0.5).step(2)
    run.core.observe(m=0.5)
    run.step(2)
    run.core.observe(v=0.5)
    run.step(3)
    run.core.observe(m=3.0)
    run.core.send("go")
    run.step(2)
    assert [boundary for boundary, _ in run.moves] == [3, 5, 8, 11]
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in run))
    again = simulate(load(HEADER + text), metrics=path)
    assert [(m["boundary"], m["edge"]) for m in again.moves[1:]] == run.moves


def test_what_a_resume_left_behind_is_not_simulated_again(tmp_path):
    text = """metrics: {m: {goal: minimize}}
events: [go]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: m < 1 or event(go)}], duration: 9 steps, next: b}
  b: {kind: final}
"""
    run = Run(text).step(2).step(m=3.0).step(2).step(m=0.5)
    assert [boundary for boundary, _ in run.moves] == [6]
    kept, lost = list(run)[:-2], Run(text).step(2).step(m=0.9)
    lost.core.send("go")
    lost.step(2)
    resume = {"type": "resume", "step": 0, "boundary": 0, "keep": 1}
    records = [kept[0], *list(lost)[1:], resume, *list(run)[1:]]
    path = tmp_path / "journal.jsonl"
    lines = [json.dumps(record) for record in records]
    lines.insert(2, '{"damaged')
    path.write_text("".join(line + "\n" for line in lines))
    again = simulate(load(HEADER + text), metrics=path)
    assert [(m["boundary"], m["edge"]) for m in again.moves[1:]] == run.moves


def test_separators_within_a_line_do_not_end_it(tmp_path):
    path = tmp_path / "curve.jsonl"
    rows = [{"step": step, "m": 5.0, "note": "a\u2028b\x85c"} for step in range(1, 9)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    assert simulate(load(HEADER + WAITING), metrics=path)
