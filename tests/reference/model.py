"""The rules of a stage graph, once more: a second engine that is slow, naive and short.

Written from the normative rules (S1 to S20) and from nothing else. It reads the document itself,
looks at every boundary at everything, copies whole states where the engine shares them, and knows
no transactions, no laziness, no journal. Where this model and the engine differ one of them is
wrong, or the rules are silent; then they say what was decided.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from stagegraph.engine.memories import gain, memory_leaf, remember
from stagegraph.engine.unstable import Level, UnstableMemory, UnstableSpec, watch
from stagegraph.progress import Progress, Unit
from stagegraph.schema.stagegraph import StageGraph
from tests.reference import guards, holding, locks
from tests.reference.document import GROWTHS, Document, Stage, Way
from tests.reference.state import (
    Branch,
    Failed,
    Metric,
    Move,
    OptionFailed,
    Place,
    Recent,
    Slot,
    Trial,
    Turn,
)

AMOUNTS = ("steps", "epochs", "samples")
COUNTS = ("visits", "fired", "errors", "snapshots", "events", "blocked", "taken", "excluded")
STATE = ("branch", "spent", "trial", *COUNTS)


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
        self.taken: dict[str, tuple[str, ...]] = {}
        self.excluded: dict[str, tuple[str, ...]] = {}
        self.failed: dict[str, tuple[str, ...]] = {}
        self.trial: Trial | None = None
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

    def room(self) -> float | None:
        """How many parameters may still be added; ``None``: nobody knows."""
        limit, params = self.budget("params"), self.branch.params
        if limit is None:
            return math.inf
        return None if params is None else limit - params

    def usable(self, stage: Stage) -> Iterator[tuple[str, bool | None]]:
        """Every option, and whether it may be taken now; ``None``: nobody knows."""
        by_size = stage.kind == "grow" and stage.spec.choose == "largest"
        gone = {*self.failed.get(stage.key, ()), *self.excluded.get(stage.key, ())}
        if stage.kind == "grow" and not by_size:
            gone |= {*self.taken.get(stage.key, ())}
        room = self.room()
        for option in stage.options:
            cost = self.costs.get(f"{stage.key}.{option.name}")
            if option.name in gone:
                yield option.name, False
            elif cost is None:
                yield option.name, None if room != math.inf or by_size else True
            else:
                yield option.name, None if room is None else cost <= room

    def choose(self, stage: Stage) -> str | None:
        """The option that an entry into a stage takes."""
        able = [name for name, may in self.usable(stage) if may]
        if stage.kind == "grow" and stage.spec.choose == "largest":
            able.sort(key=lambda name: -self.costs[f"{stage.key}.{name}"])
        return able[0] if able else None

    def fits(self, stage: Stage) -> bool | None:
        """Whether there is a growth to have in a stage, and those it leads through, that fits."""
        via, last = self.document.path(stage)
        costs: list[int | None] = []
        for entered in (*via, last):
            place = entered.key
            if entered.options:
                option = self.choose(entered)
                if option is None:
                    unknown = any(may is None for _, may in self.usable(entered))
                    return None if unknown else False
                place += f".{option}"
            if entered.options or entered.kind == "grow":
                costs.append(self.costs.get(place))
        room = self.room()
        if room == math.inf:
            return True
        if room is None or None in costs:
            return None
        return sum(cost for cost in costs if cost is not None) <= room

    def kept_as(self, prefix: str, name: str) -> Branch | None:
        """What a guard with ``since`` compares with: the newest snapshot, or the baseline."""
        full = self.document.full_name("snapshot", prefix, name)
        kept = self._snapshot(full)
        return self.branch.baselines.get(full) if kept is None else kept[1]

    # The statistics are the engine's own: here they are an oracle.

    def _spec(self, leaf: Any) -> Any:
        return memory_leaf(leaf, self.document.graph.metrics[leaf.metric])

    def worth(self, memory: Any, leaf: Any, value: float) -> Any:
        return remember(memory, self._spec(leaf), self.branch.clock, value, None)

    def gain(self, memory: Any, leaf: Any) -> float:
        return gain(memory, leaf.over, self.document.graph.metrics[leaf.metric])

    def watch(self, memory: Any, leaf: Any, prefix: str, value: float) -> Any:
        unit, spec = leaf.over.unit, self._spec(leaf).spec
        kept = self.kept_as(prefix, leaf.since)
        level = taken = None
        if kept is not None:
            before = kept.recent.get(_window(spec, leaf), Recent()).values
            of_this_data = self.branch.data_changed < kept.observations
            level = Level.of(before) if of_this_data else None
            taken = float(kept.clock.of(unit))
        now = float(self.branch.clock.of(unit))
        old = memory.statistics or UnstableMemory()
        return guards.Watched(watch(old, spec, now, value, level, taken), kept)

    def _keep_recent(self, name: str, value: float) -> None:
        """The newest 32 values, a sixteenth of a window or an ``every`` apart, in any stage."""
        ways = [way for stage in self.document.stages.values() for way in stage.ways]
        leaves = {leaf for way in ways for leaf in guards.remembering(way.guard)}
        seen = set()
        for leaf in leaves:
            if leaf.type != "unstable" or leaf.metric != name:
                continue
            spec, now = self._spec(leaf).spec, float(self.branch.clock.of(leaf.over.unit))
            key = _window(spec, leaf)
            old = self.branch.recent.get(key, Recent())
            due = old.at is None or now - old.at >= spec.spacing * (1 - 1e-9)
            if key not in seen and due:
                self.branch.recent[key] = Recent((*old.values, value)[-32:], now)
            seen.add(key)

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
        due = any(count > self.branch.asked.get(name, 0) for name, count in self._due().items())
        if due or self._trial_waits():
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
            self._keep_recent(name, value)
            bent = holding.bend(self)
            for scope, leaf in guards.listening(self):
                if leaf.metric == name and not (bent and leaf.type in guards.TRENDS):
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
        move = Move(region, None, *self.document.path(first))
        self._pick(move)
        return move

    def decide(self) -> None:
        """One boundary: all regions see one frame, and each makes at most one move (S4, S5)."""
        self.undecided = False
        self.branch.asked = self._due()
        before = {name: copy.copy(getattr(self, name)) for name in STATE}
        before["branch"] = self.branch.copy()
        moves: list[Move] = []
        try:
            moves = self._moves() if self.trial is None else self._in_trial()
            self._carry_out(moves)
        except OptionFailed as failure:  # it is passed over, and the boundary decided without it
            self.__dict__ |= before
            stage, option = failure.args
            self.failed[stage] = (*self.failed.get(stage, ()), option)
            self.decide()
        except Failed as failure:
            self.__dict__ |= before  # but for the error, as if nothing had been decided
            way = failure.way
            if way is not None:
                self.errors[way.id] += 1
            if way is None or way.on_error is None:
                raise
            if any(move.way is way and move.fallback for move in moves):
                raise

    def _moves(self) -> list[Move]:
        self.blocked = set()
        moves: list[Move] = []
        for region in self.document.regions:
            move = self._first(region, moves)
            if move is not None:
                moves.append(move)
        rolling = next((move for move in moves if move.roll_back is not None), None)
        if rolling is not None:
            return [rolling]
        beginning = next((move for move in moves if move.turn is not None), None)
        if beginning is None:
            return moves
        # What the others want is put off, with the events that they listen to.
        self.blocked |= {m.way.id for m in moves if m is not beginning and m.way is not None}
        return [beginning]

    # Trials

    def _trial_waits(self) -> bool:
        """Whether an option has been trained for long enough, and its metric is to come."""
        if self.trial is None:
            return False
        stage = self.document.stages[self.trial.stage]
        metric = self.branch.metrics.get(stage.spec.metric, Metric())
        evaluated = self.document.graph.metrics[stage.spec.metric].every is not None
        return evaluated and guards.completed(self, stage) and metric.boundary != self.spent.step

    def _candidates(self, stage: Stage) -> list[str | None]:
        able: list[str | None] = [name for name, may in self.usable(stage) if may]
        return able if stage.spec.worth is None else [None, *able]

    def _in_trial(self) -> list[Move]:
        """Nothing moves but the trial, when an option has been trained for long enough."""
        trial = self.trial
        assert trial is not None
        stage = self.document.stages[trial.stage]
        ended = Turn(stage, None, ends=True)
        if self.is_spent():
            self.blocked = set()
            return [Move(stage.region, None, [], None, turn=ended)]
        if not guards.completed(self, stage):
            return []
        place = self.place(stage.region)
        metric = self.branch.metrics.get(stage.spec.metric, Metric())
        came = metric.number > max(place.entered_at, self.branch.disturbed)
        tried = (*trial.tried, (trial.option, metric.value if came else None))
        self.trial = replace(trial, tried=tried)
        here, self.branch = self.branch, trial.start[1]
        candidates = self._candidates(stage)
        self.branch = here
        for option in candidates:
            if option not in dict(tried):
                return [Move(stage.region, None, [], stage, turn=Turn(stage, option))]
        self.blocked = set()
        best = self._best(stage, dict(tried))
        if best is None and stage.spec.otherwise is None:
            raise Failed(None)
        way = stage.leads_to("otherwise" if best is None else "next")
        to = self.document.stage(stage.region, stage.prefix, way.target)
        return [Move(stage.region, way, *self.document.path(to), turn=replace(ended, option=best))]

    def _best(self, stage: Stage, tried: dict[str | None, float | None]) -> str | None:
        sign = 1 if self.document.graph.metrics[stage.spec.metric].goal == "minimize" else -1
        values = [(sign * v, n) for n, v in tried.items() if v is not None and n is not None]
        best = min(values, key=lambda pair: pair[0], default=None)
        without = tried.get(None)
        if best is None or stage.spec.worth is None or without is None:
            return None if best is None else best[1]
        return best[1] if sign * without - best[0] >= stage.spec.worth * abs(without) else None

    def is_spent(self) -> bool:
        """S16: whether what was spent has reached an amount of the budget."""
        return any(
            (limit := self.budget(amount)) is not None and self.spent.of(Unit(amount)) >= limit
            for amount in AMOUNTS
        )

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
        move = Move(way.region, way, *self.document.path(to), fallback=fallback)
        with self.returned(None if move.roll_back is None else way):
            self._pick(move)
        return move

    def _pick(self, move: Move) -> None:
        """The options that a move takes, or with which it begins a trial."""
        for stage in move.entered:
            option = self.choose(stage) if stage.options and stage.kind == "grow" else None
            if option is not None:
                move.picked[stage.key] = option
        stage = move.entered[-1]
        if stage.kind == "trial":
            first = [*self._candidates(stage), None][0]
            move.turn = Turn(stage, first, begins=True)

    @contextlib.contextmanager
    def returned(self, way: Way | None) -> Iterator[None]:
        """Look at what a rollback returns to, with what it excludes."""
        kept = None if way is None else self._snapshot_of(way)
        if way is None or kept is None:
            yield
            return
        here, excluded = self.branch, self.excluded
        self.branch, self.excluded = kept[1], dict(excluded)
        self._exclude(way)
        try:
            yield
        finally:
            self.branch, self.excluded = here, excluded

    def _exclude(self, way: Way) -> bool:
        """Rule out the option that a stage took last; false: it has taken none."""
        if way.roll_back.exclude is None:
            return True
        key = self.document.stage(way.region, way.prefix, way.roll_back.exclude).key
        if not self.taken.get(key):
            return False
        known = (*self.excluded.get(key, ()), self.taken[key][-1])
        self.excluded[key] = tuple(dict.fromkeys(known))
        return True

    def snapshot_of(self, move: Move) -> tuple[str, Branch] | None:
        assert move.way is not None
        return self._snapshot_of(move.way)

    def _snapshot_of(self, way: Way) -> tuple[str, Branch] | None:
        return self._snapshot(self.document.full_name("snapshot", way.prefix, way.roll_back.to))

    # Acting

    def _carry_out(self, moves: list[Move]) -> None:
        """S13: restore, exits, actions, entries, activities; then events and the end."""
        in_force = holding.in_force(self)
        restored = False
        if moves and moves[0].roll_back is not None:
            moves = self._restore(moves[0])
            restored = True
        trying = self.trial
        if moves and moves[0].turn is not None and trying is not None:
            moves = self._turn(moves, moves[0].turn, trying)
            restored = True
        was_in_force = holding.in_force(self)
        start = replace(self.branch.copy(), observations=self.observations)
        self.branch.alphas = holding.alphas(self)
        sent: list[tuple[str, bool]] = []
        grown = False
        deeds: list[tuple[Way | None, Stage | None, str | None]] = []
        for move in moves:
            self._leave(move, restored=restored)
            self._enter(move, restored=restored)
            cohorts = self._act(move, move.actions(), start, sent, deeds)
            if move.turn is not None and move.turn.begins:
                self._begin_trial(move.turn, start)
                deeds.append((move.way, None, None))
                cohorts += self._act(move, move.first_tried(), start, sent, deeds)
            if cohorts:
                self.place(move.region).grown = tuple(cohorts)
                grown = True
        if self.fails and deeds:
            self._fail(moves, *deeds[-1])
        if trying is None:
            self._deliver(moves, sent)
        else:  # nobody is asked while growths are tried
            self.events += sent
        self.ended = self._end(moves)
        if grown or restored or in_force != holding.in_force(self):
            self._disturb()
        now = holding.in_force(self)
        if any(activity.data for activity, _ in (was_in_force - now) + (now - was_in_force)):
            self.branch.data_changed = self.observations
        alive = guards.listening(self)
        self.branch.memories = {k: m for k, m in self.branch.memories.items() if k in alive}
        self._compare_anew(self.branch)
        self.moves += moves

    def _turn(self, moves: list[Move], turn: Turn, trial: Trial) -> list[Move]:
        """A trial goes on with another option, or ends: from the state it began in."""
        self._back_to(trial.start, ends=turn.ends)
        self.trial = None if turn.ends else replace(trial, option=turn.option)
        return [move for move in moves if move.target is not None]

    def _begin_trial(self, turn: Turn, start: Branch) -> None:
        """Every option starts from this boundary's start, with what was kept on the way in."""
        start = replace(start.copy(), baselines=dict(self.branch.baselines))
        self._keep(f"trial:{turn.stage.key}", start)
        self._compare_anew(start)
        self.trial = Trial(turn.stage.key, self.snapshots[-1], turn.option)

    def _act(
        self,
        move: Move,
        actions: Iterable[tuple[Any, str, Stage | None, str | None]],
        start: Branch,
        sent: list[tuple[str, bool]],
        deeds: list[Any],
    ) -> list[str]:
        """Actions of a move, one after the other; gives what has grown."""
        cohorts: list[str] = []
        for action, prefix, stage, option in actions:
            if action.type == "send":
                sent.append((action.event, False))
            elif action.type == "baseline":
                self.branch.baselines[prefix + action.name] = start
            elif action.type == "snapshot":
                self._keep(prefix + action.name, start)
                deeds.append((move.way, stage, option))
            elif action.type in GROWTHS:
                assert stage is not None
                cohorts.append(self._grow(action, prefix, stage, option))
                deeds.append((move.way, stage, option))
        return cohorts

    def _fail(
        self, moves: list[Move], way: Way | None, stage: Stage | None, option: str | None
    ) -> None:
        turn = moves[0].turn
        if turn is not None and not turn.ends and stage is turn.stage and option is not None:
            raise OptionFailed(stage.key, option)
        # Regions that begin again do so for the rollback: it is to blame.
        raise Failed(way or next((m.way for m in moves if m.way is not None), None))

    def _keep(self, name: str, start: Branch) -> None:
        """A snapshot takes the place of one of its name, if none came between them."""
        if self.snapshots and self.snapshots[-1][0] == name:
            self.snapshots.pop()
        self.snapshots.append((name, start))

    def _back_to(self, kept: tuple[str, Branch], *, ends: bool) -> None:
        """Every option starts from one state; when all is over its snapshot goes."""
        at = max(n for n, snapshot in enumerate(self.snapshots) if snapshot is kept)
        self.snapshots = self.snapshots[: at if ends else at + 1]
        self.branch = kept[1].copy()

    def _compare_anew(self, branch: Branch) -> None:
        """What was compared with a snapshot or baseline that is another now begins anew."""
        slots = [place.slot for place in branch.places.values() if place.slot]
        for owner in (branch, *slots):
            owner.memories = {
                (scope, leaf): memory
                for (scope, leaf), memory in owner.memories.items()
                if leaf.type not in guards.SINCE
                or memory.reference is self.kept_as(self._prefix(scope), leaf.since)
            }

    def _restore(self, rolling: Move) -> list[Move]:
        """S14: everything is as at the start of the snapshot's boundary; the region moves on."""
        kept = self.snapshot_of(rolling)
        assert rolling.way is not None
        if kept is None or not self._exclude(rolling.way):
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
        picked = dict(move.picked)
        turn = move.turn
        if turn is not None and turn.ends and turn.option is not None:
            picked[turn.stage.key] = turn.option
        for key, option in picked.items():
            self.taken[key] = (*self.taken.get(key, ()), option)
        grows = move.grows or (turn is not None and (not turn.ends or turn.option is not None))
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
            open=(grows or (old is not None and old.open))
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

    def _grow(self, action: Any, prefix: str, stage: Stage, option: str | None) -> str:
        """S10: a growth adds a cohort, and what it costs."""
        place, actions = stage.key, stage.actions
        if option is not None:
            place, actions = f"{stage.key}.{option}", stage.option(option).actions
        base = prefix + action.name if action.name else f"{place}#{self.visits[stage.key]}"
        names = [base, *(f"{base}#{n}" for n in range(2, 2 + len(self.branch.cohorts)))]
        name = next(name for name in names if name not in self.branch.cohorts)
        first = next(a for a in actions if a.type in GROWTHS)
        counted_with_option = option is None and bool(stage.options)
        if action is first and self.branch.params is not None and not counted_with_option:
            cost = self.costs.get(place)
            self.branch.params = None if cost is None else self.branch.params + cost
        self.branch.cohorts = (*self.branch.cohorts, name)
        if not action.blends and self._may_blend(action, prefix, stage):
            self.branch.blockless = (*self.branch.blockless, name)
        return name

    def _may_blend(self, action: Any, prefix: str, stage: Stage) -> bool:
        """Whether something else in the stage, or of the same name, adds blocks."""
        beside = list(self.document.growths(stage))
        if action.name is not None:
            beside += [
                other
                for another in self.document.stages.values()
                for other in self.document.growths(another)
                if other.name and another.prefix + other.name == prefix + action.name
            ]
        return any(other.blends for other in beside)

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
        self.branch.recent = {}
        slots = [place.slot for place in self.branch.places.values() if place.slot]
        for owner in (self.branch, *slots):
            left = {k: guards.disturbed(m, k[1]) for k, m in owner.memories.items()}
            owner.memories = {k: m for k, m in left.items() if m is not None}

    def _end(self, moves: list[Move]) -> str | None:
        """S15, S16."""
        if any(move.target is None for move in moves):
            return "stop"
        stages = self.document.stages
        with_end = {stage.region for stage in stages.values() if stage.kind == "final"}
        if with_end and all(self.stage_of(region).kind == "final" for region in with_end):
            return "final"
        return "budget" if self.is_spent() else None


def _window(spec: UnstableSpec, leaf: Any) -> Any:
    """What the newest values are kept for."""
    return leaf.metric, spec.spacing, leaf.over.unit


def _listens(guard: Any, event: str) -> bool:
    """Whether a guard looks at an event, however deep."""
    if guard is None:
        return False
    if guard.type == "event":
        return bool(guard.event == event)
    if guard.type in ("all", "any"):
        return any(_listens(part, event) for part in guard.of)
    return guard.type == "not" and _listens(guard.of, event)
