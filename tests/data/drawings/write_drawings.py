"""Writes the golden texts of this folder: ``python -m tests.data.drawings.write_drawings``.

Look at what changed before you keep it.
"""

from __future__ import annotations

from stagegraph.drawing.render import render
from tests.drawing.graphs import DOCUMENTS, DRAWINGS, document, journal, odd

KINDS = {"mermaid": "mmd", "dot": "dot", "text": "txt"}


def golden_texts() -> dict[str, str]:
    """The texts by file name."""
    cases = {name: (document(name), ()) for name in DOCUMENTS}
    cases["odd"] = (odd(), ())
    cases["a-run"] = (document("grow-on-plateau"), journal("grow-on-plateau"))
    return {
        f"{name}.{ending}": render(graph, kind, records=records)
        for name, (graph, records) in cases.items()
        for kind, ending in KINDS.items()
    }


if __name__ == "__main__":
    for name, text in golden_texts().items():
        (DRAWINGS / name).write_text(text, encoding="utf-8")
