"""Hypothesis strategies for everything a document may hold.

``graphs()`` is anything that is well-formed, however senseless: names that point nowhere, guards
of any shape, strange text. ``sound_graphs()`` (in :mod:`tests.properties.sound`) is what could
be run. ``expressions()``, ``guards()``, ``durations()`` and the rest build their parts.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from hypothesis import strategies as st

from stagegraph.progress import Duration, Unit
from stagegraph.schema import actions as act
from stagegraph.schema import activities as during
from stagegraph.schema import expressions as ex
from stagegraph.schema import guards as gd
from stagegraph.schema import stages as sg
from stagegraph.schema import transitions as tr
from stagegraph.schema.base import FrozenMap
from stagegraph.schema.levels import MovingCount, MovingLevel, MovingNumber
from stagegraph.schema.names import GRAMMAR_WORDS, PROGRESS_NAMES, RESERVED
from stagegraph.schema.stagegraph import Budget, Metric, Region, StageGraph, SubGraph
from tests.properties.sound import sound_graphs
from tests.properties.templates import overlappings, regions_of, used

__all__ = [
    "actions",
    "activities",
    "durations",
    "expressions",
    "graphs",
    "guards",
    "names",
    "numbers",
    "sound_graphs",
    "stages",
    "texts",
]

_AWKWARD_NAMES = [
    *("on", "no", "y", "null", "true", "and", "or", "not", "in", "done", "last", "kind", "type"),
    *("use", "e3", "k", "M", "steps", "s", "If", "None", "a" * 64),
]
_AWKWARD_TEXTS = [
    *("on", "~", "null", "1e3", "0x10", "0o7", "1_0", "012", "2024-01-01", "x: y", "#", "- a"),
    *("a #b", ".inf", "=", "<<", "*a", "&a", "!a", "%", "@", "`", "'", '"', "\\", "{a", "]", " a "),
    *("a\nb", "\ta", "a\r\nb", "\u2028", "\x85", "\x00", "\ufeff", "é😀"),
]


def names():
    """Names: mostly short, at times words that mean something elsewhere."""
    plain = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,7}", fullmatch=True)
    return (plain | st.sampled_from(_AWKWARD_NAMES)).filter(lambda name: name not in RESERVED)


def metric_names():
    return read_names().filter(lambda name: name not in PROGRESS_NAMES)


def read_names():
    """What a guard may read by name."""
    return names().filter(lambda name: name not in GRAMMAR_WORDS)


def references():
    """``stage``, ``subgraph.stage``, ``region:stage``."""
    parts = st.lists(names(), min_size=1, max_size=3).map(".".join)
    return parts | st.builds("{}:{}".format, names(), parts)


def targets():
    return references() | st.sampled_from(["stop", "back"])


def texts(min_size=0, max_size=40):
    """Any text a document can hold, and texts that look like something else."""
    awkward = st.sampled_from(_AWKWARD_TEXTS).filter(lambda text: len(text) >= min_size)
    return awkward | st.text(st.characters(codec="utf-8"), min_size=min_size, max_size=max_size)


def numbers(low=None, high=None):
    """Numbers within the bounds of documents; at times whole, at times a hair's breadth."""
    low, high = -1e18 if low is None else low, 1e18 if high is None else high
    reals = st.floats(low, high).filter(lambda x: x == 0 or abs(x) >= 1e-15)
    wholes = st.integers(max(int(low), -(10**18)), min(int(high), 10**18)).map(float)
    return reals | wholes.filter(lambda x: low <= x <= high)


def durations():
    """Amounts of progress with any unit."""
    wholes = st.integers(1, 10**15)
    parts = st.floats(1e-9, 1e12).filter(lambda x: x > 0)
    return st.builds(Duration, wholes, st.sampled_from(Unit)) | st.builds(
        Duration, parts, st.sampled_from([Unit.EPOCHS, Unit.SECONDS])
    )


def _maybe(strategy):
    return st.none() | strategy


