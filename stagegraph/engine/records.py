"""Records: the lines of the journal. Each is JSON data with ``type`` and where it happened.

``step`` is the clock of the present branch and goes back at a rollback; ``boundary`` counts every
update ever made and does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stagegraph.engine.absorb import Arrival
from stagegraph.engine.commands import Message
from stagegraph.engine.decision import Decision, Move, Turn
from stagegraph.engine.host_rates import fall
from stagegraph.engine.locks import AMOUNTS
from stagegraph.engine.memories import Memory, MemoryLeaf, evidence, verdict
from stagegraph.engine.meter import Jump
from stagegraph.engine.moves import Step
from stagegraph.engine.plans import Plans
from stagegraph.engine.plateau import PatienceMemory, PlateauMemory, Reading
from stagegraph.engine.ports import Facts, Outcome, Record
from stagegraph.engine.slots import spent
from stagegraph.engine.state import State
from stagegraph.engine.taking import Taken, Verdict
from stagegraph.errors import ActionError
from stagegraph.progress import Duration
from stagegraph.schema.actions import Attribute, Baseline, Prune
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.stagegraph import Budget

__all__ = [
    "boundary_records",
    "clock_record",
    "command_record",
    "end_record",
    "error_record",
    "event_record",
    "facts_record",
    "mail_records",
    "metric_record",
    "missing_record",
    "quiet_records",
    "record",
    "verdict_records",
    "vitals_record",
]


def record(kind: str, state: State, /, **values: Any) -> Record:
    """A record of a kind at a state's place."""
    return {
        "type": kind,
        "step": state.clock.step,
        "boundary": state.spent.step,
        "progress": state.clock.to_json(),
        **values,
    }


def metric_record(
    state: State, arrival: Arrival, *, updates_ago: int | None = None, late: bool = False
) -> Record:
    """A metric's value; one that is not finite is told in words.

    Args:
        state: The state after it.
        arrival: The metric and its value.
        updates_ago: If it came with an update, how many updates before the state's clock. Its
            record then has the step alone: the rest is counted at looks, and when those are must
            not show in the journal.
        late: Whether its boundary had been decided already, so that the next one sees it.
    """
    values: dict[str, Any] = {"name": arrival.name, "value": arrival.value}
    if not math.isfinite(arrival.value):
        values.update(value=None, raw=str(arrival.value))
    if late:
        values["late"] = True
    if arrival.again:
        values["again"] = True
    if not arrival.seen:
        values["looked_at"] = False
    if updates_ago is not None:
        step, boundary = state.clock.step - updates_ago, state.spent.step - updates_ago
        values.update(step=step, boundary=boundary, progress={"step": step})
    return {**record("metric", state), **values}


def missing_record(
    state: State, name: str, asked: int, every: Duration, edges: Sequence[str]
) -> Record:
    """A metric that was asked for and does not come.

    Args:
        state: The state.
        name: The metric.
        asked: How many evaluations in a row brought no value of it.
        every: How often it is asked for.
        edges: The ways out that wait for it.
    """
    waited = f"{asked * every.amount:g} {every.unit}"
    return record("missing", state, name=name, asked=asked, waited=waited, edges=list(edges))


def clock_record(state: State, jump: Jump) -> Record:
    """Far more time has passed than such progress takes."""
    values = {"seconds": round(jump.seconds, 3), "usual": round(jump.usual, 3)}
    return record("clock", state, updates=jump.updates, **values)


def verdict_records(plans: Plans, before: State, after: State) -> Iterator[Record]:
    """Trend guards that have changed their minds."""
    for region in after.regions.values():
        plan = plans[region.stage]
        for key, leaf in plan.leaves.items():
            memory = after.memories.get(key)
            told = verdict(memory, leaf)
            if memory is None or told == verdict(before.memories.get(key), leaf):
                continue
            seen = evidence(memory, leaf) or {}
            decay = host_decay(after, leaf, memory)
            yield record(
                "verdict",
                after,
                scope=key.partition("|")[0],
                guard=format_guard(leaf.guard),
                verdict=told,
                evidence=seen if decay is None else {**seen, "host_lr": decay},
            )
            if told == "plateau" and decay is not None:
                yield _decay_record(after, leaf, decay)


def host_decay(state: State, leaf: MemoryLeaf, memory: Memory | None) -> dict[str, float] | None:
    """How much the host's learning rate fell over the window of a plateau; ``None``: it did not."""
    match memory:
        case PlateauMemory(reading=Reading(start=start)):
            return fall(state.host, leaf.unit, start)
        case PatienceMemory(best_at=float(start)):
            return fall(state.host, leaf.unit, start)
    return None


