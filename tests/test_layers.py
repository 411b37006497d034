"""The house stands: imports point down, and torch is imported only where a model is."""

import subprocess
import sys
from pathlib import Path

from importlinter import cli

ROOT = Path(__file__).parents[1]


def test_import_layers_hold(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert status == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_import_brings_no_torch():
    code = f"import sys, pkgutil, importlib\n{_IMPORT_ALL}"
    for module in WITHOUT_TORCH:
        code += f"import_all({module!r})\n"
        code += f"assert 'torch' not in sys.modules, '{module} brings torch'\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WITHOUT_TORCH = (
    "stagegraph",
    "stagegraph.cli",
    "stagegraph.drawing",
    "stagegraph.engine",
    "stagegraph.graph",
    "stagegraph.runs",
    "stagegraph.schema",
    "stagegraph.session",
)
_IMPORT_ALL = """
def import_all(name):
    package = importlib.import_module(name)
    if name == "stagegraph":
        return
    for found in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""