def _tuples(strategy, min_size=0, max_size=3):
    return st.lists(strategy, min_size=min_size, max_size=max_size).map(tuple)


def _maps(keys, values, min_size=0, max_size=3):
    return st.dictionaries(keys, values, min_size=min_size, max_size=max_size).map(FrozenMap)


NOTES = _maybe(texts())
AMOUNTS = st.sampled_from(["params", "steps", "epochs", "samples", "tokens", "flops", "seconds"])


@cache
def expressions():
    """Expression trees: numbers, names, calls and what arithmetic makes of them."""
    leaves = (
        numbers()
        | st.builds(ex.NameExpr, type=st.just("name"), name=read_names())
        | st.builds(ex.Last, type=st.just("last"), metric=metric_names())
        | st.builds(ex.Best, type=st.just("best"), metric=metric_names())
        | st.builds(ex.Nonfinite, type=st.just("nonfinite"), metric=metric_names())
        | st.builds(ex.Gain, type=st.just("gain"), metric=metric_names(), over=durations())
        | st.builds(ex.Spent, type=st.just("spent"), amount=AMOUNTS)
        | st.builds(ex.Left, type=st.just("left"), amount=AMOUNTS)
        | st.builds(ex.Visits, type=st.just("visits"), stage=references())
    )

    def combined(inner):
        return st.builds(
            ex.Arithmetic,
            type=st.just("arithmetic"),
            op=st.sampled_from(["+", "-", "*", "/"]),
            left=inner,
            right=inner,
        ) | st.builds(ex.Negative, type=st.just("negative"), of=inner)

    return st.recursive(leaves, combined, max_leaves=5)


def _shares():
    return st.floats(1e-15, 9.99)


@cache
def plateaus():
    worth = st.builds(
        gd.Plateau,
        type=st.just("plateau"),
        metric=metric_names(),
        worth=_shares(),
        over=_maybe(durations()),
        confirm=st.integers(1, 100),
        confidence=st.floats(0.5, 0.999),
    )
    patience = st.builds(
        gd.Plateau,
        type=st.just("plateau"),
        metric=metric_names(),
        patience=durations(),
        delta=numbers(0, 9.99),
    )
    return worth | patience


@cache
def compared():
    """``regressed``, ``recovered`` and ``improved``."""

    def built(model, kind, mark):
        return st.builds(
            model,
            type=st.just(kind),
            metric=metric_names(),
            since=names(),
            lasting=_maybe(durations()),
            **{mark: _shares()},
        )

    return (
        built(gd.Regressed, "regressed", "by")
        | built(gd.Recovered, "recovered", "within")
        | built(gd.Improved, "improved", "by")
    )


@cache
def unstables():
    """``unstable``, its durations in one unit and in order."""

    def steps(least, most):
        return st.integers(least, most).map(lambda amount: Duration(amount, Unit.STEPS))

    return st.builds(
        gd.Unstable,
        type=st.just("unstable"),
        metric=metric_names(),
        since=names(),
        over=steps(1, 99),
        spreads=numbers(0.1, 99),
        by=_shares(),
        allow=_maybe(steps(1, 50)),
        within=_maybe(steps(51, 99)),
        lasting=_maybe(steps(1, 99)),
    )


@cache
def guards():
    """Guard trees of every type."""
    leaves = (
        st.builds(
            gd.Compare,
            type=st.just("compare"),
            left=expressions(),
            op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
            right=expressions(),
        )
        | plateaus()
        | compared()
        | unstables()
        | st.builds(gd.Elapsed, type=st.just("elapsed"), duration=durations())
        | st.builds(gd.Completed, type=st.just("completed"))
        | st.builds(gd.InStage, type=st.just("in"), stage=references())
        | st.builds(gd.Done, type=st.just("done"), region=names())
        | st.builds(gd.EventSeen, type=st.just("event"), event=names())
        | st.builds(gd.Affordable, type=st.just("affordable"), stage=references())
        | st.builds(gd.Exhausted, type=st.just("exhausted"), stage=references())
        | st.builds(gd.Harmful, type=st.just("harmful"), metric=metric_names(), by=_shares())
    )

    def combined(inner):
        parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return (
            st.builds(gd.All, type=st.just("all"), of=parts)
            | st.builds(gd.Any_, type=st.just("any"), of=parts)
            | st.builds(gd.Not, type=st.just("not"), of=inner)
        )

    return st.recursive(leaves, combined, max_leaves=6).filter(
        lambda guard: gd.tree_depth(guard) <= gd.MAX_TREE_DEPTH
    )


