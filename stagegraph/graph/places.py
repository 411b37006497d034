"""Places: where in a document something stands that a template has put into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.templates.template import UseRegions, UseTemplate

__all__ = ["split_pointer"]


def split_pointer(graph: StageGraph, pointer: str) -> tuple[str, str]:
    """A pointer of a compiled graph: the part in the document, and the part in a template.

    >>> from stagegraph.schema.load import load
    >>> graph = load('''
    ... {stagegraph: 1, name: x, initial: lr, stages: {
    ...   lr: {use: warmup_stable_decay, with: {stable: 800 steps, decay: 200 steps}, next: done},
    ...   done: {kind: final}}}''')
    >>> split_pointer(graph, "/stages/lr/use/stages/anneal1/during/0")
    ('/stages/lr/use', '/stages/anneal1/during/0')
    >>> split_pointer(graph, "/stages/lr/next")
    ('/stages/lr/next', '')

    Args:
        graph: The document.
        pointer: As a stage, an edge or a finding of its compiled graph has it.

    Returns:
        A JSON pointer into the document, and what of the template's stages is meant, or nothing.
    """
    here: Any = graph
    parts = pointer.split("/")
    for at, part in enumerate(parts[1:], 1):
        if isinstance(here, UseTemplate | UseRegions) and part == "use":
            inner = parts[at + 1 :]
            return "/".join(parts[: at + 1]), "".join(f"/{one}" for one in inner)
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, tuple):
            here = here[int(part)] if part.isdigit() and int(part) < len(here) else None
        else:
            here = getattr(here, part, None)
    return pointer, ""
