"""What stagegraph adds to an update, in each host: ``python -m benchmarks.trainers``.

Each host trains the same model three times side by side: without stagegraph, with a callback of
its own that does nothing, and with ten guards that wait. What counts is the difference within a
cycle of turns, so that a machine that changes its speed changes all alike.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.trainers import counted
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

FIRST, UPDATES, WARMUP = 2, 6, 20
"""Updates of a turn that are not timed, and those that are; turns that are not counted."""


class Added(NamedTuple):
    """What one variant takes longer than another; microseconds per update.

    Attributes:
        median: The median of the differences within cycles.
        low: The lower bound of its 95 % interval.
        high: The upper bound.
        mean: The mean without the tenths at both ends.
        calm: The median over the calmest tenth of the cycles, in which both together took least.
    """

    median: float
    low: float
    high: float
    mean: float
    calm: float

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float]) -> Added:
        """Of what both took in each cycle."""
        cycles = sorted(zip(one, other, strict=True), key=sum)
        tenth = max(1, len(cycles) // 10)
        calm = statistics.median(a - b for a, b in cycles[:tenth])
        found = sorted(a - b for a, b in cycles)
        half, spread = len(found) / 2, 0.98 * len(found) ** 0.5
        low = found[max(0, int(half - spread))]
        high = found[min(len(found) - 1, int(half + spread))]
        trimmed = statistics.mean(found[tenth : len(found) - tenth])
        return cls(statistics.median(found), low, high, trimmed, calm)

    def __str__(self) -> str:
        interval = f"[{self.low:.1f} {self.high:.1f}]"
        return f"{self.median:8.1f} {interval:<16}{self.mean:8.1f}{self.calm:8.1f}"


def main() -> None:
    """Compare the hosts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainers", description=__doc__)
    parser.add_argument("hosts", nargs="*", default=list(HOSTS), help=f"among {', '.join(HOSTS)}")
    parser.add_argument("--cycles", type=int, default=800, help="turns of each variant")
    given = parser.parse_args()
    chosen = [name for name in given.hosts if _is_there(name)]
    updates = (WARMUP + given.cycles) * (FIRST + UPDATES)
    loops = [
        {f"{host} {variant}": _loop(host, variant, updates) for variant in VARIANTS}
        for host in chosen
    ]
    taken = side_by_side(loops, first=FIRST, updates=UPDATES, warmup=WARMUP, warmed=_settle)
    print(
        f"What an update takes longer, in us: the median over {given.cycles} cycles with its 95 % "
        "interval,\nthe mean without the tenths at both ends, the median over the calmest tenth; "
        f"{UPDATES} updates a turn, one thread."
    )
    for host, theirs in zip(chosen, taken, strict=True):
        _report(HOSTS[host][0], list(theirs.values()))
        _count(host)


def _is_there(name: str) -> bool:
    if name not in HOSTS:
        raise SystemExit(f"there is no host {name!r}; there are {', '.join(HOSTS)}")
    package = HOSTS[name][1]
    if find_spec(package) is None:
        print(f"{HOSTS[name][0]}: left out, {package} is not installed")
        return False
    return True


def _loop(host: str, variant: str, updates: int) -> Loop:
    train = import_module(f"benchmarks.trainers.{host}").train
    return partial(train, variant, updates)


def _settle() -> None:
    """What was made so far is no garbage, and is looked through no more."""
    gc.collect()
    gc.freeze()


def _report(title: str, taken: Sequence[Sequence[Taken]]) -> None:
    bare, nothing, ours = taken
    took = [statistics.median(one[clock] for one in bare) for clock in (0, 1)]
    calm = [statistics.quantiles([one[clock] for one in bare], n=20)[0] for clock in (0, 1)]
    print(f"\n{title}: an update takes {took[0]:.0f} us, {took[1]:.0f} us of the processor; "
          f"{calm[0]:.0f} and {calm[1]:.0f} us when it is calm")  # fmt: skip
    rows = (("a no-op callback", nothing, bare), ("stagegraph, ten guards", ours, bare),
            ("stagegraph beyond the no-op", ours, nothing))  # fmt: skip
    for clock, word in enumerate(("on the wall", "of the processor")):
        for name, one, other in rows:
            added = Added.of([a[clock] for a in one], [b[clock] for b in other])
            print(f"  {name:<28}{word:<17}{added}  {1 + added.median / took[clock]:.3f} x")
    print(f"  {_verdict(added)}")


def _count(host: str) -> None:
    updates = counted.FIRST + counted.UPDATES
    of = {variant: counted.count(_loop(host, variant, updates)) for variant in VARIANTS}
    for variant, (codes, calls) in of.items():
        more = codes - of["no-op"][0], calls - of["no-op"][1]
        print(f"  {variant:<28}{codes:,.0f} bytecodes and {calls:,.0f} calls in Python"
              f" ({more[0]:+,.0f} and {more[1]:+,.0f})")  # fmt: skip


def _verdict(added: Added) -> str:
    limit = f"the limit of {LIMIT:g} us of the processor beyond a no-op callback"
    if added.high <= LIMIT:
        return f"holds: within {limit}"
    if added.low <= LIMIT:
        return f"cannot tell: the interval holds {limit}; give more --cycles"
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    if busy > 1 and added.calm <= LIMIT:
        return f"holds when it is calm: within {limit}; others load this machine {busy:.1f} times"
    told = f"; others load this machine {busy:.1f} times" if busy > 1 else ""
    return f"does not hold: over {limit}{told}"


if __name__ == "__main__":
    main()
