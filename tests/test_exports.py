"""The root's names are promises: listed once, resolved late, and seen by editors too."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import stagegraph
from stagegraph import errors

ROOT = Path(stagegraph.__file__)


def for_type_checkers():
    """The imports under ``if TYPE_CHECKING``: per name, its module."""
    tree = ast.parse(ROOT.read_text("utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is not re-exported"
            found[alias.name] = line.module
    return found


def in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_the_public_names():
    assert stagegraph.__all__ == sorted(stagegraph._HOMES)
    assert set(stagegraph.__all__) == set(for_type_checkers())
    assert set(stagegraph.__all__) <= set(dir(stagegraph))


def test_nothing_public_is_left_out():
    """Besides what ``__all__`` lists, the root has modules only: its own, and what it needs."""
    others = {
        name
        for name in dir(stagegraph)
        if not name.startswith("_") and name not in stagegraph.__all__
    }
    modules = {name for name in others if isinstance(getattr(stagegraph, name), ModuleType)}
    assert others - modules <= {"annotations", "TYPE_CHECKING"}


@pytest.mark.parametrize("name", stagegraph.__all__)
def test_every_name_resolves_to_its_own_object(name):
    value = getattr(stagegraph, name)
    home = importlib.import_module(f"stagegraph.{stagegraph._HOMES[name]}")
    assert value is getattr(home, name)
    assert for_type_checkers()[name] == home.__name__
    assert name in getattr(home, "__all__", [name])


def test_every_error_can_be_imported_from_the_root():
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert kinds <= set(stagegraph.__all__)
    assert all(issubclass(getattr(stagegraph, kind), stagegraph.StageGraphError) for kind in kinds)


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = set(re.findall(r"^ *[├└]── (\w+)", errors.__doc__, re.MULTILINE))
    assert drawn == {kind.__name__ for kind in errors.StageGraphError.__subclasses__()}


def test_no_exported_name_is_that_of_a_package_or_module():
    modules = {found.name for found in pkgutil.iter_modules([str(ROOT.parent)])}
    assert modules & set(stagegraph.__all__) == set()


def test_importing_the_root_imports_nothing_else():
    heavy = "torch", "pydantic", "networkx", "transitions", "yaml", "numpy"
    code = (
        "import sys; before = set(sys.modules); import stagegraph; dir(stagegraph);"
        "print(*sorted(m for m in set(sys.modules) - before))"
    )
    loaded = in_a_fresh_process(code).split()
    assert [name for name in loaded if name.partition(".")[0] in heavy] == []
    assert [name for name in loaded if name.startswith("stagegraph.")] == []


def test_authoring_checking_drawing_and_simulating_need_no_torch(tmp_path):
    code = (
        "import sys, stagegraph as sg\n"
        "graph = sg.load({'stagegraph': 1, 'name': 'x', 'initial': 'a', 'stages': {"
        "'a': {'kind': 'train', 'duration': '3 steps', 'next': 'b'}, 'b': {'kind': 'final'}}})\n"
        "sg.check(graph); sg.render(graph, 'svg'); sg.simulate(graph)\n"
        "engine = sg.Engine(graph); engine.step(); engine.state_dict(); sg.Terminal(engine)\n"
        f"sg.Engine(graph, run={str(tmp_path / 'run')!r}).start(); "
        f"assert sg.saved({str(tmp_path / 'run')!r}) == []\n"
        "print('torch' in sys.modules)"
    )
    assert in_a_fresh_process(code) == "False\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'stagegraph' has no attribute 'Motor'"):
        _ = stagegraph.Motor


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert stagegraph.__version__ == version("stagegraph")
