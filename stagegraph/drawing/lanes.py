"""Lanes: the stages of every region as bars over the steps."""

from __future__ import annotations

from collections.abc import Mapping

from stagegraph.drawing.axis import Axis
from stagegraph.drawing.history import History, Return, Stay
from stagegraph.drawing.lettering import sans_width
from stagegraph.drawing.markup import Markup, element, number
from stagegraph.drawing.palette import kind_class
from stagegraph.drawing.sheet import group, rectangle, text
from stagegraph.drawing.wording import exact_number
from stagegraph.graph.compile import compile_graph
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["Lanes", "stage_kinds"]

BAR = 26.0
STRIP = 11.0
BETWEEN = 12.0


def stage_kinds(graph: StageGraph) -> dict[str, str]:
    """The kind of every stage by key."""
    compiled, _ = compile_graph(graph)
    return {key: stage.kind for key, stage in compiled.stages.items()}


class Lanes:
    """The lanes of all regions; what was planned and what was undone lies in thin strips below."""

    def __init__(self, x: Axis, history: History, plan: History, kinds: Mapping[str, str]) -> None:
        self.x = x
        self.history = history
        self.plan = plan
        self.kinds = kinds

    def drawn(self, top: float) -> tuple[list[Markup], float]:
        """The lanes from ``top`` on, and where they end."""
        stays = [*self.history.stays, *self.plan.stays]
        regions = list(dict.fromkeys(stay.region for stay in stays))
        if not regions:
            return [], top
        parts = [text("stages", self.x.begin, top + 12, "strong")]
        y = top + 20
        for region in regions:
            own = [stay for stay in self.history.stays if stay.region == region]
            kept = [stay for stay in own if not stay.abandoned]
            lost = [stay for stay in own if stay.abandoned]
            plan = [
                stay for stay in self.plan.stays if stay.region == region and not stay.abandoned
            ]
            parts.append(self._label(region, y + BAR / 2 + 4))
            parts += [self._bar(stay, y, BAR, named=True) for stay in kept]
            y += BAR + 3
            for strip, name in ((lost, "undone"), (plan, "planned")):
                if strip:
                    parts.append(self._label(name, y + STRIP - 2, faint=True))
                    named = name == "planned"
                    parts += [self._bar(s, y, STRIP, named=named, note=name) for s in strip]
                    y += STRIP + 3
                if strip is lost and lost:
                    parts += [self._return(back, y) for back in self.history.returns]
                    y += 9
            y += BETWEEN
        return parts, y + 2

    def _return(self, back: Return, y: float) -> Markup:
        """An arrow from where a roll-back was made to where it led."""
        left, right = self.x.at(back.to), self.x.at(back.start)
        line = f"M{number(right)},{number(y - 2)}v4H{number(left + 6)}"
        tip = f"{number(left)},{number(y + 2)} {number(left + 8)},{number(y - 2)} "
        tip += f"{number(left + 8)},{number(y + 6)}"
        return group(
            [
                element("path", attributes={"class": "way k-interrupt", "d": line}),
                element("polygon", attributes={"class": "tip k-interrupt", "points": tip}),
            ],
            tooltip=f"rolled back to {back.name}: from step {back.start} to {back.to}",
        )

    def _label(self, words: str, y: float, *, faint: bool = False) -> Markup:
        room = self.x.begin - 16
        while len(words) > 2 and sans_width(words, 11.5) > room:
            words = words[:-2] + "…"
        classes = "small faint" if faint else "strong soft"
        return text(words, self.x.begin - 8, y, classes, anchor="end")

    def _bar(self, stay: Stay, y: float, height: float, *, named: bool, note: str = "") -> Markup:
        left, right = self.x.at(stay.start), self.x.at(stay.end)
        if stay.start == stay.end:
            right = left + 3
        width = max(1.5, right - left)
        name = stay.stage.rpartition(":")[2]
        kind = kind_class(self.kinds.get(stay.stage, ""))
        parts = [rectangle(left, y, width, height, "box", corner=3)]
        size = 11.5 if height > 20 else 9.5
        if named and sans_width(name, size) + 8 <= width:
            classes = "kind strong" if height > 20 else "kind tiny"
            parts.append(
                text(name, left + width / 2, y + height / 2 + size * 0.35, classes, anchor="middle")
            )
        visit = f", visit {stay.visit}" if stay.visit else ""
        end = "now" if stay.open else exact_number(stay.end)
        words = f"{stay.stage}: {exact_number(stay.start)} to {end}{visit}"
        return group(
            parts,
            f"{kind}{' back' if note == 'undone' else ''}",
            tooltip=f"{words} ({note})" if note else words,
            data_stage=stay.stage,
        )
