"""explain: what each way out of the present stages waits for, with the values it sees."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stagegraph.engine.decide import explain_edge, has_stayed
from stagegraph.engine.plans import Plans
from stagegraph.engine.standing import Extension, lengthened, waited
from stagegraph.engine.state import RegionState, State
from stagegraph.engine.trace import Trace
from stagegraph.graph.compiled import CompiledStage

__all__ = ["Explanation", "explain", "trace_lines", "waiting_for"]

USED_UP = "it has fired"
"""How the reason begins why an edge cannot be taken again."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One way out of a present stage.

    Attributes:
        edge: The edge's id.
        region: The region it would move.
        target: Where it leads.
        value: Whether its guard is true; ``None`` is unknown.
        guard: The guard as a tree with the values it sees.
        held_back: What holds it back besides its guard, or ``None``.
    """

    edge: str
    region: str
    target: str
    value: bool | None
    guard: Trace
    held_back: str | None

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        words = {True: "true", False: "false", None: "unknown"}
        held = f" (held back: {self.held_back})" if self.held_back else ""
        lines = [f"{self.edge} -> {self.target}: {words[self.value]}{held}"]
        lines += trace_lines(self.guard, "  ")
        return "\n".join(lines)


def explain(plans: Plans, state: State) -> list[Explanation]:
    """Every way out of the configuration, in the order of asking."""
    found = []
    for region in plans.graph.regions:
        here = state.regions.get(region.name)
        if here is None or state.ended is not None:
            continue
        plan = plans[here.stage]
        for edge, _ in plan.ways:
            tree = explain_edge(plans, state, plan, edge)
            found.append(
                Explanation(
                    edge.id,
                    region.name,
                    edge.target,
                    tree["value"],
                    tree,
                    _held_back(plans, state, region.name, edge.id),
                )
            )
    return found


def _held_back(plans: Plans, state: State, region: str, edge_id: str) -> str | None:
    here = state.regions[region]
    stage = plans.graph.stages[here.stage]
    edge = plans.graph.edges[edge_id]
    fired = state.fired.get(edge_id, 0)
    if edge.at_most is not None and fired >= edge.at_most:
        return f"{USED_UP} {fired} of at most {edge.at_most} times"
    holder = state.commands.held.get(region)
    if holder is not None:
        return f"held by {holder}"
    if edge.kind != "interrupt" and not has_stayed(stage, here, state):
        return _stays(stage, here, state)
    return state.blocked.get(edge_id)


def _stays(stage: CompiledStage, here: RegionState, state: State) -> str:
    """Why transitions are not asked yet."""
    extension = here.extended
    if extension is None or stage.min_duration is None:
        stay = f"min_duration of {stage.min_duration} is not over"
        return stay if extension is None else _extended(extension, here, state)
    if extension.waits and not waited(extension, here.entered, state.clock):
        return _extended(extension, here, state)
    stay = f"min_duration of {lengthened(stage.min_duration, extension)} is not over"
    return f"{stay} (extended by {extension.author})"


def _extended(extension: Extension, here: RegionState, state: State) -> str:
    ahead = extension.amount - Fraction(state.clock.elapsed(here.entered, extension.unit))
    return f"extended by {extension.author} for {float(ahead):g} {extension.unit} more"


def trace_lines(node: Trace, indent: str = "") -> list[str]:
    """A trace as lines of text, parts indented."""
    words = {True: "true", False: "false", None: "unknown"}
    sees = ", ".join(f"{name}={_short(value)}" for name, value in node.get("sees", {}).items())
    lines = [f"{indent}{words[node['value']]}: {node['guard']}" + (f"  [{sees}]" if sees else "")]
    for part in node.get("of", ()):
        lines += trace_lines(part, indent + "  ")
    return lines


def waiting_for(plans: Plans, state: State) -> list[str]:
    """In a few words per way out, what is not true yet; interrupts, the exceptions, last."""
    waits: list[tuple[bool, str]] = []
    for region, by in state.commands.held.items() if state.ended is None else ():
        whom = f"{region}: " if len(plans.graph.regions) > 1 else ""
        waits.append((False, f"{whom}'continue' (held by {by})"))
    for explanation in explain(plans, state):
        spent = (explanation.held_back or "").startswith(USED_UP)
        if explanation.value is not True and not spent:
            interrupt = plans.graph.edges[explanation.edge].kind == "interrupt"
            target = explanation.target.partition(":")[2] or explanation.target
            leaves = ", ".join(_open_leaves(explanation.guard))
            waits.append((interrupt, f"{target}: {leaves}"))
    return [text for _, text in sorted(waits, key=lambda wait: wait[0])]


def _open_leaves(node: Trace) -> list[str]:
    """The parts of a guard that are not true, each in a few words."""
    guard = str(node["guard"])
    if "of" in node and not guard.startswith("not "):
        parts = [part for part in node["of"] if part["value"] is not True]
        return [text for part in parts for text in _open_leaves(part)]
    sees = node.get("sees", {})
    if "of" in sees and "elapsed" in sees:
        amount, _, unit = str(sees["of"]).partition(" ")
        return [f"{_short(sees['elapsed'])}/{_short(float(amount))} {unit}"]
    name = guard.partition(",")[0].partition("(")[0]
    if name == "plateau":
        return [_plateau(guard, sees)]
    if name == "harmful":
        worst = sees.get("worst")
        found = "not attributed yet" if not sees else f"worst {worst}" if worst else "nothing harms"
        return [f"{guard.partition(',')[0]}) ({found})"]
    if name in ("regressed", "recovered", "improved"):
        return [f"{guard.partition(',')[0]})"]
    if name == "unstable":
        return [f"{guard.partition(',')[0]}) {sees.get('verdict', 'waiting')}"]
    shown = [f"{key} is {_short(value)}" for key, value in sees.items() if key not in guard]
    if not shown and len(sees) == 1:
        shown = [_short(value) for value in sees.values()]
    return [guard + (f" ({', '.join(shown)})" if shown else "")]


def _plateau(guard: str, sees: dict[str, Any]) -> str:
    """How far a plateau is from being told."""
    metric = guard.partition(",")[0]
    words = f"{metric}) {sees.get('verdict', 'waiting')}"
    upper, worth = sees.get("upper"), sees.get("worth")
    if upper is not None and worth is not None:
        words += f", up to {upper:.1%} to come of {worth:.1%}"
        words += f", {sees['confirmed']}/{sees['confirm']} confirmed"
    return words


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
