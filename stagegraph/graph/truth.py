"""What guards can become: cases of a guard, contradictions in them, and what follows from what.

A guard is written as its cases, an "or" of "and"s. Each literal of a case is a constraint on
quantities (:mod:`stagegraph.graph.linear`), a condition that is taken as it is, or something that
is known to be impossible in the stage. Nothing is claimed that is not proved: what cannot be
told counts as possible.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Edge
from stagegraph.graph.limits import Limits
from stagegraph.graph.linear import Constraint, Interval, constraint, is_whole
from stagegraph.progress import Duration
from stagegraph.schema.base import Model
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import (
    Affordable,
    All,
    Any_,
    Compare,
    Completed,
    Done,
    Elapsed,
    Exhausted,
    Harmful,
    InStage,
    Not,
    Plateau,
)
from stagegraph.schema.since_guards import Since

__all__ = ["Case", "Condition", "Impossible", "Truth"]

MAX_CASES = 128


@dataclass(frozen=True, slots=True)
class Condition:
    """A leaf of a guard that is no comparison.

    Attributes:
        text: How it is written, with its scope where it has a memory.
        node: The leaf.
        positive: Whether it must hold, or must not.
    """

    text: str
    node: Model
    positive: bool

    @property
    def known(self) -> bool:
        """Whether it is always true or false."""
        return not isinstance(self.node, Plateau | Since | Affordable | Exhausted | Harmful)


@dataclass(frozen=True, slots=True)
class Impossible:
    """Something that cannot hold in this stage.

    Attributes:
        reason: Why.
        doubtful: What it reads that may be unknown, so that its opposite need not hold either.
    """

    reason: str
    doubtful: frozenset[str] = frozenset()


Literal = Constraint | Condition | Impossible
Case = tuple[Literal, ...]


class Truth:
    """What the guards of one graph can become.

    Args:
        compiled: The graph.
    """

    def __init__(self, compiled: CompiledGraph) -> None:
        self.compiled = compiled
        self.limits = Limits(compiled)
        self._cases: dict[tuple[str, str, bool], tuple[Case, ...] | None] = {}
        self._covers: dict[tuple[str, str, str, str], bool] = {}

    def cases(
        self, edge: Edge, stage: CompiledStage, *, positive: bool = True
    ) -> tuple[Case, ...] | None:
        """The cases in which an edge's guard is true, or is false, in a stage.

        Returns:
            The cases; ``None`` if there are too many to look at.
        """
        key = (edge.id, stage.key, positive)
        if key not in self._cases:
            found: tuple[Case, ...] | None
            if edge.guard is None:
                found = ((),) if positive else ()
            else:
                found = self._split(edge.guard, edge, stage, positive=positive)
            self._cases[key] = found
        return self._cases[key]

    def never(self, edge: Edge, stage: CompiledStage, *, limited: bool) -> str | None:
        """Why a guard can never be true in a stage; ``None`` if it may be.

        Args:
            edge: The edge.
            stage: The stage that it would leave.
            limited: Whether to count on budgets and durations, or on what holds in any run.
        """
        cases = self.cases(edge, stage)
        if cases is None:
            return None
        reason = None
        for case in cases:
            reason = self.contradiction(case, edge, stage, limited=limited)
            if reason is None:
                return None
        return reason or "it leaves no case over"

    def always(self, edge: Edge, stage: CompiledStage, *, limited: bool) -> bool:
        """Whether a guard is true whenever it is asked in a stage."""
        cases = self.cases(edge, stage, positive=False)
        return cases is not None and all(
            not _unsure(case) and self.contradiction(case, edge, stage, limited=limited) is not None
            for case in cases
        )

    def covers(self, earlier: Edge, later: Edge, stage: CompiledStage) -> bool:
        """Whether an edge is true whenever a later one is, so that the later is never taken."""
        key = (earlier.id, earlier.pointer, later.id, stage.key)
        if key not in self._covers:
            self._covers[key] = self._compare(earlier, later, stage)
        return self._covers[key]

    def _compare(self, earlier: Edge, later: Edge, stage: CompiledStage) -> bool:
        if earlier.at_most is not None or self._may_be_blocked(earlier):
            return False
        wanted, given = self.cases(later, stage), self.cases(earlier, stage)
        missed = self.cases(earlier, stage, positive=False)
        if wanted is None or given is None or missed is None:
            return False
        if len(wanted) * max(len(given), len(missed)) > MAX_CASES * 4:
            return False
        if not _topics(wanted) & _topics((*given, *missed)):
            # Nothing in common: then one of the two is certain by itself, or neither follows.
            return self.always(earlier, stage, limited=False) or bool(
                self.never(later, stage, limited=False)
            )
        return all(
            any(all(self._entails(case, part, later, stage) for part in one) for one in given)
            or self._excludes(case, missed, later, stage)
            for case in wanted
        )

    def _entails(self, case: Case, part: Literal, edge: Edge, stage: CompiledStage) -> bool:
        """Whether a literal is true, and known to be, wherever a case holds."""
        if isinstance(part, Impossible) or not _unsure((part,)) <= _unsure(case):
            return False
        opposite = (
            part.negated()
            if isinstance(part, Constraint)
            else Condition(part.text, part.node, not part.positive)
        )
        return self.contradiction((*case, opposite), edge, stage, limited=False) is not None

    def _excludes(
        self, case: Case, missed: tuple[Case, ...], edge: Edge, stage: CompiledStage
    ) -> bool:
        """Whether a guard that is false in these cases is true wherever a case holds."""
        doubtful = frozenset[str]().union(*(_unsure(other) for other in missed))
        return doubtful <= _unsure(case) and all(
            self.contradiction((*case, *other), edge, stage, limited=False) is not None
            for other in missed
        )

    def _may_be_blocked(self, edge: Edge) -> bool:
        target = self.compiled.stages.get(edge.target)
        return target is not None and target.structural

    # Cases

    def _split(
        self, node: Any, edge: Edge, stage: CompiledStage, *, positive: bool
    ) -> tuple[Case, ...] | None:
        match node:
            case Not():
                return self._split(node.of, edge, stage, positive=not positive)
            case All() | Any_():
                parts = [self._split(part, edge, stage, positive=positive) for part in node.of]
                if isinstance(node, All) == positive:
                    return _product(parts)
                return _union(parts)
            case Compare():
                found = constraint(node, self.compiled.graph.budget)
                return _constant(found if positive else found.negated())
        return self._leaf(node, edge, stage, positive=positive)

    def _leaf(
        self, node: Model, edge: Edge, stage: CompiledStage, *, positive: bool
    ) -> tuple[Case, ...]:
        known = self._known(node, stage)
        if known is not None:
            holds, reason = known
            return ((),) if holds == positive else ((Impossible(reason),),)
        duration = node.duration if isinstance(node, Elapsed) else None
        if isinstance(node, Completed):
            duration = self.limits.completion(stage)
        if duration is not None:
            found = _has_passed(duration)
            return ((found if positive else found.negated(),),)
        text = format_guard(node)
        if isinstance(node, Plateau | Since):
            text = f"{edge.scope} {text}"
        return ((Condition(text, node, positive),),)

    def _known(self, node: Model, stage: CompiledStage) -> tuple[bool, str] | None:
        """What a leaf is in a stage, where that is certain, and why the opposite cannot be."""
        if isinstance(node, InStage):
            if node.stage not in self.compiled.stages:
                return None
            other = self.compiled.stages[node.stage]
            if other.region == stage.region:
                where = f"the region is in {stage.name!r} when this is asked"
                return other.key == stage.key, where
            if other.instant:
                return False, f"{other.name!r} takes no time, so no region is ever seen in it"
        elif isinstance(node, Done):
            if node.region == stage.region:
                return False, f"{stage.name!r} is not final, so its region is not done"
            region = self.compiled.by_name.get(node.region)
            if region is not None and not region.has_final:
                return False, f"region {node.region!r} has no final stage, so it is never done"
        return None

    # Contradictions

    def contradiction(
        self, case: Iterable[Literal], edge: Edge, stage: CompiledStage, *, limited: bool
    ) -> str | None:
        """Why the literals of a case cannot all hold; ``None`` if they may."""
        left: dict[Any, Interval] = {}
        conditions: dict[str, Condition] = {}
        for literal in case:
            match literal:
                case Impossible():
                    return literal.reason
                case Constraint():
                    left.setdefault(literal.form, Interval()).narrow(literal.op, literal.bound)
                case Condition():
                    before = conditions.setdefault(literal.text, literal)
                    if before.positive != literal.positive:
                        return f"{format_guard(literal.node)} would have to hold and not to hold"
        for form, interval in left.items():
            reason = self._too_narrow(form, interval, edge, stage, limited=limited)
            if reason is not None:
                return reason
        return self._clash([c for c in conditions.values() if c.positive])

    def _too_narrow(
        self, form: Any, interval: Interval, edge: Edge, stage: CompiledStage, *, limited: bool
    ) -> str | None:
        whole = is_whole(form)
        if interval.is_empty(whole=whole):
            return f"it asks for {describe(form, interval)}"
        asked = replace(interval)
        low, high = self.limits.range(form, edge, stage, limited=limited)
        if low is not None:
            interval.narrow(">=", low)
        if high is not None:
            interval.narrow("<=", high)
        if interval.is_empty(whole=whole):
            reach = describe(form, Interval(low, high))
            return f"it asks for {describe(form, asked)}, but here {reach}"
        return None

    def _clash(self, conditions: list[Condition]) -> str | None:
        """Two places where a region cannot be at once."""
        places: dict[str, tuple[str, str]] = {}
        for condition in conditions:
            node = condition.node
            if isinstance(node, InStage) and node.stage in self.compiled.stages:
                stage = self.compiled.stages[node.stage]
                region, place = stage.region, "final" if stage.final else stage.key
            elif isinstance(node, Done):
                region, place = node.region, "final"
            else:
                continue
            before, text = places.setdefault(region, (place, condition.text))
            if before != place:
                return f"{text} and {condition.text} cannot hold at once"
        return None


def _has_passed(duration: Duration) -> Constraint:
    return Constraint(((f"elapsed({duration.unit})", Fraction(1)),), ">=", duration.exact)


def _constant(found: Constraint) -> tuple[Case, ...]:
    if found.constant is None or (found.constant and found.doubtful):
        return ((found,),)
    if found.constant:
        return ((),)
    return ((Impossible("it compares numbers that do not fit", found.doubtful),),)


def _product(parts: list[tuple[Case, ...] | None]) -> tuple[Case, ...] | None:
    found: tuple[Case, ...] = ((),)
    for part in parts:
        if part is None or len(found) * len(part) > MAX_CASES:
            return None
        found = tuple((*one, *other) for one in found for other in part)
    return found


def _union(parts: list[tuple[Case, ...] | None]) -> tuple[Case, ...] | None:
    found: list[Case] = []
    for part in parts:
        if part is None:
            return None
        found.extend(part)
    return tuple(found) if len(found) <= MAX_CASES else None


def _topics(cases: tuple[Case, ...]) -> frozenset[object]:
    """What cases are about; only what is about the same can contradict."""
    found: set[object] = set()
    for literal in (literal for case in cases for literal in case):
        if isinstance(literal, Constraint):
            found.add(literal.form)
        elif isinstance(literal, Condition):
            node = literal.node
            placed = isinstance(node, InStage | Done)
            found.add(InStage if placed else literal.text)
    return frozenset(found)


def _unsure(case: Case) -> frozenset[str]:
    """What a case reads that may be unknown."""
    found: set[str] = set()
    for literal in case:
        if isinstance(literal, Constraint | Impossible):
            found |= literal.doubtful
        elif not literal.known:
            found.add(literal.text)
    return frozenset(found)


def describe(form: Any, interval: Interval) -> str:
    """A sum of quantities and the numbers left for it, in words."""
    terms = [name if factor == 1 else f"{_number(factor)} * {name}" for name, factor in form]
    what = " + ".join(terms).replace("visits(main:", "visits(")
    low = "" if interval.low is None else f"{'over' if interval.low_open else 'at least'} "
    high = "" if interval.high is None else f"{'under' if interval.high_open else 'at most'} "
    parts = []
    if interval.low is not None:
        parts.append(f"{low}{_number(interval.low)}")
    if interval.high is not None:
        parts.append(f"{high}{_number(interval.high)}")
    if interval.holes:
        parts.append(f"not {', '.join(_number(hole) for hole in sorted(interval.holes))}")
    return f"{what} {' and '.join(parts) or 'anything'}"


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
