"""Jumps: in a very large region, far ways are cut and continued by name."""

from __future__ import annotations

from dataclasses import replace

from stagegraph.drawing.chart import ChartRegion, Link, Node
from stagegraph.drawing.layers import layers_of, turned_round

__all__ = ["with_jumps"]

FAR = 16
BENDS = 5000


def with_jumps(region: ChartRegion) -> ChartRegion:
    """The region, its far ways cut if there are more of them than a picture can hold.

    A way that is cut leads to a small mark with its target's name.
    """
    if len(region.links) * len(region.nodes) <= BENDS:
        return region
    names = [node.key for node in region.nodes]
    arcs = [(link.id, link.source, link.target) for link in region.links]
    turned = turned_round(names, arcs)
    down = [(i, head, tail) if i in turned else (i, tail, head) for i, tail, head in arcs]
    layer = layers_of(names, down)
    length = {i: layer[head] - layer[tail] for i, tail, head in down}
    total = sum(length.values())
    nodes, links = list(region.nodes), list(region.links)
    title = {node.key: node.title for node in nodes}
    group = {node.key: node.group for node in nodes}
    for index, link in sorted(enumerate(links), key=lambda item: -length[item[1].id]):
        if total <= BENDS or length[link.id] <= FAR:
            break
        total -= length[link.id]
        mark = f"{link.id}>"
        nodes.append(_mark(mark, link, title[link.target], group[link.source]))
        links[index] = replace(link, target=mark)
    return replace(region, nodes=tuple(nodes), links=tuple(links))


def _mark(key: str, link: Link, title: str, group: tuple[str, ...]) -> Node:
    return Node(
        key,
        "jump",
        f"to {title}",
        group=group,
        tooltip=f"goes on at {link.target}",
        visits=link.count,
    )
