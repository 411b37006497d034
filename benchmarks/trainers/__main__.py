"""What stagegraph adds to an update, in each host: ``python -m benchmarks.trainers``.

Each host trains the same model three times side by side: without stagegraph, with a callback of
its own that does nothing, and with ten guards that wait. What counts is the difference within a
cycle of turns, so that a machine that changes its speed changes all alike. Where a model lies in
memory makes it faster or slower for good, by more than what is looked for: all are made anew in
each of several rounds, and the rounds are compared. What the host's calls of ours and of the
callback that does nothing take is timed in place too. That is less: what ours displaces from the
caches makes the host slower afterwards, and does not show there.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from random import Random
from typing import NamedTuple

from benchmarks.trainers import counted, inplace
from benchmarks.trainers.turns import Loop, Taken, side_by_side

HOSTS = {
    "plain": ("plain loop", "torch"),
    "huggingface": ("Hugging Face Trainer", "transformers"),
    "lightning": ("Lightning Trainer", "lightning"),
    "accelerate": ("Accelerate", "accelerate"),
}
"""Per module of this package, the host's title and the package it needs.

A module has ``train(variant, updates, turn)``, which makes so many updates, in one of the
``VARIANTS``, and lets its training loader fetch through ``turn``.
"""

VARIANTS = ("bare", "no-op", "stagegraph")
LIMIT = 10.0
"""Microseconds that stagegraph may add to an update beyond what a no-op callback adds."""

ROUNDS, CYCLES, IN_PLACE = 20, 40, 400
"""Rounds, turns of each variant in one, and updates that are timed in place in one."""

FIRST, UPDATES, WARMUP = 2, 6, 10
"""Updates of a turn that are not timed, and those that are; turns that are not counted."""

Round = Sequence[Sequence[Taken]]
"""Per variant, what an update took in each cycle."""


class Added(NamedTuple):
    """What one variant takes longer than another; microseconds per update.

    Attributes:
        median: The median over the rounds of the median difference within cycles.
        low: The lower bound of its 95 % interval.
        high: The upper bound.
        calm: The same median over the calmest tenth of the cycles of each round, in which both
            together took least.
    """

    median: float
    low: float
    high: float
    calm: float

    @classmethod
    def of(cls, rounds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Added:
        """Of what both took in each cycle of each round."""
        found = [statistics.median(a - b for a, b in zip(*r, strict=True)) for r in rounds]
        return cls(*_interval(found), statistics.median(_calm(*r) for r in rounds))

    def __str__(self) -> str:
        interval = f"[{self.low:.1f} {self.high:.1f}]"
        return f"{self.median:8.1f} {interval:<16}{self.calm:8.1f}"


def _interval(found: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval."""
    found, half, spread = sorted(found), len(found) / 2, 0.98 * len(found) ** 0.5
    low, high = max(0, int(half - spread)), min(len(found) - 1, int(half + spread))
    return statistics.median(found), found[low], found[high]


