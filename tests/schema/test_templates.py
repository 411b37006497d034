"""Templates in documents and in Python: what they may say, what they expand to, whole graphs."""

from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

import stagegraph as sg
from stagegraph.graph.compile import compile_graph
from stagegraph.schema.differences import differences
from stagegraph.schema.expansion import put_in
from stagegraph.schema.stagegraph import Regions
from stagegraph.schema.stages import Stage, Use, UseTemplate
from stagegraph.schema.templates.registry import REGION_TEMPLATES, TEMPLATES
from stagegraph.schema.templates.sequential import Sequential
from stagegraph.schema.templates.template import RegionTemplate, Template, UseRegions

DEEPEN = {"type": "deepen", "stack": "blocks", "add": 2}
WIDEN = {"type": "widen", "space": "mlp", "factor": 2}
AT_ONCE = {"growth": [DEEPEN], "warmup": "50 steps", "consolidate": "90 steps"}
CYCLE = {**AT_ONCE, "trigger": "step >= 5", "wait": "40 steps"}


def stages_of(template):
    return list(put_in(template).stages)


def test_every_template_is_listed_once_and_can_be_used():
    assert set(TEMPLATES.values()) == set(Template.__subclasses__())
    uses = {kind.model_fields["with_"].annotation for kind in UseTemplate.__subclasses__()}
    assert uses == set(TEMPLATES.values())
    members = str(Stage)
    assert all(f"'use {name}'" in members for name in TEMPLATES)


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({}, ["grow", "warmup", "consolidate", "done"]),
        ({"settle": "5 steps"}, ["grow", "warmup", "settle", "consolidate", "done"]),
        ({"trigger": "step > 5"}, ["wait", "grow", "warmup", "consolidate", "done"]),
        ({"undo": {"metric": "m"}}, ["grow", "warmup", "consolidate", "undone", "done"]),
    ],
)
def test_a_cycle_has_the_stages_that_are_asked_for(fields, stages):
    assert stages_of(sg.GrowCycle(**{**AT_ONCE, **fields})) == stages


@pytest.mark.parametrize(
    ("growth", "blend", "ramps"),
    [
        ([DEEPEN], True, ["alpha_ramp", "lr_ramp"]),
        ([DEEPEN], False, ["lr_ramp"]),
        ([WIDEN], True, ["lr_ramp"]),
        ([WIDEN, DEEPEN], True, ["alpha_ramp", "lr_ramp"]),
    ],
)
def test_new_modules_are_blended_in_and_new_units_are_not(growth, blend, ramps):
    cycle = sg.GrowCycle(**{**AT_ONCE, "growth": growth, "blend": blend})
    assert [held.type for held in put_in(cycle).stages["warmup"].during] == ramps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sg.GrowCycle(**{**AT_ONCE, "growth": []}), "at least 1 item"),
        (lambda: sg.GrowCycle(**AT_ONCE, wait="5 steps"), "'wait' is for a trigger"),
        (
            lambda: sg.GrowCycle(**AT_ONCE, trigger="step > 5", otherwise="skip"),
            "'otherwise' is for when the wait is over",
        ),
        (
            lambda: sg.GrowCycle(**{**AT_ONCE, "growth": [{"type": "snapshot", "name": "s"}]}),
            "'growth' has no growth in it",
        ),
        (
            lambda: sg.SpikeRule(
                metric="m", when="m > 5", lasting="9 steps", every="9 steps", at_most=1
            ),
            "'when' takes the place of 'lasting'",
        ),
        (
            lambda: sg.ContextExtension(
                space="p", lengths=[8, 16, 32], rope_base=[2, 4], warmup="5 steps", train="5 steps"
            ),
            "3 lengths and 2 numbers in 'rope_base'",
        ),
        (lambda: sg.WarmupStableDecay(stable=[], decay="5 steps"), "at least 1 item"),
    ],
)
def test_fields_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_one_amount_stands_for_all():
    rate = sg.WarmupStableDecay(stable=["5 steps", "6 steps"], decay="2 steps")
    assert [str(put_in(rate).stages[f"anneal{n}"].duration) for n in (1, 2)] == ["2 steps"] * 2
    longer = sg.ContextExtension(
        space="p", lengths=[8, 16], rope_base=2, warmup="5 steps", train="5 steps"
    )
    assert [put_in(longer).stages[f"extend{n}"].actions[0].rope_base for n in (1, 2)] == [2, 2]