def _sizes():
    counts = st.integers(1, 2**53)
    return st.one_of(
        st.fixed_dictionaries({"add": counts}),
        st.fixed_dictionaries({"to": counts}),
        st.fixed_dictionaries({"factor": st.floats(1.001, 1000)}),
    )


def _ways():
    """How a deepening chooses its blocks, with what each way takes."""
    at = _maybe(st.sampled_from(["end", "spread"]))
    noise = _maybe(st.sampled_from([0.01, 0.5, 1.0]))
    zero = _tuples(texts(1))
    copying = st.sampled_from(["stack", "interleave", "middle", "drop_and_cat"])
    identity = {"how": st.just("identity"), "at": at, "zero": zero}
    return st.one_of(
        st.fixed_dictionaries({**identity, "init": _maybe(st.just("copy")), "noise": noise}),
        st.fixed_dictionaries({**identity, "init": st.just("fresh")}),
        st.fixed_dictionaries({"how": st.just("random"), "at": at}),
        st.fixed_dictionaries({"how": copying, "noise": noise}),
    )


@cache
def growths():
    """Structural actions."""
    deepen = st.builds(
        lambda size, way, **rest: act.Deepen(type="deepen", **size, **way, **rest),
        size=_sizes(),
        way=_ways(),
        stack=texts(1),
        name=_maybe(names()),
        count=_tuples(texts(1)),
        leave=_tuples(texts(1)),
        note=NOTES,
    )
    widen = st.builds(
        lambda size, **rest: act.Widen(type="widen", **size, **rest),
        size=_sizes(),
        space=names(),
        name=_maybe(names()),
        how=st.sampled_from(["split", "zero_out"]),
        note=NOTES,
    )
    attach = st.builds(
        lambda made, **rest: act.Attach(type="attach", **made, **rest),
        made=st.sampled_from(
            [
                {"module": "adapter", "bottleneck": 4, "norm": "layer"},
                {"module": "mlp", "hidden": 8, "act": "relu", "bias": False, "axis": 1},
                {"module": "linear", "in_features": 3, "out_features": 5},
                {"module": "copy"},
                {"module": "mine", "init": "zero"},
            ]
        ),
        host=_tuples(texts(1), 1),
        mode=st.sampled_from(["parallel", "after"]),
        child=_maybe(names()),
        name=_maybe(names()),
        note=NOTES,
    )
    upcycle = st.builds(
        act.Upcycle,
        type=st.just("upcycle"),
        host=_tuples(texts(1), 1),
        experts=st.integers(3, 9),
        top_k=st.integers(1, 3),
        noise=st.sampled_from([0.0, 0.01]),
        reinit=st.sampled_from([0.0, 0.5]),
        child=names(),
        name=_maybe(names()),
        note=NOTES,
    )
    add_experts = st.builds(
        lambda size, **rest: act.AddExperts(type="add_experts", **size, **rest),
        size=_sizes(),
        moe=_tuples(texts(1), 1),
        top_k=st.sampled_from(["keep", "scale"]),
        noise=st.sampled_from([0.0, 0.01]),
        name=_maybe(names()),
        note=NOTES,
    )
    add_head = st.builds(
        act.AddHead,
        type=st.just("add_head"),
        heads=texts(1),
        head=names(),
        like=_maybe(texts(1)),
        init=st.sampled_from(["copy", "fresh"]),
        name=_maybe(names()),
        note=NOTES,
    )
    inherit = st.builds(
        act.Inherit,
        type=st.just("inherit"),
        source=names(),
        how=st.sampled_from(["split", "corner"]),
        stacks=st.sampled_from(["identity", "leave"]),
        zero=_tuples(texts(1)),
        rename=st.dictionaries(texts(1), texts(1), max_size=2).map(FrozenMap),
        leave=_tuples(texts(1)),
        sizes=st.dictionaries(names(), st.integers(1, 2**53), max_size=2).map(FrozenMap),
        strict=st.booleans(),
        state=st.sampled_from(["reset", "keep"]),
        name=_maybe(names()),
        note=NOTES,
    )
    regrow = st.builds(
        act.Regrow,
        type=st.just("regrow"),
        build=_maybe(names()),
        fields=st.dictionaries(
            names(),
            st.booleans() | st.integers(-(2**53), 2**53) | texts(),
            min_size=1,
            max_size=3,
        ).map(FrozenMap),
        how=st.sampled_from(["split", "corner"]),
        stacks=st.sampled_from(["identity", "leave"]),
        zero=_tuples(texts(1)),
        name=_maybe(names()),
        note=NOTES,
    )
    modules = attach | upcycle | add_experts | add_head
    return deepen | widen | modules | inherit | regrow | _unit_growths()


