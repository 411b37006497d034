"""Timeline: metrics over the stages that a run went through, learning rates, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stagegraph.drawing.axis import Axis, axis_for, steps_axis
from stagegraph.drawing.clean import clip, shown
from stagegraph.drawing.curves import curve_path, runs_of
from stagegraph.drawing.history import History, Move, Point, Record, read_history
from stagegraph.drawing.lanes import Lanes, stage_kinds
from stagegraph.drawing.lettering import sans_width
from stagegraph.drawing.markup import Markup, element, number
from stagegraph.drawing.palette import CURVES, kind_class
from stagegraph.drawing.sheet import group, page, rectangle, text
from stagegraph.drawing.wording import exact_number
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["timeline_of", "timeline_svg"]

WIDTH = 1180.0
LEFT = 92.0
RIGHT = 26.0
GAP = 20.0
MOST_METRICS = 6
MOST_CURVES = 8
LABEL_ROWS = 3


def timeline_svg(
    graph: StageGraph, records: Iterable[Record], *, planned: Iterable[Record] = ()
) -> str:
    """Draw a run's timeline.

    Args:
        graph: The document, for the kinds of the stages.
        records: The run's journal.
        planned: The records of a simulation, to show the planned stages beside the actual ones.
    """
    return timeline_of(graph, read_history(records), read_history(planned))


def timeline_of(
    graph: StageGraph, history: History, plan: History | None = None, *, titled: bool = True
) -> str:
    """Draw the timeline of a run whose records have been read."""
    return _Timeline(graph, history, plan or History()).drawn(titled=titled)


@dataclass(slots=True)
class _Curve:
    name: str
    points: Sequence[Point]
    index: int = 0


class _Timeline:
    """One picture on its way down the page; holds where it has come to."""

    def __init__(self, graph: StageGraph, history: History, plan: History) -> None:
        self.graph = graph
        self.history = history
        self.plan = plan
        self.kinds = stage_kinds(graph)
        last = max([history.top_step, *(stay.end for stay in plan.stays)])
        self.x = steps_axis(last, LEFT, WIDTH - RIGHT)
        self.y = 0.0

    def drawn(self, *, titled: bool) -> str:
        head = [text(self._title(), 20, 26, "title")] if titled else []
        self.y = 34.0 if titled else 8.0
        if not self.history.stays and not self.history.metrics and not self.plan.stays:
            words = "Nothing has been recorded yet."
            return self._page([*head, text(words, 20, self.y + 22, "soft")], self.y + 34)
        moves = [move for move in self.history.moves if move.kind != "initial"]
        labels = self._labels(moves)
        top = self.y
        panels = self._panels()
        bottom = self.y
        lines = [self._line(move, top, bottom) for move in moves]
        foot = self._axis_labels(bottom)
        parts = [*head, *self._grid(top, bottom), *lines, *labels, *panels, *foot]
        return self._page(parts, self.y + 12)

    def _page(self, parts: Sequence[Markup], height: float) -> str:
        return page(parts, WIDTH, height, title=self._title(), description=self._described())

    def _title(self) -> str:
        return f"Timeline of {self.graph.name}"

    # Panels

    def _panels(self) -> list[Markup]:
        parts: list[Markup] = []
        names = sorted(self.history.metrics, key=self._declared)
        height = 165.0 if len(names) <= 2 else 120.0
        for index, name in enumerate(names[:MOST_METRICS]):
            curve = _Curve(name, self.history.metrics[name], index)
            parts += self._panel(name, [curve], height)
        if len(names) > MOST_METRICS:
            more = ", ".join(names[MOST_METRICS:])
            words = clip(f"not shown: {more}", 150)
            parts.append(text(words, LEFT, self.y - 4, "small soft"))
            self.y += 16
        if any(point.value is not None for point in self.history.losses):
            losses = [_Curve("", self.history.losses, 5)]
            parts += self._panel("training loss", losses, 100, thin=True)
        lanes = Lanes(self.x, self.history, self.plan, self.kinds)
        drawn, self.y = lanes.drawn(self.y)
        parts += drawn
        rates = [
            _Curve(f"group {name}", points, index)
            for index, (name, points) in enumerate(sorted(self.history.rates.items()))
        ]
        if rates:
            parts += self._panel("learning rate", _distinct(rates), 84, thin=True)
        if self.history.params:
            parts += self._panel(
                "parameters", [_Curve("", self.history.params, 2)], 74, stairs=True
            )
        alphas = [
            _Curve(name, points, (index + 1) % len(CURVES))
            for index, (name, points) in enumerate(sorted(self.history.alphas.items()))
        ]
        if alphas:
            parts += self._panel(
                "α of what grew",
                alphas,
                64,
                thin=True,
                fixed=lambda top: Axis(0.0, 1.05, top + 64, top),
            )
        return parts

    def _declared(self, name: str) -> tuple[int, str]:
        """Metrics that the graph declares come first, in its order."""
        known = list(self.graph.metrics)
        return (known.index(name) if name in known else len(known), name)

    def _panel(
        self,
        name: str,
        curves: Sequence[_Curve],
        height: float,
        *,
        stairs: bool = False,
        thin: bool = False,
        fixed: Callable[[float], Axis] | None = None,
    ) -> list[Markup]:
        top = self.y + 18
        shown_curves = curves[:MOST_CURVES]
        values = [p.value for c in shown_curves for p in c.points if p.value is not None]
        y = fixed(top) if fixed is not None else axis_for(values, top + height, top)
        parts = [self._frame(top, height)]
        for tick in y.ticks(max(2, int(height / 34))):
            parts.append(self._across(y.at(tick)))
            parts.append(
                text(y.label(tick), LEFT - 8, y.at(tick) + 3.5, "small soft", anchor="end")
            )
        scale = " (log)" if y.log else ""
        parts.append(text(name + scale, LEFT, top - 6, "strong"))
        self._keys(
            parts, shown_curves, len(curves), top - 6, LEFT + 12 + sans_width(name, 12.5) + 30
        )
        for curve in shown_curves:
            parts += self._curve(curve, y, stairs=stairs, thin=thin)
        if not values:
            parts.append(text("no finite value yet", LEFT + 10, top + height / 2, "soft"))
        self.y = top + height + GAP
        return parts

    def _keys(
        self, parts: list[Markup], curves: Sequence[_Curve], total: int, y: float, x: float
    ) -> None:
        """Which colour is which, if there is more than one curve."""
        if total < 2:
            return
        for curve in curves:
            if x > WIDTH - RIGHT - 120:
                break
            name = clip(curve.name, 24)
            path = f"M{number(x)},{number(y - 4)}h14"
            classes = f"curve c{curve.index % len(CURVES)}"
            parts.append(
                element("path", attributes={"class": classes, "d": path, "stroke-width": 2})
            )
            parts.append(text(name, x + 18, y, "small soft"))
            x += 34 + sans_width(name, 10.5)
        if total > len(curves):
            parts.append(text(f"and {total - len(curves)} more", x, y, "small soft"))

    def _curve(self, curve: _Curve, y: Axis, *, stairs: bool, thin: bool) -> list[Markup]:
        kept = self.history.kept(curve.points)
        if stairs and kept:
            last = max(kept[-1].step, self.history.last_step)
            kept.append(Point(last, kept[-1].value, kept[-1].branch))
        lost = [point for point in curve.points if self.history.abandoned(point)]
        colour = curve.index % len(CURVES)
        parts = []
        for points, classes in ((lost, "back dashed"), (_joined(kept), "")):
            runs = runs_of(points)
            if runs:
                path = curve_path(runs, self.x, y, stairs=stairs)
                width = 1.2 if thin or classes else 1.8
                parts.append(
                    element(
                        "path",
                        attributes={
                            "class": f"curve c{colour} {classes}".strip(),
                            "d": path,
                            "stroke-width": width,
                            "stroke-linecap": "round",
                        },
                    )
                )
        gaps = [point.step for point in curve.points if point.value is None]
        columns = {round(self.x.at(step)): step for step in gaps}
        for column, step in list(columns.items())[:400]:
            parts.append(
                group(
                    [text("×", column, y.begin - 4, "k-interrupt strong", anchor="middle")],
                    tooltip=f"{curve.name} is not a finite number at step {step}",
                )
            )
        return parts

    # Lines through all panels

    def _frame(self, top: float, height: float) -> Markup:
        return rectangle(LEFT, top, WIDTH - RIGHT - LEFT, height, "rule")

    def _across(self, y: float) -> Markup:
        path = f"M{number(LEFT)},{number(y)}H{number(WIDTH - RIGHT)}"
        return element("path", attributes={"class": "rule", "d": path, "stroke-width": 0.7})

    def _grid(self, top: float, bottom: float) -> list[Markup]:
        return [
            element(
                "path",
                attributes={
                    "class": "rule",
                    "d": f"M{number(self.x.at(tick))},{number(top)}V{number(bottom - GAP)}",
                    "stroke-width": 0.7,
                },
            )
            for tick in self._steps()
        ]

    def _axis_labels(self, bottom: float) -> list[Markup]:
        y = bottom - GAP + 14
        parts = [
            text(exact_number(tick), self.x.at(tick), y, "small soft", anchor="middle")
            for tick in self._steps()
        ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(text("optimizer steps", middle, y + 17, "small soft", anchor="middle"))
        notes = []
        if self.history.returns:
            notes.append("pale and dashed: undone by a roll-back")
        if any(p.value is None for points in self.history.metrics.values() for p in points):
            notes.append("×: not a finite number")
        if notes:
            parts.append(text(" · ".join(notes), LEFT, y + 17, "small faint"))
        self.y = y + 22
        return parts

    def _steps(self) -> list[int]:
        return [int(tick) for tick in self.x.ticks(10) if tick == int(tick)]

    def _move_kind(self, move: Move) -> str:
        if move.kind == "interrupt":
            return "interrupt"
        return self.kinds.get((*move.via, move.target)[0], "")

    def _line(self, move: Move, top: float, bottom: float) -> Markup:
        x = number(self.x.at(move.step))
        kind = kind_class(self._move_kind(move))
        line = element(
            "path",
            attributes={
                "class": f"way {kind}{' back' if move.abandoned else ''}",
                "d": f"M{x},{number(top)}V{number(bottom - GAP)}",
                "style": "stroke-width:1.1;stroke-dasharray:3 3",
            },
        )
        return group([line], tooltip=_told(move))

    def _labels(self, moves: Sequence[Move]) -> list[Markup]:
        """What each line is, as far as there is room; the lines themselves say it to a pointer."""
        several = len({move.region for move in moves}) > 1
        rows = [-1e9] * LABEL_ROWS
        parts: list[Markup] = []
        used = 0
        first = self.y + 12
        for move in sorted(moves, key=lambda move: move.step):
            name = _entered(move)
            words = f"{move.region}: {name}" if several else name
            width = sans_width(words, 10.5)
            x = min(self.x.at(move.step) + 3, WIDTH - width - 4)
            row = next((index for index, end in enumerate(rows) if x > end + 6), None)
            if row is None:
                continue
            rows[row] = x + width
            used = max(used, row + 1)
            kind = kind_class(self._move_kind(move))
            parts.append(
                group(
                    [text(words, x, first + row * 13, f"small {kind}")],
                    "back" if move.abandoned else "",
                    tooltip=_told(move),
                )
            )
        self.y = first + used * 13 - 6
        return parts

    def _described(self) -> str:
        stays = [stay for stay in self.history.stays if not stay.abandoned]
        words = [f"{s.stage} from step {s.start} to {s.end}" for s in stays[:200]]
        metrics = ", ".join(self.history.metrics) or "none"
        return f"Metrics: {metrics}. Stages: {'; '.join(words) or 'none'}."


def _entered(move: Move) -> str:
    """What a move is called over its line: the interrupt, or the stage that was entered first."""
    if move.kind == "interrupt" and move.edge:
        return move.edge.rpartition(".")[2]
    return (*move.via, move.target)[0].rpartition(":")[2]


def _told(move: Move) -> str:
    way = " → ".join([move.source or "(start)", *move.via, move.target])
    guard = move.record.get("guard")
    undone = "\nundone by a roll-back" if move.abandoned else ""
    return (
        f"step {move.step}: {way} ({move.kind})" + (f"\n{shown(guard)}" if guard else "") + undone
    )


def _joined(points: Sequence[Point]) -> list[Point]:
    """Points of the branch that was kept, as one curve across its roll-backs."""
    return [Point(point.step, point.value, 0) for point in points]


def _distinct(curves: Sequence[_Curve]) -> list[_Curve]:
    """Curves without those that are the same as one before; its name then has both."""
    seen: dict[tuple[Point, ...], _Curve] = {}
    key: Callable[[_Curve], tuple[Point, ...]] = lambda curve: tuple(curve.points)  # noqa: E731
    for curve in curves:
        first = seen.setdefault(key(curve), curve)
        if first is not curve:
            first.name += f", {curve.name.removeprefix('group ')}"
    return list(seen.values())
