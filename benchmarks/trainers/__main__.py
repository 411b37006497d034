"""What stagegraph adds to an update, in each host: ``python -m benchmarks.trainers``.

Each host trains the same model three times side by side: without stagegraph, with a callback of
its own that does nothing, and with ten guards that wait. What counts is the difference within a
cycle of turns, so that a machine that changes its speed changes all alike.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.trainers.turns import Loop, Taken, side_by_side

HOSTS = {
    "plain": ("plain loop", "torch"),
    "huggingface": ("Hugging Face Trainer", "transformers"),
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
    """What one variant takes longer than another; microseconds per update."""

    median: float
    low: float
    high: float
    mean: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Added:
        """The median with the bounds of its 95 % interval, and the mean without the tenths at
        both ends."""
        found = sorted(differences)
        half, spread = len(found) / 2, 0.98 * len(found) ** 0.5
        low = found[max(0, int(half - spread))]
        high = found[min(len(found) - 1, int(half + spread))]
        tenth = len(found) // 10
        trimmed = found[tenth : len(found) - tenth]
        return cls(statistics.median(found), low, high, statistics.mean(trimmed))

    def __str__(self) -> str:
        return f"{self.median:7.1f} [{self.low:6.1f} {self.high:6.1f}] {self.mean:7.1f}"


def main() -> None:
    """Compare the hosts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainers", description=__doc__)
    parser.add_argument("hosts", nargs="*", default=list(HOSTS), help=f"among {', '.join(HOSTS)}")
    parser.add_argument("--cycles", type=int, default=800, help="turns of each variant")
    given = parser.parse_args()
    chosen = [name for name in given.hosts if _is_there(name)]
    loops = [
        {f"{host} {variant}": _loop(host, variant, given.cycles) for variant in VARIANTS}
        for host in chosen
    ]
    taken = side_by_side(loops, first=FIRST, updates=UPDATES, warmup=WARMUP, warmed=_settle)
    print(
        f"what an update takes longer, us: median [95 % interval], mean without the tenths at both "
        f"ends;\n{given.cycles} cycles of {UPDATES} updates of each in turn, one thread"
    )
    for host, theirs in zip(chosen, taken, strict=True):
        _report(HOSTS[host][0], list(theirs.values()))


def _is_there(name: str) -> bool:
    if name not in HOSTS:
        raise SystemExit(f"there is no host {name!r}; there are {', '.join(HOSTS)}")
    package = HOSTS[name][1]
    if find_spec(package) is None:
        print(f"{HOSTS[name][0]}: left out, {package} is not installed")
        return False
    return True


def _loop(host: str, variant: str, cycles: int) -> Loop:
    train = import_module(f"benchmarks.trainers.{host}").train
    return partial(train, variant, (WARMUP + cycles) * (FIRST + UPDATES))


def _settle() -> None:
    """What was made so far is no garbage, and is looked through no more."""
    gc.collect()
    gc.freeze()


def _report(title: str, taken: Sequence[Sequence[Taken]]) -> None:
    bare, nothing, ours = taken
    wall, cpu = (statistics.median(t[clock] for t in bare) for clock in (0, 1))
    print(f"\n{title}: an update takes {wall:.0f} us on the wall, {cpu:.0f} us of the processor")
    rows = (("a no-op callback", nothing, bare), ("stagegraph, ten guards", ours, bare),
            ("stagegraph beyond the no-op", ours, nothing))  # fmt: skip
    for clock, word in enumerate(("wall", "processor")):
        for name, one, other in rows:
            added = Added.of([a[clock] - b[clock] for a, b in zip(one, other, strict=True)])
            share = f"{added.median / (wall, cpu)[clock]:+8.2%} of an update"
            print(f"  {word:<10}{name:<28}{added} {share}")
    print(f"  {_verdict(added)}")


def _verdict(added: Added) -> str:
    limit = f"the limit of {LIMIT:g} us beyond a no-op callback"
    if added.high <= LIMIT:
        return f"holds: within {limit}"
    if added.low > LIMIT:
        return f"does not hold: over {limit}"
    return f"cannot tell: the interval holds {limit}; give more --cycles"


if __name__ == "__main__":
    main()