@cache
def _unit_growths():
    """Growths of units that have a name of their own."""

    def growth(kind, type_, **fields):
        return st.builds(
            lambda size, **rest: kind(type=type_, **size, **rest),
            size=_sizes(),
            space=names(),
            name=_maybe(names()),
            note=NOTES,
            **fields,
        )

    orders = st.sampled_from(["qkv", "vqk"])
    return (
        growth(
            act.ExtendVocab,
            "extend_vocab",
            init=st.sampled_from(["mean", "mean_noise", "random"]),
            quiet=st.booleans(),
        )
        | growth(
            act.ExtendContext,
            "extend_context",
            init=st.sampled_from(["last", "mean", "interpolate", "zero"]),
            rope_base=_maybe(st.floats(0.001, 1000)),
        )
        | growth(
            act.AddHeads,
            "add_heads",
            how=st.sampled_from(["zero_out", "split", "uneven", "zero_in"]),
            q=_tuples(texts(1)),
            order=orders,
        )
        | growth(
            act.WidenHeadDim,
            "widen_head_dim",
            k=_tuples(texts(1)),
            v=_tuples(texts(1)),
            order=orders,
            scale=st.sampled_from(["auto", "by_size", "fixed"]),
        )
    )


@cache
def actions():
    """Actions of every type."""
    return (
        growths()
        | st.builds(act.SnapshotAction, type=st.just("snapshot"), name=names(), note=NOTES)
        | st.builds(act.Baseline, type=st.just("baseline"), name=names(), note=NOTES)
        | st.builds(act.TeacherAction, type=st.just("teacher"), name=names(), note=NOTES)
        | st.builds(act.SaveAction, type=st.just("save"), name=names(), note=NOTES)
        | st.builds(act.Send, type=st.just("send"), event=names(), note=NOTES)
        | st.builds(
            act.RollBack,
            type=st.just("roll_back"),
            to=names(),
            data=st.sampled_from(["rewind", "skip"]),
            lr_factor=_maybe(st.floats(1e-9, 0.999)),
            rng=st.sampled_from(["restore", "fork"]),
            exclude=_maybe(references()),
            note=NOTES,
        )
        | st.builds(
            act.RollBack,
            type=st.just("roll_back"),
            to=names(),
            data=st.just("skip"),
            skip_batches=st.integers(1, 10**6),
            note=NOTES,
        )
        | st.builds(
            act.Attribute,
            type=st.just("attribute"),
            metric=metric_names(),
            of=_tuples(st.sampled_from(["all", "grown"]) | _cohorts(), 1),
            note=NOTES,
        )
        | st.builds(
            act.Prune,
            type=st.just("prune"),
            of=st.just(("worst",)) | _tuples(st.just("grown") | _cohorts(), 1),
            tolerance=_maybe(st.floats(1e-9, 1e9)),
            note=NOTES,
        )
    )