def _decay_record(state: State, leaf: MemoryLeaf, decay: dict[str, float]) -> Record:
    """A plateau that was told while the host's scheduler took the learning rate down."""
    words = (
        f"the host's learning rate fell by {decay['fell']:.0%} over the window: the decay does "
        "this, and it is no sign that the model is too small"
    )
    return record("decay", state, guard=format_guard(leaf.guard), told=words, **decay)


def reference_record(state: State, step: Step) -> Record:
    """Detectors that start a new reference, and why.

    Args:
        state: The state at the start of the boundary.
        step: What was worked out there.
    """
    return record(
        "reference",
        state,
        because=list(step.causes),
        restarted=list(step.anew),
        until_end_of=list(step.moving),
    )


def boundary_records(
    before: State, decision: Decision, step: Step, outcome: Outcome
) -> tuple[Record, ...]:
    """What a boundary that has held leaves in the journal, in the order it happened."""
    records: list[Record] = list(_block_records(before, step.state))
    records += [record("event", before, name=name, status="heard") for name in step.heard]
    if decision.turn is not None:
        given_up = decision.abandoned is not None
        records.append(_trial_record(before, decision.turn, given_up=given_up))
    restore = None if step.boundary is None else step.boundary.restore
    growths: list[Record] = []
    for move in decision.moves:
        records.append(_move_record(before, step, move, outcome))
        records += _told_of_parts(before, move, outcome)
        grown = _growth_records(before if restore is None else step.state, step, move, outcome)
        (records if restore is None else growths).extend(grown)
    if restore is not None:
        turn = decision.turn
        records.append(
            record(
                "roll_back",
                before,
                snapshot=restore.snapshot,
                to=step.state.clock.step,
                rewind_data=restore.rewind_data,
                lr_factor=restore.lr_factor,
                fork=restore.fork,
                **({} if turn is None else {"trial": turn.stage}),
            )
        )
        records += growths
    acts = (placed.action for move in decision.moves for placed in move.actions)
    taken = {action.name for action in acts if isinstance(action, Baseline)}
    records += [
        record("baseline", before, name=name, metrics=dict(kept.values))
        for name, kept in step.state.baselines.items()
        if name in taken
    ]
    if step.anew:
        records.append(reference_record(before, step))
    if outcome.facts != before.facts or not before.regions:
        at = before if restore is None else step.state
        records.append(facts_record(at, outcome.facts))
    records += quiet_records(before, step, blocks=False)
    return tuple(records)


def _growth_records(at: State, step: Step, move: Move, outcome: Outcome) -> Iterator[Record]:
    for placed in move.actions:
        if placed.place in step.cohorts:
            cohort = step.cohorts[placed.place]
            yield record(
                "growth",
                at,
                place=placed.place,
                region=move.region,
                cohort=cohort,
                certificate=dict(outcome.evidence.get(placed.place, {})),
                **({"unblended": True} if cohort in step.state.unblended else {}),
            )


def _trial_record(before: State, turn: Turn, *, given_up: bool) -> Record:
    """A trial that begins, goes on with another option, or ends."""
    status = "begun" if turn.begins else "goes on"
    if turn.ends:
        status = "given up" if given_up else "none kept" if turn.option is None else "kept"
    return record(
        "trial",
        before,
        stage=turn.stage,
        status=status,
        option=None if turn.option is None else turn.option.name,
        tried=[[one.option, one.value] for one in turn.tried],
        passed_over=dict(turn.passed_over),
    )


def _told_of_parts(before: State, move: Move, outcome: Outcome) -> Iterator[Record]:
    """What a move's attributions have measured, and what its prunes have taken out."""
    for placed in move.actions:
        if isinstance(placed.action, Attribute | Prune):
            kind = "attribution" if isinstance(placed.action, Attribute) else "prune"
            found = dict(outcome.evidence.get(placed.place, {}))
            found.pop("kind", None)
            where = {"place": placed.place, "region": move.region}
            yield record(kind, before, **{**found, **where})


def facts_record(state: State, facts: Facts) -> Record:
    """What is known of the model from here on."""
    counted = {} if facts.flops is None else {"flops": list(facts.flops)}
    return record("facts", state, params=facts.params, costs=dict(facts.costs), **counted)


def quiet_records(before: State, step: Step, *, blocks: bool = True) -> list[Record]:
    """What a boundary without a move leaves: locks that began or ended, events unheard."""
    records: list[Record] = list(_block_records(before, step.state)) if blocks else []
    records += [record("event", before, name=name, status="ignored") for name in step.ignored]
    return records


