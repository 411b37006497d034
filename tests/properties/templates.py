"""Templates with any fields, and graphs built of them that run to their end."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.progress import Duration, Unit
from stagegraph.schema.guard_text import parse_guard
from stagegraph.schema.stages import (
    UseContextExtension,
    UseGradualUnfreezing,
    UseGrowCycle,
    UseSequential,
    UseSpikeRule,
    UseWarmupStableDecay,
)
from stagegraph.schema.templates.context_extension import ContextExtension
from stagegraph.schema.templates.gradual_unfreezing import GradualUnfreezing
from stagegraph.schema.templates.grow_cycle import GrowCycle, Undo
from stagegraph.schema.templates.overlapping import Overlapping
from stagegraph.schema.templates.sequential import Sequential
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.warmup_stable_decay import WarmupStableDecay

METRICS = {"m": {"goal": "minimize", "every": "1 step"}, "n": {"goal": "maximize"}}
EVENTS = ["ping"]

CURVES = st.sampled_from(["linear", "cosine", "exponential"])


def maybe(strategy):
    return st.none() | strategy


def tuples(strategy, min_size=0, max_size=3):
    return st.lists(strategy, min_size=min_size, max_size=max_size).map(tuple)


def one_or(count, strategy, none=False):
    """One for all, or one for each."""
    few = st.tuples(strategy) | st.tuples(*[strategy] * count)
    return st.just(()) | few if none else few


RUNNABLE = SimpleNamespace(
    spans=st.integers(1, 4).map(lambda n: Duration(n, Unit.STEPS)),
    waits=st.integers(1, 6).map(lambda n: Duration(n, Unit.STEPS)),
    guards=st.sampled_from(
        [
            "m < 1",
            "n > 0.5 or m > 2",
            "step >= 9",
            "plateau(m, patience=3 steps)",
            "elapsed(2 steps) and last(m) < best(m) * 1.5",
            "event(ping)",
            "not (m < 1)",
        ]
    ).map(parse_guard),
    metrics=st.sampled_from(["m", "n"]),
    growths=st.sampled_from(
        [
            {"type": "deepen", "stack": "b", "add": 1},
            {"type": "widen", "space": "w", "factor": 2},
            {"type": "attach", "host": ["b"], "module": "linear"},
        ]
    ),
    held=st.sampled_from([{"type": "lr_factor", "factor": 0.5}, {"type": "freeze", "of": "x.*"}]),
    names=st.just("positions"),
    globs=st.sampled_from(["a.*", "b.*", "c", "d"]),
    limits=st.integers(1, 2),
)
"""Fields with which a graph runs on numbers in a few dozen updates."""


def undos(of):
    return st.builds(
        Undo,
        metric=of.metrics,
        by=st.floats(0.01, 2),
        lasting=maybe(of.spans),
        nonfinite=of.limits,
        at_most=of.limits,
    )


@st.composite
def grow_cycles(draw, of=RUNNABLE, waiting=None):
    trigger = draw(of.guards if waiting else maybe(of.guards))
    wait = draw(of.waits if waiting is not None else maybe(of.waits)) if trigger else None
    if trigger and wait is None and of is RUNNABLE:
        wait = draw(of.waits)
    return GrowCycle(
        growth=draw(tuples(of.growths, 1, 2)),
        trigger=trigger,
        wait=wait,
        otherwise=draw(st.sampled_from(["grow", "skip"])) if wait else "grow",
        warmup=draw(of.spans),
        curve=draw(CURVES),
        lr_start=draw(st.sampled_from([0.0, 0.25])),
        blend=draw(st.booleans()),
        settle=draw(maybe(of.spans)),
        settle_factor=draw(st.sampled_from([0.3, 0.5])),
        consolidate=draw(of.spans),
        until=draw(maybe(of.guards)),
        undo=draw(maybe(undos(of))),
        during=draw(tuples(of.held, 0, 1)),
    )


def sequentials(of=RUNNABLE):
    return st.builds(Sequential, growths=tuples(grow_cycles(of), 1, 2))


@st.composite
def unfreezings(draw, of=RUNNABLE):
    groups = draw(st.lists(tuples(of.globs, 1, 2), min_size=2, max_size=3, unique=True))
    return GradualUnfreezing(
        groups=tuple(groups),
        every=draw(of.spans),
        when=draw(maybe(of.guards)),
        warmup=draw(maybe(of.spans)),
        curve=draw(CURVES),
        lr_decay=draw(st.sampled_from([1.0, 2.6])),
        last=draw(maybe(of.spans)),
        norms=draw(st.sampled_from(["keep", "eval"])),
    )


@st.composite
def schedules(draw, of=RUNNABLE):
    stable = draw(tuples(of.spans, 1, 3))
    return WarmupStableDecay(
        warmup=draw(maybe(of.spans)),
        stable=stable,
        decay=draw(one_or(len(stable), of.spans)),
        curve=draw(CURVES),
        end=draw(st.sampled_from([0.0, 0.1])),
        data=draw(st.sampled_from(["rewind", "skip"])),
        save=draw(st.booleans()),
        decay_during=draw(tuples(of.held, 0, 1)),
    )


@st.composite
def extensions(draw, of=RUNNABLE):
    lengths = sorted(draw(st.lists(st.integers(1, 2**20), min_size=1, max_size=2, unique=True)))
    return ContextExtension(
        space=draw(of.names),
        lengths=tuple(lengths),
        rope_base=draw(one_or(len(lengths), st.floats(0.5, 100), none=True)),
        init=draw(st.sampled_from(["last", "mean", "interpolate", "zero"])),
        warmup=draw(of.spans),
        curve=draw(CURVES),
        lr_start=draw(st.sampled_from([0.0, 0.5])),
        train=draw(of.spans),
    )


@st.composite
def spike_rules(draw, of=RUNNABLE):
    condition = {"by": 0.5, "lasting": draw(maybe(of.spans)), "nonfinite": draw(of.limits)}
    if draw(st.booleans()):
        condition = {"when": draw(of.guards)}
    return SpikeRule(
        metric=draw(of.metrics),
        **condition,
        every=draw(of.spans),
        data=draw(st.sampled_from(["skip", "rewind"])),
        lr_factor=draw(maybe(st.sampled_from([0.5, 0.9]))),
        at_most=draw(of.limits),
        then=draw(st.sampled_from(["go_on", "stop"])),
    )


@st.composite
def overlappings(draw, of=RUNNABLE):
    """Growths side by side, as a document writes them."""
    names = draw(st.lists(st.sampled_from(["a", "b", "use"]), min_size=1, unique=True))
    ranked = draw(st.lists(st.sampled_from(names), unique=True))
    return Overlapping(
        growths={name: draw(grow_cycles(of, waiting=True)) for name in names},
        priorities={name: draw(st.integers(-2, 2)) for name in ranked},
        watch=draw(maybe(spike_rules(of))),
    )


def regions_of(template):
    """The ``regions`` of a document that uses a template."""
    return {"use": template.template, "with": template}


def ending(of=RUNNABLE):
    """Every template that comes to an end."""
    return st.one_of(
        grow_cycles(of), sequentials(of), unfreezings(of), schedules(of), extensions(of)
    )


def used(of, next_, note):
    """Stages that use a template."""
    kinds = {
        UseGrowCycle: grow_cycles(of),
        UseSequential: sequentials(of),
        UseGradualUnfreezing: unfreezings(of),
        UseWarmupStableDecay: schedules(of),
        UseContextExtension: extensions(of),
        UseSpikeRule: spike_rules(of),
    }
    return st.one_of(
        *(
            st.builds(
                kind,
                use=st.just(_name(kind)),
                with_=template,
                next=maybe(next_) if kind is UseSpikeRule else next_,
                note=note,
            )
            for kind, template in kinds.items()
        )
    )


def _name(kind):
    return kind.model_fields["with_"].annotation.template


@st.composite
def built_graphs(draw):
    """Graphs of the builders; each comes to an end whatever the metrics do."""
    common = {
        "name": "built",
        "metrics": METRICS,
        "events": EVENTS,
        "watch": draw(maybe(spike_rules())),
    }
    if draw(st.booleans()):
        del common["watch"]
        side_by_side = regions_of(draw(overlappings()))
        overlap = draw(st.sampled_from([{}, {"max_overlap": 1}, {"max_overlap": 3}]))
        return sg.load({"stagegraph": 1, **common, **overlap, "regions": side_by_side})
    if draw(st.booleans()):
        growths = draw(st.lists(grow_cycles(waiting=True), min_size=1, max_size=3))
        overlap = draw(maybe(st.integers(1, len(growths))))
        return sg.overlapping(growths, max_overlap=overlap, **common)
    return sg.sequential(draw(st.lists(ending(), min_size=1, max_size=3)), **common)
