"""Writes ``docs/findings.md`` from the rules: ``python -m tests.graph.findings_page``."""

from __future__ import annotations

import inspect
from pathlib import Path

from stagegraph.graph.rules import GROUPS, RULES
from stagegraph.graph.rules.outside import OUTSIDE, REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"

HEAD = """\
# Findings

What `stagegraph validate` and `stagegraph.check` can say about a graph, before anything is
paid for.

* An **error** says that the graph must not run. It cannot be waived.
* A **warning** says that the graph is probably not what was meant. It can be waived, with a reason:
  `waive: {no-monitor: a short run, watched by hand}`. A waived finding is still listed.
* A **note** is worth knowing.

Findings come with the place (file, line, JSON pointer) and with a remedy; errors first, then
warnings, then notes, each in the order of the document. Nothing is claimed that is not proved: a
guard counts as impossible only if no values of what it reads could make it true.

This page is generated from the rules, by `python -m tests.graph.findings_page`.

"""

OUTSIDE_HEAD = """\
## With what a graph is run

Found by `stagegraph.check` alone, when it is told of the scheduler (`scheduler=`), the trainer
(`trainer=`) or how the model is spread over ranks (`strategy=`); the last two also by `stagegraph
validate GRAPH --trainer NAME --strategy NAME`.

"""


def page() -> str:
    """The page as text."""
    parts = [HEAD, "| finding | severity | what it finds |\n|---|---|---|\n"]
    for group in GROUPS:
        parts += [
            f"| [`{rule.code}`](#{rule.code}) | {rule.severity} | {rule.title} |\n"
            for rule in _rules(group.__name__)
        ]
    for group in GROUPS:
        title, _, _ = inspect.cleandoc(group.__doc__ or "").partition("\n")
        parts.append(f"\n## {title.rstrip('.')}\n")
        parts += [
            f"\n### {rule.code}\n\n*{rule.severity}*: {rule.title}\n\n{rule.why}\n"
            for rule in _rules(group.__name__)
        ]
    parts += ["\n", OUTSIDE_HEAD, "| finding | severity | what it finds |\n|---|---|---|\n"]
    parts += [f"| `{code}` | warning or note | {title} |\n" for code, title in OUTSIDE.items()]
    parts += [f"| `{code}` | error | {title} |\n" for code, title in REFUSED.items()]
    return "".join(parts)


def _rules(group: str):
    return [rule for rule in RULES.values() if rule.group == group]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
