"""The contract of every kind: its traits, its card, its documents, and its row here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import stagegraph as sg
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.needs import needs
from stagegraph.schema import actions, activities, expressions, guards, stages
from stagegraph.schema.base import Model
from tests.contracts.fragments import as_graph, tags
from tests.pages import ROOT, blocks

CARDS = ROOT / "docs" / "kinds"
DOCUMENTS = ROOT / "tests" / "data" / "kinds"

LOSS = frozenset({"val_loss"})


@dataclass(frozen=True)
class Traits:
    """What a kind states of itself as class data, and what its valid document needs to be known."""

    model: type[Model]
    structural: bool = False
    instant: bool = False
    writes: str | None = None
    disturbs: bool = False
    data: bool = False
    positional: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()


GROWN = LOSS | {"params"}

KINDS = {
    # stages
    "train": Traits(stages.Train, needs=LOSS),
    "grow": Traits(stages.Grow, structural=True, instant=True, needs=GROWN),
    "trial": Traits(stages.Trial, structural=True, needs=GROWN),
    "warmup": Traits(stages.Warmup),
    "settle": Traits(stages.Settle),
    "consolidate": Traits(stages.Consolidate),
    "final": Traits(stages.Final),
    # guards
    "compare": Traits(guards.Compare, needs=LOSS),
    "all": Traits(guards.All, needs=LOSS),
    "any": Traits(guards.Any_, needs=LOSS),
    "not": Traits(guards.Not, needs=LOSS),
    "elapsed": Traits(guards.Elapsed, positional=("duration",), needs=LOSS | {"epochs"}),
    "completed": Traits(guards.Completed, needs=LOSS),
    "plateau": Traits(guards.Plateau, positional=("metric",), needs=LOSS),
    "regressed": Traits(guards.Regressed, positional=("metric",), needs=GROWN),
    "recovered": Traits(guards.Recovered, positional=("metric",), needs=GROWN),
    "improved": Traits(guards.Improved, positional=("metric",), needs=GROWN),
    "unstable": Traits(guards.Unstable, positional=("metric",), needs=GROWN),
    "in": Traits(guards.InStage, positional=("stage",)),
    "done": Traits(guards.Done, positional=("region",)),
    "event": Traits(guards.EventSeen, positional=("event",)),
    "affordable": Traits(guards.Affordable, positional=("stage",), needs=GROWN),
    "exhausted": Traits(guards.Exhausted, positional=("stage",), needs=GROWN),
    "harmful": Traits(guards.Harmful, positional=("metric",), needs=LOSS),
    # calls in expressions
    "last": Traits(expressions.Last, positional=("metric",), needs=LOSS),
    "best": Traits(expressions.Best, positional=("metric",), needs=LOSS),
    "nonfinite": Traits(expressions.Nonfinite, positional=("metric",), needs=LOSS),
    "gain": Traits(expressions.Gain, positional=("metric",), needs=LOSS),
    "spent": Traits(expressions.Spent, positional=("amount",), needs=frozenset({"tokens"})),
    "left": Traits(expressions.Left, positional=("amount",)),
    "visits": Traits(expressions.Visits, positional=("stage",)),
    # activities
    "alpha_ramp": Traits(activities.AlphaRamp, writes="alpha", needs=GROWN),
    "lr_ramp": Traits(activities.LrRamp, writes="lr", disturbs=True),
    "lr_factor": Traits(activities.LrFactor, writes="lr", disturbs=True),
    "freeze": Traits(activities.Freeze, writes="grad", disturbs=True),
    "head": Traits(activities.Head, writes="head", disturbs=True),
    "difficulty": Traits(activities.Difficulty, writes="difficulty", disturbs=True, data=True),
    "mixture": Traits(activities.Mixture, writes="mixture", disturbs=True, data=True),
    "sequence_length": Traits(
        activities.SequenceLength, writes="sequence_length", disturbs=True, data=True
    ),
    "batch_size": Traits(activities.BatchSize, writes="batch_size", disturbs=True, data=True),
    "hyper": Traits(activities.Hyper, writes="hyper", disturbs=True),
    "distill": Traits(activities.Distill, writes="loss", disturbs=True),
    # actions
    "teacher": Traits(actions.TeacherAction),
    "snapshot": Traits(actions.SnapshotAction, needs=GROWN),
    "baseline": Traits(actions.Baseline, needs=GROWN),
    "save": Traits(actions.SaveAction),
    "roll_back": Traits(actions.RollBack, needs=GROWN),
    "send": Traits(actions.Send),
    "attribute": Traits(actions.Attribute, needs=LOSS),
    "prune": Traits(actions.Prune, structural=True, needs=LOSS),
    "deepen": Traits(actions.Deepen, structural=True, needs=GROWN),
    "widen": Traits(actions.Widen, structural=True, needs=GROWN),
    "extend_vocab": Traits(actions.ExtendVocab, structural=True, needs=GROWN),
    "extend_context": Traits(actions.ExtendContext, structural=True, needs=GROWN),
    "add_heads": Traits(actions.AddHeads, structural=True, needs=GROWN),
    "widen_head_dim": Traits(actions.WidenHeadDim, structural=True, needs=GROWN),
    "attach": Traits(actions.Attach, structural=True, needs=GROWN),
    "upcycle": Traits(actions.Upcycle, structural=True, needs=GROWN),
    "add_experts": Traits(actions.AddExperts, structural=True, needs=GROWN),
    "add_head": Traits(actions.AddHead, structural=True, needs=GROWN),
    "inherit": Traits(actions.Inherit, structural=True, needs=GROWN),
    "regrow": Traits(actions.Regrow, structural=True, needs=GROWN),
}

IN_THE_SCHEMA = {
    **tags(stages.Stage),
    **tags(guards.Guard),
    **expressions.EXPRESSION_CALLS,
    **tags(activities.Activity),
    **tags(actions.Action),
}
"""A number, a name, arithmetic and a sign are the grammar, not kinds."""

every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


def test_every_kind_is_five_things():
    """Spec and code come from the schema; the row, the card and the documents are counted here."""
    known = set(IN_THE_SCHEMA)
    assert known == set(KINDS)
    assert known == {path.stem for path in CARDS.glob("*.md")}
    assert {f"{kind}.{state}.yaml" for kind in known for state in ("valid", "invalid")} == {
        path.name for path in DOCUMENTS.iterdir()
    }


@every_kind
def test_card_names_its_source(kind):
    """A paper, a book, or that there is none and why."""
    card = (CARDS / f"{kind}.md").read_text("utf-8")
    source = card.partition("\n## Source\n\n")[2]
    assert re.search(r"\d{4}\.\d{5}|\b(19|20)\d\d\b|No paper: \w", source)


def test_card_of_grow_names_every_growth():
    card = (CARDS / "grow.md").read_text("utf-8")
    assert {
        kind
        for kind, row in KINDS.items()
        if isinstance(row.model, type) and issubclass(row.model, actions.GrowthAction)
    } == set(re.findall(r"\[(\w+)\]\(\1\.md\)", card.partition("\n## Rules")[0]))


@every_kind
def test_row_says_what_the_model_says(kind):
    row = KINDS[kind]
    assert row.model is IN_THE_SCHEMA[kind]
    defaults = {field.name: field.default for field in fields(Traits)}
    for trait in ("structural", "instant", "writes", "disturbs", "data", "positional"):
        assert getattr(row.model, trait, defaults[trait]) == getattr(row, trait), trait


@every_kind
def test_positional_arguments_come_first(kind):
    own = [name for name in KINDS[kind].model.model_fields if name not in ("type", "kind", "note")]
    count = len(KINDS[kind].positional)
    assert tuple(own[:count]) == KINDS[kind].positional


@every_kind
def test_valid_document_is_accepted(kind):
    graph = sg.load(DOCUMENTS / f"{kind}.valid.yaml")
    assert [str(found) for found in sg.check(graph) if found.severity == "error"] == []
    assert _uses(graph, KINDS[kind].model)
    assert sg.load(sg.dump(graph, "yaml")) == graph
    assert sg.load(sg.dump(graph, "json")) == graph


@every_kind
def test_valid_document_needs_what_the_row_says(kind):
    required = needs(compile_graph(sg.load(DOCUMENTS / f"{kind}.valid.yaml"))[0])
    assert required.facts | required.metrics == KINDS[kind].needs


@every_kind
def test_invalid_document_is_refused(kind):
    path = DOCUMENTS / f"{kind}.invalid.yaml"
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    expected = first.removeprefix("# expect: ")
    assert expected != first, "the first line says what is expected"
    assert _refusals(path) == [expected]


def _refusals(path: Path) -> list[str]:
    """Codes of the findings that are errors; or the expected part of the one defect's message."""
    expected = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# expect: ")
    try:
        graph = sg.load(path)
    except sg.DocumentError as error:
        found = [defect.message for defect in error.defects]
        return [expected if expected in message else message for message in found]
    return [found.code for found in sg.check(graph) if found.severity == "error"]


