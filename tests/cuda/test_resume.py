"""A run that is cut on a device goes on bit for bit, across a growth and in a trial."""

import subprocess
import sys

import pytest

from tests.cuda.continuing import begin, go_on, shown, whole
from tests.cuda.placing import heavy
from tests.pages import ROOT
from tests.session.test_trials import equal

CUTS = [
    ("growth", 2),
    ("growth", 3),
    ("growth", 9),
    ("trial", 8),
    ("trial", 14),
    ("teacher", 14),
    ("teacher", 25),
]


def test_a_new_engine_goes_on_bit_for_bit(device, tmp_path, same_bits):
    _cut(device, tmp_path / "run", "growth", 5)


@heavy
@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_wherever_it_is_cut(device, tmp_path, same_bits, name, cut):
    _cut(device, tmp_path / "run", name, cut)


def _cut(device, folder, name, cut):
    expected = whole(name, device)
    begin(name, device, folder, cut)
    again = go_on(name, device, folder)
    assert equal(again.numbers(), expected.numbers())
    assert again.engine.ended == expected.engine.ended == "final"


@heavy
def test_a_fresh_process_goes_on_bit_for_bit(device, tmp_path, same_bits):
    expected = shown(whole("growth", device))
    begin("growth", device, tmp_path / "run", 5)
    program = (
        "from tests.cuda.continuing import main; "
        f"main('growth', {str(device)!r}, {str(tmp_path / 'run')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == expected