def _cohorts():
    return st.builds(during.GrownCohort, grown=names())


def selections(*words):
    groups = st.builds(during.GroupMembers, group=texts(1))
    own = texts(1).filter(lambda text: text not in ("all", "*"))
    return _tuples(own | st.sampled_from(["grown", *words]) | _cohorts() | groups, 1)


def chosen():
    """``of`` and ``but`` of an activity: the second leaves something of the first."""
    pairs = st.tuples(selections("all", "*"), st.just(()) | selections())
    return pairs.filter(lambda pair: not set(pair[0]) <= set(pair[1]))


@cache
def curves():
    """Curves by name and by their points."""
    inner = st.floats(1e-9, 1 - 1e-9)
    ways = st.dictionaries(inner, st.sampled_from([0.0, 1.0]) | inner, max_size=4)
    points = ways.map(lambda way: ((0.0, 0.0), *sorted(way.items()), (1.0, 1.0)))
    return st.sampled_from(["linear", "cosine", "exponential"]) | points


def levels(least=0.0, most=1000.0):
    """Numbers, and numbers that move."""
    ends = st.floats(least, most)
    pairs = st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1])
    return ends | st.builds(
        lambda pair, **rest: MovingLevel(start=pair[0], end=pair[1], **rest),
        pair=pairs,
        over=durations(),
        curve=curves(),
    )


@cache
def lessons():
    """Distillations, on logits and on features."""
    weighted = st.builds(during.WeightedTeacher, name=names(), weight=levels(1e-9))
    teachers = st.lists(
        names() | weighted, min_size=1, max_size=3, unique_by=lambda one: getattr(one, "name", one)
    ).map(tuple)
    common = {
        "type": st.just("distill"),
        "teachers": teachers,
        "weight": levels(1e-9, 1.0),
        "mix": st.sampled_from(["add", "interpolate"]),
        "axis": st.integers(-8, 8),
        "note": NOTES,
    }
    return st.builds(during.Distill, temperature=levels(1e-9), **common) | st.builds(
        during.Distill,
        on=st.just("features"),
        loss=st.sampled_from([None, "mse", "cosine"]),
        features=_tuples(texts(1), 1),
        **common,
    )


def counts(least=1, most=10**6):
    """Whole numbers, and whole numbers that move."""
    ends = st.integers(least, most)
    pairs = st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1])
    return ends | st.builds(
        lambda pair, **rest: MovingCount(start=pair[0], end=pair[1], **rest),
        pair=pairs,
        over=durations(),
        curve=st.sampled_from(["linear", "cosine", "exponential"]),
    )


@cache
def settings():
    """Any numbers, and numbers that move."""
    ends = numbers(-1e6, 1e6)
    pairs = st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1])
    return ends | st.builds(
        lambda pair, **rest: MovingNumber(start=pair[0], end=pair[1], **rest),
        pair=pairs,
        over=durations(),
        curve=st.sampled_from(["linear", "cosine", "exponential"]),
    )