def _calm(one: Sequence[float], other: Sequence[float]) -> float:
    cycles = sorted(zip(one, other, strict=True), key=sum)
    return statistics.median(a - b for a, b in cycles[: max(1, len(cycles) // 10)])


def main() -> None:
    """Compare the hosts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainers", description=__doc__)
    parser.add_argument("hosts", nargs="*", default=list(HOSTS), help=f"among {', '.join(HOSTS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all are made anew")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="turns of each in a round")
    given = parser.parse_args()
    chosen = [name for name in given.hosts if _is_there(name)]
    _stay_on_one_core()
    rounds, in_place = [], []
    for number in _shown(given.rounds):
        rounds.append(_round(chosen, given.cycles, Random(number)))
        in_place.append([_in_place(host) for host in chosen])
    print(
        f"What an update takes longer, in us: the median over {given.rounds} rounds of "
        f"{given.cycles} cycles with its 95 % interval,\n"
        "and over the calmest tenth of the cycles of each; "
        f"{UPDATES} updates a turn, one thread."
    )
    for number, host in enumerate(chosen):
        _report(HOSTS[host][0], [one[number] for one in rounds])
        _tell_in_place([one[number] for one in in_place])
        _count(host)


def _shown(rounds: int) -> Iterator[int]:
    """The rounds' numbers; says how far it is."""
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
        yield number
    print(file=sys.stderr)


def _round(hosts: Sequence[str], cycles: int, random: Random) -> list[Round]:
    updates = (WARMUP + cycles) * (FIRST + UPDATES)
    loops = []
    for host in hosts:
        variants = random.sample(VARIANTS, len(VARIANTS))
        loops.append({variant: _loop(host, variant, updates) for variant in variants})
    taken = side_by_side(loops, first=FIRST, updates=UPDATES, warmup=WARMUP, warmed=_settle)
    gc.unfreeze()
    return [[theirs[variant] for variant in VARIANTS] for theirs in taken]


def _is_there(name: str) -> bool:
    if name not in HOSTS:
        raise SystemExit(f"there is no host {name!r}; there are {', '.join(HOSTS)}")
    package = HOSTS[name][1]
    if find_spec(package) is None:
        print(f"{HOSTS[name][0]}: left out, {package} is not installed")
        return False
    return True


def _stay_on_one_core() -> None:
    """A thread that goes on elsewhere finds nothing in the caches there."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _in_place(host: str) -> dict[str, float]:
    places = import_module(f"benchmarks.trainers.{host}").PLACES
    updates = inplace.FIRST + IN_PLACE
    spent = {v: inplace.spent(_loop(host, v, updates), where) for v, where in places.items()}
    return {**spent, "beyond": spent["stagegraph"] - spent["no-op"]}


def _tell_in_place(rounds: Sequence[dict[str, float]]) -> None:
    titles = {"no-op": "a no-op callback", "stagegraph": "stagegraph, ten guards"}
    for key in rounds[0]:
        median, low, high = _interval([one[key] for one in rounds])
        name, interval = titles.get(key, "stagegraph beyond the no-op"), f"[{low:.1f} {high:.1f}]"
        print(f"  {name:<28}{'timed in place':<17}{median:8.1f} {interval}")
    print(f"  {_verdict(low, high, 'timed in place')}")


def _loop(host: str, variant: str, updates: int) -> Loop:
    train = import_module(f"benchmarks.trainers.{host}").train
    return partial(train, variant, updates)


def _settle() -> None:
    """What was made so far is no garbage, and is looked through no more."""
    gc.collect()
    gc.freeze()


def _report(title: str, rounds: Sequence[Round]) -> None:
    bare = [[one[clock] for r in rounds for one in r[0]] for clock in (0, 1)]
    took, calm = map(statistics.median, bare), [statistics.quantiles(b, n=20)[0] for b in bare]
    wall, cpu = took
    print(f"\n{title}: an update takes {wall:.0f} us, {cpu:.0f} us of the processor; "
          f"{calm[0]:.0f} and {calm[1]:.0f} us when it is calm")  # fmt: skip
    rows = (("a no-op callback", 1, 0), ("stagegraph, ten guards", 2, 0),
            ("stagegraph beyond the no-op", 2, 1))  # fmt: skip
    for clock, word in enumerate(("on the wall", "of the processor")):
        for name, one, other in rows:
            added = Added.of([_clocked(r[one], r[other], clock) for r in rounds])
            print(f"  {name:<28}{word:<17}{added}  {1 + added.median / (wall, cpu)[clock]:.3f} x")
    print(f"  {_verdict(added.low, added.high, 'of the processor')}")


def _clocked(
    one: Sequence[Taken], other: Sequence[Taken], clock: int
) -> tuple[list[float], list[float]]:
    return [taken[clock] for taken in one], [taken[clock] for taken in other]


def _count(host: str) -> None:
    updates = counted.FIRST + counted.UPDATES
    of = {variant: counted.count(_loop(host, variant, updates)) for variant in VARIANTS}
    for variant, (codes, calls) in of.items():
        more = codes - of["no-op"][0], calls - of["no-op"][1]
        print(f"  {variant:<28}{codes:,.0f} bytecodes and {calls:,.0f} calls in Python"
              f" ({more[0]:+,.0f} and {more[1]:+,.0f})")  # fmt: skip


def _verdict(low: float, high: float, how: str) -> str:
    limit = f"the limit of {LIMIT:g} us beyond a no-op callback, {how}"
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    told = f"; others load this machine {busy:.1f} times" if busy > 1 else ""
    if high <= LIMIT:
        return f"holds: within {limit}"
    if low <= LIMIT:
        return f"cannot tell: the interval holds {limit}; give more --rounds{told}"
    return f"does not hold: over {limit}{told}"


if __name__ == "__main__":
    main()
