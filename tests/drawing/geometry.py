"""What stands where in an SVG of ours: frames of nodes and labels, points of ways."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
Frame = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass
class Sheet:
    width: float = 0.0
    height: float = 0.0
    nodes: dict[str, Frame] = field(default_factory=dict)
    labels: dict[str, Frame] = field(default_factory=dict)
    boxes: dict[str, Frame] = field(default_factory=dict)
    ways: dict[str, list[Point]] = field(default_factory=dict)
    texts: list[tuple[str, float, float]] = field(default_factory=list)


def read_sheet(svg: str) -> Sheet:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    sheet = Sheet(width, height)
    _walk(root, 0.0, 0.0, sheet)
    return sheet


def _walk(element, dx, dy, sheet):
    moved = re.fullmatch(r"translate\((.+),(.+)\)", element.get("transform", ""))
    if moved:
        dx, dy = dx + float(moved[1]), dy + float(moved[2])
    if element.tag == f"{SVG}text":
        text = "".join(element.itertext())
        sheet.texts.append((text, dx + float(element.get("x")), dy + float(element.get("y"))))
    for key, found in (
        ("data-key", sheet.nodes),
        ("data-label", sheet.labels),
        ("data-box", sheet.boxes),
    ):
        if element.get(key) is not None:
            found[element.get(key)] = _frame(element, dx, dy)
    if element.get("data-edge") is not None:
        path = element.find(f"{SVG}path").get("d")
        sheet.ways[element.get("data-edge")] = [(x + dx, y + dy) for x, y in _points(path)]
    for child in element:
        _walk(child, dx, dy, sheet)


def _frame(element, dx, dy) -> Frame:
    corners = []
    for rect in element.iter(f"{SVG}rect"):
        x, y = float(rect.get("x")), float(rect.get("y"))
        corners += [(x, y), (x + float(rect.get("width")), y + float(rect.get("height")))]
    for circle in element.iter(f"{SVG}circle"):
        x, y, r = (float(circle.get(key)) for key in ("cx", "cy", "r"))
        corners += [(x - r, y - r), (x + r, y + r)]
    xs, ys = zip(*corners, strict=True)
    return (min(xs) + dx, min(ys) + dy, max(xs) + dx, max(ys) + dy)


def _points(path: str) -> list[Point]:
    """Points along a path of M, V and C; what other commands draw is left out."""
    points: list[Point] = []
    for command, rest in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", rest)]
        if command == "M":
            points.append((numbers[0], numbers[1]))
        elif command == "V":
            x, y = points[-1]
            points += [(x, y + (numbers[0] - y) * step / 8) for step in range(1, 9)]
        elif command == "C":
            points += [_bezier(points[-1], numbers, step / 12) for step in range(1, 13)]
        else:
            break
    return points


def _bezier(start: Point, numbers: list[float], t: float) -> Point:
    corners = [start, *zip(numbers[::2], numbers[1::2], strict=True)]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    return (
        sum(w * x for w, (x, _) in zip(weights, corners, strict=True)),
        sum(w * y for w, (_, y) in zip(weights, corners, strict=True)),
    )


def overlap(one: Frame, other: Frame) -> bool:
    return (
        one[0] < other[2] - 0.01
        and other[0] < one[2] - 0.01
        and one[1] < other[3] - 0.01
        and other[1] < one[3] - 0.01
    )


def inside(point: Point, frame: Frame) -> bool:
    return frame[0] < point[0] < frame[2] and frame[1] < point[1] < frame[3]
