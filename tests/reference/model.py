"""The rules of a stage graph, once more: a second engine that is slow, naive and short.

Written from the normative rules (S1 to S20) and from nothing else. It reads the document itself,
looks at every boundary at everything, copies whole states where the engine shares them, and knows
no transactions, no laziness, no journal. Where this model and the engine differ one of them is
wrong, or the rules are silent; then they say what was decided.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from fractions import Fraction
from typing import Any

from stagegraph.engine.memories import memory_leaf, remember
from stagegraph.progress import Progress, Unit
from stagegraph.schema.stagegraph import StageGraph
from tests.reference import guards, holding, locks
from tests.reference.document import GROWTHS, Document, Stage, Way
from tests.reference.state import Branch, Failed, Metric, Move, Place, Slot

AMOUNTS = ("steps", "epochs", "samples")
STATE = ("branch", "spent", "visits", "fired", "errors", "snapshots", "events", "blocked")


class Model:
    """A graph that runs on numbers.

    Args:
        graph: The document.
        params: Parameters of the model.
        costs: What each growth adds, by stage key.
    """

    def __init__(self, graph: StageGraph, params: int | None, costs: dict[str, int]) -> None:
        self.document = Document(graph)
        self.costs = costs
        self.branch = Branch(params=params)
        self.spent = Progress()
        self.visits: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.snapshots: list[tuple[str, Branch]] = []
        self.events: list[tuple[str, bool]] = []
        self.observations = 0
        self.ended: str | None = None
        self.undecided = False
        self.fails = False
        # What the last boundary brought, to be compared.
        self.moves: list[Move] = []
        self.blocked: set[str] = set()
        self.heard: list[str] = []
        self.ignored: list[str] = []
        self._begin()

    # Small questions

    def place(self, region: str) -> Place:
        return self.branch.places[region]

    def stage_of(self, region: str) -> Stage:
        return self.document.stages[self.place(region).stage]

    def budget(self, amount: str) -> Any:
        return getattr(self.document.graph.budget, amount)

    def cost(self, stage: Stage) -> int | None:
        """What entering a stage adds, the growths that it leads through included."""
        costs = [self.costs.get(passed.key) for passed in self.document.path(stage)[0]]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def reference(self, prefix: str, snapshot: str, metric: str) -> float | None:
        """The last finite value of a metric before the newest snapshot of a name."""
        kept = self._snapshot(self.document.full_name("snapshot", prefix, snapshot))
        seen = None if kept is None else kept[1].metrics.get(metric)
        return None if seen is None else seen.last

    def worth(self, memory: Any, leaf: Any, value: float) -> Any:
        """The statistics of ``worth`` are the engine's own: here it is an oracle."""
        metric = self.document.graph.metrics[leaf.metric]
        return remember(memory, memory_leaf(leaf, metric), self.branch.clock, value, None)

    def _snapshot(self, name: str) -> tuple[str, Branch] | None:
        return next((kept for kept in reversed(self.snapshots) if kept[0] == name), None)

    # Time and metrics

    def update(self, samples: int, epochs: Fraction, metrics: dict[str, float]) -> None:
        """One optimizer update is over; an evaluation that is due comes first (S2)."""
        if self.undecided:
            self.decide()
        if self.ended is not None:
            return
        added = Progress(step=1, epoch=epochs, samples=samples)
        self.branch.clock += added
        self.spent += added
        self._absorb(metrics)
        if any(count > self.branch.asked.get(name, 0) for name, count in self._due().items()):
            self.undecided = True
        else:
            self.decide()

    def observe(self, metrics: dict[str, float]) -> None:
        """An evaluation: it decides the boundary that waits for it; else the next one sees it."""
        if self.ended is not None:
            return
        self._absorb(metrics)
        if self.undecided:
            self.decide()

    def send(self, event: str) -> None:
        if self.ended is None:
            self.events.append((event, False))

    def forget(self) -> None:
        """Begin to note anew what boundaries bring."""
        self.moves, self.heard, self.ignored = [], [], []

    def _due(self) -> dict[str, int]:
        """How many of its intervals are over, per metric."""
        return {
            name: math.floor(self.branch.clock.of(metric.every.unit) / metric.every.exact)
            for name, metric in self.document.graph.metrics.items()
            if metric.every is not None
        }

    def _absorb(self, metrics: dict[str, float]) -> None:
        for name, given in metrics.items():
            self.observations += 1
            metric = self.branch.metrics.setdefault(name, Metric())
            value = given if math.isfinite(given) else None
            if self._told_twice(metric, value):
                continue
            metric.number, metric.boundary = self.observations, self.spent.step
            metric.value = value
            if value is None:
                metric.nonfinite += 1
                continue
            metric.last, metric.nonfinite = value, 0
            best = min if self.document.graph.metrics[name].goal == "minimize" else max
            metric.best = value if metric.best is None else best(metric.best, value)
            for scope, leaf in guards.listening(self):
                if leaf.metric == name:
                    old = self.branch.memories.get((scope, leaf))
                    prefix = self._prefix(scope)
                    new = guards.remember(self, old, leaf, prefix, value)
                    if new is not None:
                        self.branch.memories[scope, leaf] = new

    def _told_twice(self, metric: Metric, value: float | None) -> bool:
        """The same value at the same boundary, with no move in between: one observation."""
        moved = max(
            self.branch.disturbed, *(place.entered_at for place in self.branch.places.values())
        )
        again = metric.boundary == self.spent.step and metric.number > moved
        return again and metric.value == value

    def _prefix(self, scope: str) -> str:
        """The sub-graph that a scope's guards are written in."""
        name = scope.partition(":")[2]
        return name[: name.rfind(".") + 1]

    # Deciding

    def _begin(self) -> None:
        """Boundary 0: the initial stages are entered."""
        self._carry_out([self.initial(name) for name in self.document.regions])

    def initial(self, region: str) -> Move:
        first = self.document.stage(region, "", self.document.graph.all_regions[region].initial)
        return Move(region, None, *self.document.path(first))

    def decide(self) -> None:
        """One boundary: all regions see one frame, and each makes at most one move (S4, S5)."""
        self.undecided = False
        self.branch.asked = self._due()
        before = {name: copy.copy(getattr(self, name)) for name in STATE}
        before["branch"] = self.branch.copy()
        self.blocked = set()
        moves: list[Move] = []
        for region in self.document.regions:
            move = self._first(region, moves)
            if move is not None:
                moves.append(move)
        rolling = next((move for move in moves if move.roll_back is not None), None)
        if rolling is not None:
            moves = [rolling]
        try:
            self._carry_out(moves)
        except Failed as failure:
            self.__dict__ |= before  # but for the error, as if nothing had been decided
            self.errors[failure.way.id] += 1
            if failure.way.on_error is None or any(
                move.way is failure.way and move.fallback for move in moves
            ):
                raise

    def _first(self, region: str, earlier: list[Move]) -> Move | None:
        """The first way out that is open, true and not held back (S6)."""
        stage, place = self.stage_of(region), self.place(region)
        if stage.kind == "final":
            return None
        least = getattr(stage.spec, "min_duration", None)
        stayed = least is None or guards.passed(self.branch.clock, least, place.entered)
        for way in stage.ways:
            if way.at_most is not None and self.fired[way.id] >= way.at_most:
                continue
            if way.kind != "interrupt" and not stayed:
                continue
            if way.kind == "next":
                open_ = guards.completed(self, stage)
            else:
                open_ = way.guard is None or guards.answer(self, way.guard, way) is True
            if not open_:
                continue
            move = self._move(way)
            if not locks.locked(self, move, earlier):
                return move
            self.blocked.add(way.id)
        return None

    def _move(self, way: Way) -> Move:
        target, fallback = way.target, False
        if way.on_error is not None and self.errors[way.id] > way.on_error.retry:
            target, fallback = way.on_error.then, True
        if target == "stop":
            return Move(way.region, way, [], None, fallback=fallback)
        if target == "back":
            slot = self.place(way.region).slot
            stage = None if slot is None else self.document.stages[slot.stage]
            return Move(way.region, way, [], stage, back=True, fallback=fallback)
        to = self.document.stage(way.region, way.prefix, target)
        return Move(way.region, way, *self.document.path(to), fallback=fallback)

    def snapshot_of(self, move: Move) -> tuple[str, Branch] | None:
        assert move.way is not None
        to = self.document.full_name("snapshot", move.way.prefix, move.roll_back.to)
        return self._snapshot(to)

    # Acting

    def _carry_out(self, moves: list[Move]) -> None:
        """S13: restore, exits, actions, entries, activities; then events and the end."""
        in_force = holding.in_force(self)
        restored = False
        if moves and moves[0].roll_back is not None:
            moves = self._restore(moves[0])
            restored = True
        start = self.branch.copy()
        self.branch.alphas = holding.alphas(self)
        sent: list[tuple[str, bool]] = []
        grown = False
        deeds: list[Way | None] = []
        for move in moves:
            self._leave(move, restored=restored)
            self._enter(move, restored=restored)
            cohorts: list[str] = []
            for action, prefix, stage in move.actions():
                if action.type == "send":
                    sent.append((action.event, False))
                elif action.type == "snapshot":
                    self.snapshots.append((prefix + action.name, start))
                    deeds.append(move.way)
                elif action.type in GROWTHS:
                    assert stage is not None
                    cohorts.append(self._grow(action, prefix, stage))
                    deeds.append(move.way)
            if cohorts:
                self.place(move.region).grown = tuple(cohorts)
                grown = True
        if self.fails and deeds:
            # Regions that begin again do so for the rollback: it is to blame.
            raise Failed(deeds[0] or next(m.way for m in moves if m.way is not None))
        self._deliver(moves, sent)
        self.ended = self._end(moves)
        if grown or restored or in_force != holding.in_force(self):
            self._disturb()
        alive = guards.listening(self)
        self.branch.memories = {k: m for k, m in self.branch.memories.items() if k in alive}
        self.moves += moves

    def _restore(self, rolling: Move) -> list[Move]:
        """S14: everything is as at the start of the snapshot's boundary; the region moves on."""
        kept = self.snapshot_of(rolling)
        if kept is None:
            assert rolling.way is not None
            raise Failed(rolling.way)
        at = max(n for n, snapshot in enumerate(self.snapshots) if snapshot is kept)
        del self.snapshots[at + 1 :]
        self.branch = kept[1].copy()
        for place in self.branch.places.values():
            place.slot = None
        if self.branch.places:
            return [rolling]
        others = [self.initial(name) for name in self.document.regions if name != rolling.region]
        order = self.document.regions
        return sorted([rolling, *others], key=lambda move: order.index(move.region))

    def _leave(self, move: Move, *, restored: bool) -> None:
        """S17: an interrupt stores what it leaves, unless an interrupt has led there."""
        place = self.branch.places.get(move.region)
        if place is None or move.way is None or move.way.kind != "interrupt":
            return
        if move.back or restored or place.by_interrupt:
            return
        clock = self.branch.clock
        place.slot = Slot(
            place.stage,
            clock - place.entered,
            {where: clock - since for where, since in place.held.items()},
            {k: m for k, m in self.branch.memories.items() if k[0] == place.stage},
            place.open,
        )

    def _enter(self, move: Move, *, restored: bool) -> None:
        if move.way is not None:
            self.fired[move.way.id] += 1
            self.errors.pop(move.way.id, None)
        if move.back:
            self._enter_back(move)
            return
        if move.target is None:
            return
        for stage in move.entered:
            self.visits[stage.key] += 1
        clock, target = self.branch.clock, move.target
        old = self.branch.places.get(move.region)
        goes_on = {} if old is None or restored else old.held
        held = {
            where: goes_on[where] if named and where in goes_on else clock
            for where, _, _, named in self.document.held(target)
        }
        self.branch.places[move.region] = Place(
            target.key,
            clock,
            self.observations,
            open=(move.grows or (old is not None and old.open))
            and target.kind not in ("train", "final"),
            grown=() if old is None else old.grown,
            held=held,
            by_interrupt=move.way is not None and move.way.kind == "interrupt",
            slot=None if old is None else old.slot,
        )
        self.branch.memories = {k: m for k, m in self.branch.memories.items() if k[0] != target.key}

    def _enter_back(self, move: Move) -> None:
        """S17: the stage goes on where it was left; the time away does not count."""
        old, clock = self.place(move.region), self.branch.clock
        slot = old.slot
        if slot is None:
            assert move.way is not None
            raise Failed(move.way)
        kind = self.document.stages[slot.stage].kind
        self.branch.places[move.region] = Place(
            slot.stage,
            clock - slot.elapsed,
            self.observations,
            open=(slot.open or old.open) and kind not in ("train", "final"),
            grown=old.grown,
            held={where: clock - elapsed for where, elapsed in slot.held.items()},
        )
        self.branch.memories |= slot.memories

    def _grow(self, action: Any, prefix: str, stage: Stage) -> str:
        """S10: a growth adds a cohort, and what it costs."""
        base = prefix + action.name if action.name else f"{stage.key}#{self.visits[stage.key]}"
        names = [base, *(f"{base}#{n}" for n in range(2, 2 + len(self.branch.cohorts)))]
        name = next(name for name in names if name not in self.branch.cohorts)
        first = next(a for a in stage.actions if a.type in GROWTHS)
        if action is first and self.branch.params is not None:
            cost = self.costs.get(stage.key)
            self.branch.params = None if cost is None else self.branch.params + cost
        self.branch.cohorts = (*self.branch.cohorts, name)
        return name

    def _deliver(self, moves: list[Move], sent: list[tuple[str, bool]]) -> None:
        """S12: an event is seen once, by all; kept once if a way that listens was blocked."""
        if self.spent.step == 0:  # boundary 0 asks no guards
            self.events += sent
            return
        taken = {way.id: way for move in moves if (way := move.way) is not None}
        ways = {way.id: way for stage in self.document.stages.values() for way in stage.ways}
        waiting: list[tuple[str, bool]] = []
        for name, kept in self.events:
            if any(_listens(way.guard, name) for way in taken.values()):
                self.heard.append(name)
            elif not kept and any(_listens(ways[id_].guard, name) for id_ in self.blocked):
                waiting.append((name, True))
            else:
                self.ignored.append(name)
        self.events = waiting + sent

    def _disturb(self) -> None:
        """S8: every trend begins anew, and no metric's value counts until it comes again."""
        self.branch.disturbed = self.observations
        slots = [place.slot for place in self.branch.places.values() if place.slot]
        for owner in (self.branch, *slots):
            old = owner.memories
            owner.memories = {k: m for k, m in old.items() if k[1].type not in guards.TRENDS}

    def _end(self, moves: list[Move]) -> str | None:
        """S15, S16."""
        if any(move.target is None for move in moves):
            return "stop"
        stages = self.document.stages
        with_end = {stage.region for stage in stages.values() if stage.kind == "final"}
        if with_end and all(self.stage_of(region).kind == "final" for region in with_end):
            return "final"
        for amount in AMOUNTS:
            limit = self.budget(amount)
            if limit is not None and self.spent.of(Unit(amount)) >= limit:
                return "budget"
        return None


def _listens(guard: Any, event: str) -> bool:
    """Whether a guard looks at an event, however deep."""
    if guard is None:
        return False
    if guard.type == "event":
        return bool(guard.event == event)
    if guard.type in ("all", "any"):
        return any(_listens(part, event) for part in guard.of)
    return guard.type == "not" and _listens(guard.of, event)