def _move_record(before: State, step: Step, move: Move, outcome: Outcome) -> Record:
    edge = move.edge
    kind: str = "initial" if edge is None else "fallback" if move.fallback else edge.kind
    if edge is None and move.turn is not None and not move.turn.begins:
        kind = "trial"
    author: dict[str, Any] = {}
    if move.force is not None:
        kind, author = "force", {"author": move.force.message.author}
    return record(
        "move",
        before,
        region=move.region,
        edge=None if edge is None else edge.id,
        kind=kind,
        source=move.source,
        via=list(move.via),
        target=move.target,
        visit=step.state.visits.get(move.target, 0),
        guard=None if edge is None or edge.guard is None else format_guard(edge.guard),
        evidence=move.evidence or None,
        actions={
            placed.place: dict(outcome.evidence.get(placed.place, {})) for placed in move.actions
        },
        **({"options": dict(move.picked)} if move.picked else {}),
        **author,
    )


def _block_records(before: State, after: State) -> Iterator[Record]:
    for edge, reason in after.blocked.items():
        if edge not in before.blocked:
            yield record("blocked", before, edge=edge, reason=reason)
    for edge in before.blocked:
        if edge not in after.blocked:
            yield record("unblocked", before, edge=edge)


def _shown(amount: float) -> str:
    return f"{int(amount):,}" if amount == int(amount) else f"{amount:,.10g}"


def error_record(
    state: State,
    edge: str | None,
    error: ActionError,
    attempt: int,
    waiting: Sequence[Message] = (),
) -> Record:
    """A boundary whose actions failed and were undone.

    Args:
        state: The state that stands.
        edge: The edge that is blamed.
        error: What failed.
        attempt: How often in a row.
        waiting: The mail that the boundary was decided with, and that waits for the next one.
    """
    mail = [message.id for message in waiting if message.id]
    return record(
        "error",
        state,
        edge=edge,
        action=error.action,
        reason=error.reason,
        attempt=attempt,
        **({"mail": mail} if mail else {}),
    )


def end_record(
    state: State, decision: Decision, budget: Budget, *, author: str | None = None
) -> Record:
    """The end of the run, and why it came.

    Args:
        state: The state at the end.
        decision: What led to it.
        budget: The limits.
        author: Who stopped it.
    """
    by = {} if author is None or state.ended != "stopped" else {"author": author}
    return record(
        "end",
        state,
        reason=state.ended,
        because=_because(state, decision, budget, author),
        stages=dict(state.stages),
        spent=state.spent.to_json(),
        **by,
    )


def _because(state: State, decision: Decision, budget: Budget, author: str | None) -> str:
    """Why a run has ended: what was spent, who stopped it, or the last moves and their guards."""
    if state.ended == "stopped":
        return f"stopped by {author or 'somebody'}"
    if state.ended == "budget":
        return "; ".join(
            f"budget of {amount}: {_shown(spent(amount, state))} of {_shown(limit)} spent"
            for amount in AMOUNTS
            if (limit := getattr(budget, amount)) is not None and spent(amount, state) >= limit
        )
    ways = []
    for move in decision.moves:
        guard = move.edge.guard if move.edge is not None else None
        when = "" if guard is None else f" when {format_guard(guard)}"
        ways.append(f"{move.source or move.region} -> {move.target}{when}")
    return "; ".join(ways)


def event_record(state: State, message: Message, *, seen_at: int) -> Record:
    """An event that was sent from outside.

    Args:
        state: The state when it was sent, or taken from the inbox.
        message: The event.
        seen_at: The boundary at which guards see it.
    """
    by = {"author": message.author, "id": message.id} if message.id else {}
    return record("event", state, name=message.name, status="sent", seen_at=seen_at, **by)


def mail_records(state: State, taken: Taken, verdicts: Sequence[Verdict]) -> tuple[Record, ...]:
    """What a boundary tells of its mail, in the order in which it came."""
    seen = {id(message) for message in taken.events}
    number = state.spent.step
    return tuple(
        event_record(state, verdict.message, seen_at=number)
        if id(verdict.message) in seen
        else command_record(state, verdict)
        for verdict in verdicts
    )


def command_record(state: State, verdict: Verdict) -> Record:
    """What became of a command, or of an event that was refused."""
    message, refused = verdict.message, verdict.status == "refused"
    return record(
        "command",
        state,
        name=message.name,
        argument=message.argument,
        author=message.author,
        id=message.id,
        status=verdict.status,
        **{"reason" if refused else "told": verdict.text},
        **({"kind": "event"} if message.kind == "event" else {}),
    )


def vitals_record(
    state: State, alphas: Mapping[str, float], lr: list[float], loss: float | None
) -> Record:
    """How the model is trained from here on."""
    values: dict[str, Any] = {} if loss is None else {"loss": loss}
    if loss is not None and not math.isfinite(loss):
        values = {"loss": None, "raw": str(loss)}
    return record(
        "vitals",
        state,
        stages=dict(state.stages),
        params=state.facts.params,
        lr=lr,
        alphas=dict(alphas),
        **values,
    )