def _uses(node: object, model: type[Model]) -> bool:
    """Whether a kind occurs anywhere in a graph."""
    if isinstance(node, model):
        return True
    if isinstance(node, Model):
        return any(_uses(getattr(node, name), model) for name in type(node).model_fields)
    if isinstance(node, tuple):
        return any(_uses(part, model) for part in node)
    values = getattr(node, "values", None)
    return callable(values) and any(_uses(part, model) for part in values())


CUTS = (1, 67, 733, 1060)


@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        pytest.param(kind, cuts, id=kind + name, marks=marks)
        for number, kind in enumerate(sorted(KINDS))
        for name, cuts, marks in (
            ("", CUTS[number % 2 :: 2], ()),
            (" at all", CUTS, pytest.mark.slow),
        )
    ],
)
def test_a_run_that_is_cut_goes_on_as_if_it_was_not(kind, cuts):
    graph = sg.load(DOCUMENTS / f"{kind}.valid.yaml")
    whole, _ = _moves(_engine(graph), 1, 2100)
    assert len(whole) > 1
    for cut in cuts:
        first, state = _moves(_engine(graph), 1, cut)
        resumed = _engine(graph)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        then, _ = _moves(resumed, cut + 1, 2100)
        assert [*first, *then] == whole


def _engine(graph: sg.StageGraph) -> sg.Engine:
    stages = compile_graph(graph)[0].stages.values()
    growing = [place for stage in stages for place in stage.priced]
    return sg.Engine(graph, params=1_000_000, costs=dict.fromkeys(growing, 400_000))


