"""The rules: what each is called, how bad it is, and the function that looks for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagegraph.graph.findings import Severity

if TYPE_CHECKING:
    from stagegraph.graph.rules.context import Context

__all__ = ["RULES", "Found", "Rule", "declare", "rule"]


@dataclass(frozen=True, slots=True)
class Found:
    """One place where a rule is broken.

    Attributes:
        message: What is wrong, in a sentence that names the offender.
        remedy: What to do about it.
        pointer: JSON pointer into the document.
    """

    message: str
    remedy: str
    pointer: str = ""


Look = Callable[["Context"], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        code: Its name, as ``waive:`` takes it.
        severity: How bad it is to break it.
        title: What it finds, in a few words.
        why: Why it matters, with an example.
        group: The module it stands in; rules of one idea stand together.
        look: Finds where it is broken; ``None`` for what compiling or waiving finds.
        needs_names: Whether it can only judge a graph whose names all lead somewhere.
    """

    code: str
    severity: Severity
    title: str
    why: str
    group: str
    look: Look | None = None
    needs_names: bool = True


RULES: dict[str, Rule] = {}
"""All rules by code, in the order of the documentation."""


def rule(code: str, severity: Severity, *, needs_names: bool = True) -> Callable[[Look], Look]:
    """Register a function as a rule; its docstring is the title, then why the rule is there.

    Args:
        code: The rule's name.
        severity: How bad it is to break it.
        needs_names: Whether unresolved names would make it find too much.
    """

    def register(look: Look) -> Look:
        assert code not in RULES, f"two rules are called {code!r}"
        title, _, why = inspect.cleandoc(look.__doc__ or "").partition("\n\n")
        RULES[code] = Rule(code, severity, title, why, look.__module__, look, needs_names)
        return look

    return register


def declare(code: str, severity: Severity, title: str, why: str, *, group: str) -> None:
    """Register a code that is found elsewhere than in a rule's function.

    Args:
        code: The rule's name.
        severity: How bad it is to break it.
        title: What it finds, as a short sentence.
        why: Why it matters, with an example.
        group: The module that says so.
    """
    assert code not in RULES, f"two rules are called {code!r}"
    RULES[code] = Rule(code, severity, title, why, group)