def test_every_anneal_is_saved_before_the_trunk_comes_back():
    rate = sg.WarmupStableDecay(stable=["5 steps", "6 steps"], decay="2 steps")
    ends = [put_in(rate).stages[f"anneal{n}"].transitions[0] for n in (1, 2)]
    assert [[action.type for action in end.actions] for end in ends] == [
        ["save", "roll_back"],
        ["save"],
    ]
    assert [end.actions[0].name for end in ends] == ["anneal1", "anneal2"]
    stages = put_in(rate.model_copy(update={"save": False})).stages
    assert [action.type for action in stages["anneal1"].transitions[0].actions] == ["roll_back"]
    assert (stages["anneal2"].next, stages["anneal2"].transitions) == ("done", ())


def test_a_spike_rule_passes_over_so_many_batches():
    rule = sg.spike_rule(metric="m", every="9 steps", at_most=2, skip_batches=200)
    (spike,) = put_in(rule).interrupts
    assert (spike.actions[0].data, spike.actions[0].skip_batches) == ("skip", 200)
    with pytest.raises(sg.DocumentError, match="'skip_batches' belongs to data: skip"):
        sg.spike_rule(metric="m", every="9 steps", at_most=2, skip_batches=200, data="rewind")


def test_a_spike_may_be_what_stays_unstable_since_the_newest_snapshot():
    rule = sg.spike_rule(
        metric="loss",
        every="900 steps",
        at_most=2,
        when="unstable(loss, since=good, over=40 steps) or nonfinite(loss) >= 3",
    )
    graph = sg.sequential(
        {"lr": sg.WarmupStableDecay(stable="5k steps", decay="2 steps")},
        name="x",
        watch=rule,
        metrics={"loss": {"goal": "minimize", "every": "1 step"}},
    )
    assert [str(f) for f in sg.check(graph) if f.severity != "note"] == []


def test_the_data_follows_the_lengths_if_asked_to():
    fields = {"space": "p", "lengths": [8, 16], "warmup": "5 steps", "train": "5 steps"}
    stages = put_in(sg.context_extension(**fields, data=True)).stages
    held = {
        name: [one.length for one in stage.during if one.type == "sequence_length"]
        for name, stage in stages.items()
        if stage.kind in ("warmup", "consolidate")
    }
    assert held == {"warmup1": [8], "train1": [8], "warmup2": [16], "train2": [16]}
    plain = put_in(sg.context_extension(**fields)).stages
    assert all(not stage.during for stage in plain.values() if stage.kind == "consolidate")


def test_a_template_is_frozen_and_hashable():
    one, other = sg.GrowCycle(**CYCLE), sg.GrowCycle(**CYCLE)
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(ValidationError, match="frozen"):
        one.warmup = "9 steps"


# expand


def test_equal_templates_share_an_entry_and_others_get_a_number():
    other = {**CYCLE, "growth": [WIDEN]}
    mine = {"initial": "a", "stages": {"a": {"kind": "final"}}}
    graph = sg.sequential([CYCLE, other, CYCLE], name="x", graphs={"grow_cycle": mine})
    expanded = sg.expand(graph)
    assert list(expanded.graphs) == ["grow_cycle", "grow_cycle_2", "grow_cycle_3"]
    assert expanded.graphs["grow_cycle"] == graph.graphs["grow_cycle"]
    used = [stage.use for stage in expanded.stages.values() if isinstance(stage, Use)]
    assert used == ["grow_cycle_2", "grow_cycle_3", "grow_cycle_2"]


