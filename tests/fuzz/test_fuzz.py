"""Only our own errors come out of what reads the files of others, soon, and in little memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.spoiling import inputs
from tests.fuzz.targets import TARGETS, Target

resource = pytest.importorskip("resource", reason="limits on a process are a thing of POSIX")

MEMORY = 2**30
BOUND = 2.0
"""Seconds of a quiet machine: some ten times what the largest right input takes."""

WARM: list[Target] = []
"""The targets that have read something in this process."""

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@cache
def second() -> float:
    """Processor seconds, here and now, of what takes a second on a quiet machine."""
    start, made = time.process_time(), {}
    for number in range(400_000):
        made[number % 1000] = str(number)
    return 10 * (time.process_time() - start)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A limit on what the process may have, over what it has by now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = Path("/proc/self/statm")
    if not memory.exists():
        pytest.skip("what a process has by now is told by Linux alone")
    now = int(memory.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def survives(target: Target, given_: Any) -> None:
    """The target takes it, or says in its own words why not; in time."""
    if target not in WARM:  # what it imports the first time is no input's fault
        WARM.append(target)
        with contextlib.suppress(target.own):
            target.read(target.seeds[0])
    start = time.process_time()
    said = "read"
    try:
        target.read(given_)
    except target.own as error:
        said = str(error)
    taken = time.process_time() - start
    assert 0 < len(said) < 200_000
    assert taken < BOUND * second(), f"{taken:.2f} s of the processor"


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_are_read(name):
    target = TARGETS[name]
    assert target.seeds
    for seed in target.seeds:
        survives(target, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_only_our_own_errors_come_out(name, little_memory):
    _fuzz(TARGETS[name], TARGETS[name].examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_only_our_own_errors_come_out_of_very_many(name, little_memory):
    _fuzz(TARGETS[name], 60 * TARGETS[name].examples)


def _fuzz(target: Target, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=SLOW, database=None)
    @given(inputs(target))
    def run(given_: Any) -> None:
        survives(target, given_)

    run()
