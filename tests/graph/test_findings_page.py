"""The documentation of the findings is complete and fresh."""

from __future__ import annotations

from stagegraph.graph.rules import GROUPS, RULES
from tests.graph.findings_page import PAGE, page


def test_the_page_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.graph.findings_page"


def test_every_rule_says_why_and_gives_an_example():
    for rule in RULES.values():
        assert rule.title.endswith("."), rule.code
        assert "Example: " in rule.why, rule.code
        assert rule.code == rule.code.lower().replace("_", "-")


def test_every_rule_stands_in_a_documented_group():
    assert {rule.group for rule in RULES.values()} == {group.__name__ for group in GROUPS}
