"""`make` names what is missing on a fresh machine, and how to get it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(tmp_path, python):
    """`make test` with another Python and no environment yet; its exit status and words."""
    clean = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(
        ["make", "test", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "venv").exists(), "a half-made environment would pass for a whole one"
    return done.returncode, done.stderr


def fake(tmp_path, *, when, then):
    """A Python that does as the real one, but for one kind of call."""
    path = tmp_path / "python"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in\n*"{when}"*) {then} ;;\nesac\nexec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    return path


def test_missing_python_is_named(tmp_path):
    status, words = make(tmp_path, "no-such-python")
    assert status == 2
    assert 'needs Python 3.11 or newer, and there is no "no-such-python"' in words


def test_old_python_is_named(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    status, words = make(tmp_path, old)
    assert status == 2
    assert f"needs Python 3.11 or newer; {old} is Python 3.9.1." in words
    assert "make test PYTHON=python3.12" in words


def test_missing_venv_module_is_named_with_its_remedy(tmp_path):
    status, words = make(tmp_path, fake(tmp_path, when="ensurepip", then="exit 1"))
    assert status == 2
    assert "its venv module is not installed" in words
    assert "apt install python3-venv" in words


def test_failed_environment_is_removed(tmp_path):
    half = 'mkdir -p "$3/bin"; touch "$3/bin/python"; exit 1'
    status, words = make(tmp_path, fake(tmp_path, when="-m venv", then=half))
    assert status == 2
    assert "-m venv failed" in words
