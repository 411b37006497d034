"""What stagegraph adds to an update at which nothing is due: ``python -m benchmarks.trainers``.

A host trains one model, and what listens changes every few updates: nobody, a callback of the
host's own that does nothing, and ten guards that wait. What counts is the difference within a
cycle of turns, so that a machine that changes its speed changes all alike. What else runs on the
machine makes an update slower, and what is looked for with it: so the figures are given over all
cycles, and over the calmest third of them, by what the one took that is not compared.
What the host's calls of ours and of the callback that does nothing take is timed in place too.
That is less: what ours displaces from the caches makes the host slower afterwards, and does not
show there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from random import Random
from typing import NamedTuple

import torch

from benchmarks.trainers import counted, inplace
from benchmarks.trainers.turns import UPDATES, VARIANTS, Loop, Taken, Turns

HOSTS = {
    "plain": ("plain loop", "torch"),
    "huggingface": ("Hugging Face Trainer", "transformers"),
    "lightning": ("Lightning Trainer", "lightning"),
    "accelerate": ("Accelerate", "accelerate"),
}
"""Per module of this package, the host's title and the package it needs.

A module has ``train(updates, turn)``, which makes so many updates, lets those listen whose turn it
is, and lets its training loader fetch through ``turn``.
"""

LIMIT = 10.0
"""Microseconds that stagegraph may add to an update beyond what a no-op callback adds."""

ROUNDS, CYCLES, IN_PLACE = 5, 1000, 400
"""Rounds, turns of each variant in one, and updates that are timed in place in one."""

Cycle = dict[str, Taken]
"""What an update took in each variant."""


class Added(NamedTuple):
    """What one variant takes longer than another; microseconds per update.

    Attributes:
        median: The median difference within cycles.
        low: The lower bound of its 95 % interval.
        high: The upper bound.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Sequence[float]) -> Added:
        """Of so many differences."""
        found, half, spread = sorted(found), len(found) / 2, 0.98 * len(found) ** 0.5
        low, high = max(0, int(half - spread)), min(len(found) - 1, int(half + spread))
        return cls(statistics.median(found), found[low], found[high])

    def __str__(self) -> str:
        return f"{self.median:6.1f} {f'[{self.low:.1f} {self.high:.1f}]':<14}"


def main() -> None:
    """Compare the hosts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainers", description=__doc__)
    parser.add_argument("hosts", nargs="*", default=list(HOSTS), help=f"among {', '.join(HOSTS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all are made anew")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="turns of each in a round")
    given = parser.parse_args()
    chosen = [name for name in given.hosts if _is_there(name)]
    _stay_on_one_core()
    torch.set_num_threads(1)
    cycles: dict[str, list[Cycle]] = {host: [] for host in chosen}
    in_place: dict[str, list[dict[str, float]]] = {host: [] for host in chosen}
    for number, host in _shown(given.rounds, chosen):
        turns = Turns(given.cycles, Random(number))
        cycles[host] += turns.run(_loop(host, turns.updates))
        in_place[host].append(_in_place(host))
    print(
        "What an update takes longer, in us: the median with its 95 % interval over all of "
        f"{given.rounds} x {given.cycles} cycles,\nand over the calmest third of them; "
        f"{UPDATES} updates a turn, one thread."
    )
    for host in chosen:
        _report(HOSTS[host][0], cycles[host])
        _tell_in_place(in_place[host])
        _count(host)


def _shown(rounds: int, hosts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The rounds' numbers and the hosts; says how far it is."""
    for number in range(rounds):
        for host in hosts:
            told = f"\rround {number + 1} of {rounds}: {HOSTS[host][0]} "
            print(f"{told:<50}", end="", file=sys.stderr, flush=True)
            yield number, host
    print(file=sys.stderr)


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


def _loop(host: str, updates: int) -> Loop:
    return partial(import_module(f"benchmarks.trainers.{host}").train, updates)


def _in_place(host: str) -> dict[str, float]:
    places = import_module(f"benchmarks.trainers.{host}").PLACES
    loop = _loop(host, inplace.FIRST + IN_PLACE)
    spent = {variant: inplace.spent(loop, variant, where) for variant, where in places.items()}
    return {**spent, "beyond": spent["stagegraph"] - spent["no-op"]}


ROWS = {
    "a no-op callback": ("no-op", "bare", "stagegraph"),
    "stagegraph, ten guards": ("stagegraph", "bare", "no-op"),
    "stagegraph beyond the no-op": ("stagegraph", "no-op", "bare"),
}
"""What is compared with what, and what says how calm it was: that favours neither."""


def _report(title: str, cycles: Sequence[Cycle]) -> None:
    took = [statistics.median(one["bare"][clock] for one in cycles) for clock in (0, 1)]
    print(f"\n{title}: an update takes {took[0]:.0f} us, {took[1]:.0f} us of the processor")
    for clock, word in enumerate(("on the wall", "of the processor")):
        for name, (one, other, third) in ROWS.items():
            found = sorted((c[third][clock], c[one][clock] - c[other][clock]) for c in cycles)
            differences = [difference for _, difference in found]
            added = Added.of(differences)
            calm = Added.of(differences[: max(1, len(found) // 3)])
            times = 1 + calm.median / took[clock]
            print(f"  {name:<28}{word:<17}{added} calm {calm} {times:.3f} x")
    print(f"  {_verdict(calm, 'of the processor, when it is calm')}")


def _tell_in_place(rounds: Sequence[dict[str, float]]) -> None:
    for name, key in zip(ROWS, ("no-op", "stagegraph", "beyond"), strict=True):
        added = Added.of([one[key] for one in rounds])
        print(f"  {name:<28}{'timed in place':<17}{added}")
    print(f"  {_verdict(added, 'timed in place')}")


def _count(host: str) -> None:
    loop = _loop(host, counted.FIRST + counted.UPDATES)
    of = {variant: counted.count(loop, variant) for variant in VARIANTS}
    for variant, (codes, calls) in of.items():
        more = codes - of["no-op"][0], calls - of["no-op"][1]
        print(f"  {variant:<28}{codes:,.0f} bytecodes and {calls:,.0f} calls in Python"
              f" ({more[0]:+,.0f} and {more[1]:+,.0f})")  # fmt: skip


def _verdict(added: Added, how: str) -> str:
    limit = f"the limit of {LIMIT:g} us beyond a no-op callback, {how}"
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    told = f"; others load this machine {busy:.1f} times" if busy > 1 else ""
    if added.high <= LIMIT:
        return f"holds: within {limit}"
    if added.low <= LIMIT:
        return f"cannot tell: the interval holds {limit}; give more --rounds{told}"
    return f"does not hold: over {limit}{told}"


if __name__ == "__main__":
    main()
