"""Short words, and the examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import stagegraph.drawing
from stagegraph.drawing.lettering import wrap
from stagegraph.drawing.wording import guard_words, whole_guard
from stagegraph.schema.guard_text import parse_guard

MODULES = sorted(m.name for m in pkgutil.iter_modules(stagegraph.drawing.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"stagegraph.drawing.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_no_function_has_the_name_of_a_package(name):
    module = importlib.import_module(f"stagegraph.drawing.{name}")
    packages = {m.name for m in pkgutil.iter_modules(stagegraph.__path__) if m.ispkg}
    assert not packages & set(getattr(module, "__all__", ()))


@pytest.mark.parametrize(
    ("guard", "short"),
    [
        ("plateau(loss, worth=0.5%, over=1k steps)", "plateau(loss, 0.5%)"),
        ("plateau(loss, patience=2 epochs)", "plateau(loss, patience 2 epochs)"),
        ("not affordable(grow) or visits(grow) >= 3", "not affordable(grow) or visits(grow) ≥ 3"),
        ("(step < 5 or step > 9) and params < 6000", "(step < 5 or step > 9) and params < 6k"),
        ("best(loss) * 1.05 < loss", "best(loss) * 1.05 < loss"),
        ("elapsed(90 min)", "elapsed(90 min)"),
    ],
)  # fmt: skip
def test_guards_are_told_in_short(guard, short):
    assert guard_words(parse_guard(guard), "main") == short


def test_a_guard_in_full_drops_its_own_region_alone():
    guard = parse_guard("in(data:hard) and visits(arch:grow) > 1")
    assert whole_guard(guard, "arch") == "in(data:hard) and visits(grow) > 1"


def test_lines_break_before_a_joining_word_and_the_last_is_clipped():
    text = "plateau(loss) and affordable(grow) and left(steps) > 6k"
    assert wrap(text, 24, 2) == ("plateau(loss)", "and affordable(grow) an…")
    assert wrap("x" * 30, 10, 3) == ("x" * 10,) * 3