def test_templates_inside_of_templates_and_of_entries_are_written_out_too():
    growths = {"use": "sequential", "with": {"growths": [CYCLE]}, "next": "end", "note": "both"}
    mine = {"initial": "a", "stages": {"a": growths, "end": {"kind": "final"}}}
    graph = sg.load(
        {
            "stagegraph": 1,
            "name": "x",
            "graphs": {"mine": mine},
            "initial": "c",
            "stages": {"c": {"use": "mine", "next": "done"}, "done": {"kind": "final"}},
        }
    )
    expanded = sg.expand(graph)
    assert list(expanded.graphs) == ["mine", "grow_cycle", "sequential"]
    assert expanded.graphs["mine"].stages["a"] == Use(use="sequential", next="end", note="both")
    assert expanded.graphs["sequential"].stages["growth1"].use == "grow_cycle"


def test_a_graph_without_templates_comes_back_as_it_is():
    graph = sg.load("{stagegraph: 1, name: x, initial: a, stages: {a: {kind: final}}}")
    assert sg.expand(graph) is graph


def test_what_differs_in_a_field_is_told_at_the_field():
    one = sg.sequential({"c": CYCLE}, name="x")
    other = sg.sequential({"c": {**CYCLE, "warmup": "60 steps", "settle": "5 steps"}}, name="x")
    assert [str(found) for found in differences(one, other)] == [
        "~ /stages/c/with/warmup: 50 steps -> 60 steps",
        "+ /stages/c/with/settle: 5 steps",
    ]


# filled in from Python