@cache
def of_the_data():
    """Activities of the data, and hyper-parameters."""
    about = st.sampled_from([{"optimizer": "betas.0"}, {"attribute": "*.p"}, {"knob": "clip"}])
    to = settings().map(lambda one: {"value": one}) | levels(0.0, 0.9).map(
        lambda one: {"factor": one}
    )
    sizes = st.integers(1, 10**6).map(lambda one: {"size": one}) | st.integers(2, 9).map(
        lambda one: {"factor": float(one)}
    )
    ropes = st.just({}) | st.builds(
        lambda base, paths: {"rope_base": base, "rope_attributes": paths},
        numbers(1, 1e6),
        _tuples(texts(1), 1),
    )
    return (
        st.builds(
            during.Difficulty, type=st.just("difficulty"), level=st.integers(0, 10**6), note=NOTES
        )
        | st.builds(during.Mixture, type=st.just("mixture"), weights=_maps(names(), levels(0.1), 1))
        | st.builds(
            lambda length, ropes: during.SequenceLength(
                type="sequence_length", length=length, **ropes
            ),
            counts(),
            ropes,
        )
        | st.builds(
            lambda size, **rest: during.BatchSize(type="batch_size", **size, **rest),
            sizes,
            lr=st.sampled_from(["keep", "linear", "sqrt"]),
            accumulate=st.sampled_from(["keep", "grow"]),
        )
        | st.builds(lambda about, to: during.Hyper(type="hyper", **about, **to), about, to)
    )


@cache
def activities():
    """Activities of every type."""
    grown = _tuples(st.just("grown") | st.builds(during.GrownCohort, grown=names()), 1)
    factors = st.floats(0, 1000)
    ends = st.tuples(factors, factors).filter(lambda pair: pair[0] != pair[1])
    return (
        st.builds(
            during.AlphaRamp,
            type=st.just("alpha_ramp"),
            of=grown,
            start=numbers(0, 1),
            end=numbers(0, 1),
            over=durations(),
            curve=curves(),
            note=NOTES,
        )
        | st.builds(
            lambda ends, of, **rest: during.LrRamp(
                type="lr_ramp", start=ends[0], end=ends[1], of=of[0], but=of[1], **rest
            ),
            ends=ends,
            of=chosen(),
            over=durations(),
            curve=curves(),
            note=NOTES,
        )
        | st.builds(
            lambda of, **rest: during.LrFactor(type="lr_factor", of=of[0], but=of[1], **rest),
            of=chosen(),
            factor=factors,
            note=NOTES,
        )
        | st.builds(
            lambda of, **rest: during.Freeze(type="freeze", of=of[0], but=of[1], **rest),
            of=chosen(),
            norms=st.sampled_from(["keep", "eval"]),
            dropout=st.sampled_from(["keep", "eval"]),
            note=NOTES,
        )
        | lessons()
        | st.builds(during.Head, type=st.just("head"), of=texts(1), use=texts(1), note=NOTES)
        | of_the_data()
    )


@cache
def _way():
    on_error = st.builds(tr.OnError, retry=st.integers(0, 1000), then=references())
    return {
        "target": targets(),
        "when": _maybe(guards()),
        "actions": _tuples(actions(), max_size=2),
        "at_most": _maybe(st.integers(1, 10**6)),
        "on_error": _maybe(on_error),
        "note": NOTES,
    }


@cache
def interrupts():
    return st.builds(tr.Interrupt, name=names(), within=_maybe(_tuples(references(), 1)), **_way())


@cache
def _timed():
    return {
        "during": _tuples(names() | activities(), max_size=2),
        "actions": _tuples(actions(), max_size=2),
        "transitions": _tuples(st.builds(tr.Transition, **_way()), max_size=2),
        "min_duration": _maybe(durations()),
        "next": _maybe(references()),
        "note": NOTES,
    }