def _moves(engine: sg.Engine, first: int, last: int) -> tuple[list[object], object]:
    """The moves between two updates, under a loss that falls and rises; and the state then."""
    moves: list[object] = []
    engine.listen(_Moves(moves))
    engine.start()
    for step in range(first, last + 1):
        loss = abs(step - 600) / 600
        engine.step(samples=8, tokens=4000, epoch=step / 100)
        if engine.wants_evaluation:
            engine.observe(val_loss=loss)
    return moves, engine.state_dict()


class _Moves:
    """Keeps where each move led."""

    def __init__(self, moves: list[object]) -> None:
        self._moves = moves

    def write(self, records: tuple[Mapping[str, object], ...]) -> None:
        self._moves += [
            (record["step"], record["source"], record["target"])
            for record in records
            if record["type"] == "move"
        ]


@every_kind
def test_card_tells_of_every_field(kind):
    card = (CARDS / f"{kind}.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {kind}\n")
    own = set(KINDS[kind].model.model_fields) - {"type", "kind", "note"}
    rows = set(re.findall(r"^\| `(\w+)` \|", card, re.MULTILINE))
    assert own <= rows, "a field without a row"
    if kind not in ("plateau", "unstable"):  # their other tables are of verdicts
        assert rows <= own | {"train", "warmup", "grow"}, "a row without a field"


@every_kind
def test_card_says_what_a_reader_asks(kind):
    card = (CARDS / f"{kind}.md").read_text(encoding="utf-8").lower()
    if kind == "plateau":
        assert all(word in card for word in ("unknown", "disturbance"))
        return
    assert "disturbs" in card
    assert "resume" in card or "not yet" in card
    if issubclass(KINDS[kind].model, (*_GUARDS, activities.ActivityModel, actions.ActionModel)):
        assert "unknown" in card


_GUARDS = tuple({**tags(guards.Guard), **expressions.EXPRESSION_CALLS}.values())


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.md")), ids=lambda path: path.stem)
def test_examples_of_a_card_load(path):
    shown = [block for block in blocks(path) if block.language == "yaml"]
    assert shown or path.stem == "plateau"
    for block in shown:
        sg.load(as_graph(block.text))


@every_kind
def test_example_of_a_card_shows_its_kind(kind):
    shown = [block for block in blocks(CARDS / f"{kind}.md") if block.language == "yaml"]
    graphs = [sg.load(as_graph(block.text)) for block in shown]
    assert kind == "plateau" or any(_uses(graph, KINDS[kind].model) for graph in graphs)
