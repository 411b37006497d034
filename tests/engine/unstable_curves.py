"""Healthy and hurt curves, and how often ``unstable`` is told on them.

Noise, sizes of jumps and the count per 10,000 steps are those of the measurements that shock
detectors are compared by: standard deviation 0.1; one step of +1, ten of +0.5, +0.3 for good.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stagegraph.engine.memories import memory_leaf
from stagegraph.engine.unstable import Level, Recent, UnstableMemory, UnstableSpec, watch
from stagegraph.schema.guards import Unstable
from stagegraph.schema.stagegraph import Metric

SIGMA = 0.1
LEVEL = 2.0

Noise = Callable[[random.Random], Iterator[float]]


def normal(source: random.Random) -> Iterator[float]:
    while True:
        yield source.gauss(0, SIGMA)


def student(source: random.Random) -> Iterator[float]:
    """Three degrees of freedom, scaled to the standard deviation."""
    while True:
        chi = sum(source.gauss(0, 1) ** 2 for _ in range(3))
        yield SIGMA / math.sqrt(3) * source.gauss(0, 1) / math.sqrt(chi / 3)


def lognormal(source: random.Random) -> Iterator[float]:
    """Of a standard normal, its mean taken away, scaled to the standard deviation."""
    mean, deviation = math.exp(0.5), math.sqrt((math.e - 1) * math.e)
    while True:
        yield SIGMA * (math.exp(source.gauss(0, 1)) - mean) / deviation


def autocorrelated(source: random.Random) -> Iterator[float]:
    """AR(1) of 0.5."""
    value = 0.0
    while True:
        value = 0.5 * value + math.sqrt(0.75) * source.gauss(0, SIGMA)
        yield value


NOISES: dict[str, Noise] = {
    "normal": normal,
    "student": student,
    "lognormal": lognormal,
    "autocorrelated": autocorrelated,
}


@dataclass(frozen=True)
class Hurt:
    """A shock: how much is added from a step on, and for how long."""

    size: float
    steps: float = math.inf
    begin: int = 150

    def at(self, step: int) -> float:
        return self.size if self.begin <= step < self.begin + self.steps else 0.0


def spec_of(**fields: object) -> UnstableSpec:
    guard = Unstable.model_validate(
        {"type": "unstable", "metric": "m", "since": "s", "over": "50 steps", **fields}
    )
    leaf = memory_leaf(guard, Metric(goal="minimize"))
    assert isinstance(leaf.spec, UnstableSpec)
    return leaf.spec


def told(spec: UnstableSpec, noise: Iterator[float], steps: int, hurt: Hurt | None) -> int | None:
    """At which step after the reference it is told, if it is; 120 steps come before."""
    recent = Recent()
    for step in range(-120, 0):
        recent = recent.add(spec.spacing, float(step), LEVEL + next(noise))
    level, memory = Level.of(recent.values), UnstableMemory()
    for step in range(1, steps + 1):
        value = LEVEL + next(noise) + (hurt.at(step) if hurt else 0.0)
        memory = watch(memory, spec, float(step), value, level, 0.0)
        if memory.truth:
            return step
    return None


def false_alarms(
    spec: UnstableSpec, noise: Noise, *, runs: int, steps: int, seed: int = 0
) -> float:
    """Runs that are called unstable though nothing happens, per 10,000 healthy steps."""
    source = random.Random(seed)
    count = sum(told(spec, noise(source), steps, None) is not None for _ in range(runs))
    return count / (runs * steps) * 10_000


def detected(spec: UnstableSpec, noise: Noise, hurt: Hurt, *, runs: int, seed: int = 0) -> float:
    """The share of hurt runs that are told within 300 steps of the shock."""
    source = random.Random(seed)
    found = [told(spec, noise(source), hurt.begin + 300, hurt) for _ in range(runs)]
    return sum(at is not None and at >= hurt.begin for at in found) / runs