BUILDERS = {
    template.template: getattr(sg, template.template)
    for template in TEMPLATES.values()
    if template is not Sequential
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builder_has_the_fields_and_the_defaults_of_its_template(name):
    fields = TEMPLATES[name].model_fields
    parameters = inspect.signature(BUILDERS[name]).parameters
    assert set(parameters) == set(fields)
    for key, parameter in parameters.items():
        required = fields[key].is_required()
        default = parameter.empty if required else fields[key].default
        assert parameter.default == default, key


def test_a_builder_gives_the_frozen_template():
    made = sg.grow_cycle(**CYCLE, undo={"metric": "m", "by": "5%"})
    assert made == sg.GrowCycle(**CYCLE, undo={"metric": "m", "by": 0.05})
    assert list(sg.expand(made).stages)[:2] == ["wait", "grow"]
    rule = sg.spike_rule(metric="m", every="9 steps", at_most=2, when="m > 5")
    assert rule == sg.SpikeRule(metric="m", every="9 steps", at_most=2, when="m > 5")


def test_what_is_wrong_in_a_builder_is_told_by_its_field():
    with pytest.raises(sg.DocumentError) as caught:
        sg.grow_cycle(growth=[{"type": "deepn"}], warmup="5 stps", consolidate="9 steps")
    assert [defect.pointer for defect in caught.value.defects] == ["/growth/0/type", "/warmup"]
    assert str(caught.value).startswith("<grow_cycle>: /growth/0/type: unknown type of action")


# whole graphs


def test_parts_without_names_are_called_by_their_template_and_a_number():
    rate = sg.WarmupStableDecay(stable="9 steps", decay="5 steps")
    graph = sg.sequential([CYCLE, rate, sg.GrowCycle(**CYCLE)], name="x")
    assert list(graph.stages) == ["grow_cycle1", "warmup_stable_decay1", "grow_cycle2", "done"]


def test_python_and_yaml_build_the_same_graph():
    graph = sg.sequential({"c": sg.GrowCycle(**CYCLE)}, name="x", budget={"steps": "2k"})
    text = """
stagegraph: 1
name: x
budget: {steps: 2000}
initial: c
stages:
  c:
    use: grow_cycle
    with:
      growth: [{type: deepen, stack: blocks, add: 2}]
      trigger: step >= 5
      wait: 40 steps
      warmup: 50 steps
      consolidate: 90 steps
    next: done
  done: {kind: final}
"""
    assert sg.load(text) == graph
    assert sg.load(sg.dump(graph)) == graph


def test_a_growth_without_a_trigger_cannot_overlap():
    with pytest.raises(sg.DocumentError, match=r"/regions/b: growths that overlap are grow cycles"):
        sg.overlapping({"a": CYCLE, "b": AT_ONCE}, name="x")
    rate = sg.WarmupStableDecay(stable="9 steps", decay="5 steps")
    with pytest.raises(sg.DocumentError, match=r"/regions/warmup_stable_decay1: "):
        sg.overlapping([CYCLE, rate], name="x")


def test_priorities_are_of_growths_that_there_are():
    graph = sg.overlapping({"a": CYCLE, "b": CYCLE}, name="x", priorities={"b": 7})
    assert {name: region.priority for name, region in graph.regions.items()} == {"a": 1, "b": 7}
    with pytest.raises(
        sg.DocumentError, match="there is no growth 'c' for a priority; known: a, b"
    ):
        sg.overlapping({"a": CYCLE, "b": CYCLE}, name="x", priorities={"c": 7})


def test_a_growth_does_not_stand_in_the_way_of_the_rule_for_spikes():
    rule = sg.SpikeRule(metric="m", every="9 steps", at_most=2)
    with pytest.raises(sg.DocumentError, match="'watch' is the region of the rule for spikes"):
        sg.overlapping({"watch": CYCLE, "b": CYCLE}, name="x", watch=rule)
    assert list(sg.overlapping({"watch": CYCLE}, name="x").regions) == ["watch"]


# regions by a template

RULE = {"metric": "m", "every": "9 steps", "at_most": 2}


def by_template(**more):
    top = {key: more.pop(key) for key in ("max_overlap",) if key in more}
    fields = {"growths": {"b": CYCLE, "a": CYCLE}, **more}
    return sg.load(
        {
            "stagegraph": 1,
            "name": "x",
            "metrics": {"m": {"goal": "minimize"}},
            **top,
            "regions": {"use": "overlapping", "with": fields},
        }
    )


def test_every_template_of_regions_is_listed_once_and_can_be_used():
    assert set(REGION_TEMPLATES.values()) == set(RegionTemplate.__subclasses__())
    uses = {kind.model_fields["with_"].annotation for kind in UseRegions.__subclasses__()}
    assert uses == set(REGION_TEMPLATES.values())
    assert all(f"'use {name}'" in str(Regions) for name in REGION_TEMPLATES)
    assert not set(REGION_TEMPLATES) & set(TEMPLATES)


@pytest.mark.parametrize("overlap", [None, 1, 2])
@pytest.mark.parametrize("watch", [{}, {"watch": RULE}])
def test_regions_by_a_template_are_what_the_builder_makes(overlap, watch):
    said = {} if overlap is None else {"max_overlap": overlap}
    graph = by_template(**said, **watch, priorities={"a": 3})
    built = sg.overlapping(
        {"b": CYCLE, "a": CYCLE},
        name="x",
        max_overlap=overlap,
        priorities={"a": 3, "b": 0},
        watch=sg.spike_rule(**RULE) if watch else None,
        metrics={"m": {"goal": "minimize"}},
    )
    assert (graph.all_regions, graph.max_overlap) == (built.all_regions, built.max_overlap)
    assert sg.expand(graph) == sg.expand(built)
    assert sg.digest(sg.expand(graph)) == sg.digest(sg.expand(built))


def test_the_order_of_growths_means_nothing():
    one = by_template()
    other = by_template(growths={"a": CYCLE, "b": CYCLE})
    assert sg.digest(one) == sg.digest(other)
    order = [[r.name for r in compile_graph(graph)[0].regions] for graph in (one, other)]
    assert order == [["a", "b"]] * 2


@pytest.mark.parametrize("said", [None, 1, 2, 3])
def test_what_is_said_of_overlap_is_kept(said):
    graph = by_template(**({} if said is None else {"max_overlap": said}))
    assert graph.max_overlap == (2 if said is None else said)
    plain = graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for again in (sg.load(sg.dump(graph)), sg.load(sg.dump(graph, "json")), sg.load(plain)):
        assert again == graph
        assert again.max_overlap == graph.max_overlap


def test_one_growth_overlaps_with_none():
    assert by_template(growths={"a": CYCLE}).max_overlap == 1


def test_a_region_may_be_called_use():
    region = {"initial": "a", "stages": {"a": {"kind": "final"}}}
    graph = sg.load({"stagegraph": 1, "name": "x", "regions": {"use": region, "with": region}})
    assert list(graph.all_regions) == ["use", "with"]
    assert sg.load(sg.dump(graph)) == graph


def test_a_template_of_regions_in_a_stage_without_fields_is_told_where_it_stands():
    graph = sg.load(
        "{stagegraph: 1, name: x, initial: b, stages: "
        "{a: {use: overlapping, next: b}, b: {kind: final}}}"
    )
    (found,) = [f for f in sg.check(graph) if f.code == "unknown-graph"]
    assert found.pointer == "/stages/a/use"
    assert "makes regions, not stages: write it at the root, 'regions: {use: ov" in found.message


def test_what_is_found_inside_is_told_at_the_use():
    graph = by_template(growths={"a": {**CYCLE, "trigger": "mm < 1"}})
    (found,) = [f for f in sg.check(graph) if f.severity == "error"]
    assert (found.code, found.pointer) == ("undeclared-metric", "/regions/use")
    assert found.message.endswith(
        "(in what the template puts in: "
        "/regions/a/stages/growth/use/stages/wait/transitions/0/when)"
    )


def test_what_differs_in_regions_by_a_template_is_told_at_the_field():
    one, other = by_template(), by_template(priorities={"a": 1})
    assert [str(found) for found in differences(one, other)] == [
        "+ /regions/with/priorities/a: 1",
    ]


def test_a_rule_for_spikes_is_no_part_but_a_region_beside():
    rule = sg.SpikeRule(metric="m", every="9 steps", at_most=2)
    with pytest.raises(sg.DocumentError, match="'spike_rule' has no end; give it as 'watch'"):
        sg.sequential([CYCLE, rule], name="x")
    metrics = {"m": {"goal": "minimize"}}
    one = sg.sequential([CYCLE], name="x", watch=rule, metrics=metrics)
    assert list(one.regions) == ["main", "watch"]
    two = sg.overlapping([CYCLE, CYCLE], name="x", watch=rule, metrics=metrics)
    assert list(two.regions) == ["grow_cycle1", "grow_cycle2", "watch"]
    assert not any(f.severity == "error" for graph in (one, two) for f in sg.check(graph))


def test_what_is_wrong_in_a_part_is_told_with_its_place():
    with pytest.raises(sg.DocumentError) as caught:
        sg.sequential({"c": {**CYCLE, "warm_up": "5 steps"}}, name="x", budget={"stepps": 5})
    assert [defect.pointer for defect in caught.value.defects] == [
        "/budget/stepps",
        "/stages/c/with/warm_up",
    ]


@pytest.mark.parametrize("build", [sg.sequential, sg.overlapping])
def test_a_graph_is_built_of_something(build):
    with pytest.raises(sg.DocumentError, match="at least one part"):
        build([], name="x")
    with pytest.raises(TypeError, match="part 'grow_cycle1' is a template, or a mapping"):
        build([5], name="x")


def test_sequential_in_python_and_as_a_template_run_the_same():
    """The one is stages of the graph, the other one stage of it."""
    python = sg.sequential([CYCLE, CYCLE], name="x")
    template = sg.sequential({"c": Sequential(growths=[CYCLE, CYCLE])}, name="x")
    stays = [
        [(i.stage.rpartition(".")[2], i.start, i.end) for i in sg.simulate(graph).schedule]
        for graph in (python, template)
    ]
    assert stays[0] == stays[1]
    assert len(stays[0]) == 7