@cache
def stages():
    """Stages of every kind, and those that ``use`` an entry of ``graphs`` or a template."""
    length = _maybe(durations())
    option = st.builds(sg.GrowthOption, name=names(), actions=_tuples(growths(), 1, 2))

    def options(least):
        return st.lists(option, min_size=least, max_size=3, unique_by=lambda o: o.name).map(tuple)

    return st.one_of(
        st.builds(sg.Train, kind=st.just("train"), duration=length, **_timed()),
        st.builds(
            sg.Grow,
            kind=st.just("grow"),
            actions=_tuples(actions(), 1),
            next=references(),
            note=NOTES,
        ),
        st.builds(
            sg.Grow,
            kind=st.just("grow"),
            actions=_tuples(actions(), max_size=1),
            options=options(1),
            choose=_maybe(st.sampled_from(["next", "largest"])),
            next=references(),
            note=NOTES,
        ),
        st.builds(
            sg.Trial,
            kind=st.just("trial"),
            options=options(2),
            over=durations(),
            metric=metric_names(),
            next=references(),
            otherwise=_maybe(references()),
            note=NOTES,
        ),
        st.builds(
            sg.Trial,
            kind=st.just("trial"),
            options=options(1),
            over=durations(),
            metric=metric_names(),
            worth=st.floats(1e-15, 1),
            next=references(),
            otherwise=references(),
            note=NOTES,
        ),
        st.builds(
            sg.Warmup,
            kind=st.just("warmup"),
            **{**_timed(), "during": _tuples(names() | activities(), 1, 2)},
        ),
        st.builds(
            sg.Settle,
            kind=st.just("settle"),
            lr_factor=st.floats(1e-15, 1),
            duration=length,
            **_timed(),
        ),
        st.builds(sg.Consolidate, kind=st.just("consolidate"), duration=length, **_timed()),
        st.builds(sg.Final, kind=st.just("final"), note=NOTES),
        st.builds(sg.Use, use=names(), next=references(), note=NOTES),
        used(_fillings(), references(), NOTES),
    )


@cache
def _fillings():
    """What may stand in the fields of templates."""
    return SimpleNamespace(
        spans=durations(),
        waits=durations(),
        guards=guards(),
        metrics=metric_names(),
        growths=growths(),
        held=names() | activities(),
        names=names(),
        globs=texts(1),
        limits=st.integers(1, 10**6),
    )


@cache
def budgets():
    counts = _maybe(st.integers(1, 2**53))
    return st.builds(
        Budget,
        params=counts,
        steps=counts,
        epochs=_maybe(st.floats(1e-9, 1e9)),
        samples=counts,
        tokens=counts,
        flops=_maybe(st.floats(1, 1e30)),
        seconds=_maybe(st.floats(1e-3, 1e9)),
    )


@cache
def graphs():
    """Any well-formed graph: one region or several, with everything that may stand in it."""
    some_stages = _maps(names(), stages(), 1)
    some_interrupts = _tuples(interrupts(), max_size=1)
    region = st.builds(
        Region,
        initial=names(),
        stages=some_stages,
        interrupts=some_interrupts,
        priority=st.integers(-(10**6), 10**6),
        note=NOTES,
    )
    sub_graph = st.builds(
        SubGraph,
        initial=names(),
        stages=_maps(names(), stages(), 1, 2),
        activities=_maps(names(), activities(), max_size=1),
        interrupts=some_interrupts,
        note=NOTES,
    )
    metric = st.builds(
        Metric,
        goal=st.sampled_from(["minimize", "maximize"]),
        every=_maybe(durations()),
        source=_tuples(texts(1)),
        note=NOTES,
    )
    form = st.fixed_dictionaries(
        {"initial": names(), "stages": some_stages}
    ) | st.fixed_dictionaries(
        {"regions": _maps(names(), region, 1, 2) | overlappings(_fillings()).map(regions_of)}
    )
    return st.builds(
        lambda form, schema, **rest: StageGraph(
            stagegraph=1, **form, **rest, **({"$schema": schema} if schema else {})
        ),
        form=form,
        schema=st.none() | texts(),
        name=texts(1),
        note=NOTES,
        metrics=_maps(metric_names(), metric),
        events=_tuples(names()),
        budget=budgets(),
        max_overlap=st.integers(1, 3) | st.integers(1, 100),
        waive=_maps(texts(), texts(3), max_size=2),
        activities=_maps(names(), activities(), max_size=2),
        graphs=_maps(names(), sub_graph, max_size=1),
        interrupts=some_interrupts,
    )
