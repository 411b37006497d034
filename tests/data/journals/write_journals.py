"""Writes the journals of this folder: one believable run with three growths and a roll-back.

Run it again after a change: ``python tests/data/journals/write_journals.py``.
"""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EPOCH = 200
FINAL = 13_800

STAYS = [
    ("train", 0, 3000),
    ("warmup", 3000, 3500),
    ("settle", 3500, 3700),
    ("consolidate", 3700, 4500),
    ("train", 4500, 6600),
    ("warmup", 6600, 7100),
    ("settle", 7100, 7300),
    ("consolidate", 7300, 7900),
    ("train", 6600, 8200),
    ("warmup", 8200, 8700),
    ("settle", 8700, 8900),
    ("consolidate", 8900, 9700),
    ("train", 9700, 11_800),
    ("anneal", 11_800, 13_800),
]
UNDONE = 8
"""The stay that follows the roll-back."""


class Journal:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seconds = 0.0

    def write(self, type_: str, step: int, **data: Any) -> None:
        progress = {"step": step, "epoch": str(Fraction(step, EPOCH)), "samples": step * 32}
        progress["seconds"] = round(self.seconds, 2)
        progress = {key: value for key, value in progress.items() if value not in (0, "0")}
        record = {"type": type_, "step": step, "progress": progress, **data}
        self.lines.append(json.dumps(record, allow_nan=False))


def plateau(step: int, gain: float, count: int, *, verdict: bool = True) -> dict[str, Any]:
    return {
        "guard": "plateau(val_loss, worth=0.005, over=1000 steps)",
        "value": verdict,
        "sees": {"upper bound": gain, "worth": 0.005, "confirmed": count, "verdict": "plateau"},
    }


def leaf(guard: str, value: bool | None, **sees: Any) -> dict[str, Any]:
    return {"guard": guard, "value": value, "sees": sees}


def to_grow(step: int, params: int, spent: int) -> dict[str, Any]:
    return {
        "guard": "plateau(val_loss, worth=0.005, over=1000 steps) and affordable(main:grow) "
        "and left(steps) > 6000",
        "value": True,
        "of": [
            plateau(step, 0.0041, 3),
            leaf("affordable(main:grow)", True, adds=396_800, left=3_000_000 - params),
            leaf("left(steps) > 6000", True, **{"left(steps)": 20_000 - spent}),
        ],
    }


def to_anneal(spent: int) -> dict[str, Any]:
    return {
        "guard": "plateau(val_loss, worth=0.005, over=1000 steps) and (not affordable(main:grow) "
        "or visits(main:grow) >= 3 or left(steps) <= 6000)",
        "value": True,
        "of": [
            plateau(11_800, 0.0038, 3),
            {
                "guard": "not affordable(main:grow) or visits(main:grow) >= 3 "
                "or left(steps) <= 6000",
                "value": True,
                "of": [
                    {
                        "guard": "not affordable(main:grow)",
                        "value": False,
                        "of": [leaf("affordable(main:grow)", True, adds=396_800, left=1_006_400)],
                    },
                    leaf("visits(main:grow) >= 3", True, **{"visits(main:grow)": 3}),
                    leaf("left(steps) <= 6000", False, **{"left(steps)": 20_000 - spent}),
                ],
            },
        ],
    }


def certificate(before: int, cohort: int, train: float) -> dict[str, Any]:
    return {
        "params_before": before,
        "params_after": before + 396_800,
        "max_change_eval": 0.0,
        "max_change_train": train,
        "exactness": "exact",
        "new_blocks": [f"blocks.{2 + 2 * cohort}", f"blocks.{3 + 2 * cohort}"],
        "ran": True,
        "gradient": True,
        "seconds": 0.21 + 0.03 * cohort,
    }


def loss_at(step: int, grown: int, noise: random.Random, *, bad: bool) -> float:
    value = 1.55 + 4.6 * math.exp(-step / 900) - 0.16 * (1 - math.exp(-grown * 0.9))
    value -= 0.05 * max(0.0, (step - 11_800) / 2000)
    if bad and step > 7100:
        value += 0.9 * (step - 7100) / 800
    return value + noise.gauss(0, 0.012)


def rate_at(step: int, stage: str, start: int) -> float:
    host = 6e-4 * min(1.0, (step + 1) / 300) * (0.55 + 0.45 * math.cos(math.pi * step / 20_000))
    if stage == "settle":
        host *= 0.3
    if stage == "anneal":
        host *= 1 - (step - start) / 2000
    return round(host, 9)


def write_vitals(
    journal: Journal,
    step: int,
    stage: str,
    start: int,
    params: int,
    cohorts: list[str],
    share: float,
) -> None:
    rate = rate_at(step, stage, start)
    alphas = dict.fromkeys(cohorts, 1.0)
    if cohorts:
        alphas[cohorts[-1]] = round(0.5 - 0.5 * math.cos(math.pi * share), 6)
    journal.write(
        "vitals",
        step,
        stages={"main": f"main:{stage}"},
        params=params,
        lr=[rate, round(rate * 0.5, 9)],
        alphas=alphas,
        factors=[1.0, 1.0],
    )


def grow_on_plateau(*, until: int | None = None) -> list[str]:
    noise = random.Random(7)
    journal = Journal()
    params, grown, spent, visits = 1_200_000, 0, 0, {"grow": 0}
    cohorts: list[str] = []
    journal.write(
        "run",
        0,
        graph="grow-on-plateau",
        digest="9f2c77d1c0b64e0d",
        stagegraph="0.1.0",
        seed=7,
        started="2026-03-02T09:14:05Z",
        params=params,
    )
    for index, (stage, start, end) in enumerate(STAYS):
        if until is not None and index >= until:
            return journal.lines
        if index == UNDONE:
            params, grown = params - 396_800, grown - 1
            cohorts.pop()
        grew = _enter(journal, index, params, grown, spent, visits)
        if grew:
            params, grown = params + 396_800, grown + 1
            cohorts.append(f"main:grow#{visits['grow']}")
        for step in range(start + 50, end + 1, 50):
            journal.seconds += 6.1 + 1.4 * grown
            spent += 50
            if step % 200 == 0:
                value = loss_at(step, grown, noise, bad=index in (6, 7))
                finite = step != 5000
                journal.write(
                    "metric",
                    step,
                    name="val_loss",
                    value=round(value, 5) if finite else None,
                    **({} if finite else {"raw": "nan"}),
                )
            if step == 8100 and index == UNDONE:
                journal.write(
                    "error",
                    step,
                    edge="main:train.transitions[0]",
                    action="main:grow.actions[1]",
                    reason="out of memory while preparing blocks.6",
                    attempt=1,
                )
            share = (step - start) / 500 if stage == "warmup" else 1.0
            write_vitals(journal, step, stage, start, params, cohorts, share)
        if stage == "train" and index == 0:
            journal.write(
                "verdict",
                1000,
                scope="main:train",
                guard="plateau(val_loss, worth=0.005, over=1000 steps)",
                verdict="cannot tell",
                evidence={"observations": 5, "needed": 8},
            )
    _move(journal, FINAL, "main:anneal.next", "next", "anneal", [], "done", "completed()", None, 1)
    journal.write("event", FINAL, name="checkpoint_now", status="ignored")
    journal.write("end", FINAL, reason="final", stages={"main": "main:done"})
    return journal.lines


def _enter(
    journal: Journal, index: int, params: int, grown: int, spent: int, visits: dict[str, int]
) -> bool:
    stage, start, _ = STAYS[index]
    visits[stage] = visits.get(stage, 0) + 1
    visit = visits[stage]
    if index == 0:
        _move(journal, 0, None, "initial", None, [], stage, None, None, visit)
        return False
    source = STAYS[index - 1][0]
    if index == UNDONE:
        trace = leaf(
            "regressed(val_loss, by=0.05, since=before, lasting=300 steps)",
            True,
            before=1.553,
            now=2.334,
            worse=0.503,
            lasted="400 steps",
        )
        step = STAYS[index - 1][2]
        edge = "main:interrupts.undo"
        _move(journal, step, edge, "interrupt", source, [], stage, trace["guard"], trace, visit)
        journal.write("roll_back", step, to="before", boundary=start, snapshot="before-2")
        return False
    if stage == "warmup":
        visits["grow"] += 1
        trace = to_grow(start, params, spent)
        edge = "main:train.transitions[0]"
        evidence = {"main:grow.actions[0]": {"snapshot": f"before-{visits['grow']}"}}
        _move(
            journal, start, edge, "transition", source, ["grow"], stage, trace["guard"], trace,
            visit, evidence,
        )  # fmt: skip
        journal.write(
            "growth",
            start,
            place="main:grow.actions[1]",
            region="main",
            cohort=f"main:grow#{visits['grow']}",
            certificate=certificate(params, grown, 2.4e-7 * visits["grow"]),
        )
        return True
    if stage == "anneal":
        trace = to_anneal(spent)
        edge = "main:train.transitions[1]"
        reason = "at_most 3 is used up"
        journal.write("blocked", start, edge="main:train.transitions[0]", reason=reason)
        _move(journal, start, edge, "transition", source, [], stage, trace["guard"], trace, visit)
        return False
    _move(
        journal, start, f"main:{source}.next", "next", source, [], stage, "completed()", None, visit
    )
    return False


def _move(
    journal: Journal,
    step: int,
    edge: str | None,
    kind: str,
    source: str | None,
    via: list[str],
    target: str,
    guard: str | None,
    evidence: dict[str, Any] | None,
    visit: int,
    actions: dict[str, Any] | None = None,
) -> None:
    journal.write(
        "move",
        step,
        region="main",
        edge=edge,
        kind=kind,
        source=None if source is None else f"main:{source}",
        via=[f"main:{name}" for name in via],
        target=f"main:{target}",
        visit=visit,
        guard=guard,
        evidence=evidence,
        actions=actions or {},
    )


def main() -> None:
    whole, half = grow_on_plateau(), grow_on_plateau(until=7)
    (HERE / "grow-on-plateau.jsonl").write_text("\n".join(whole) + "\n")
    (HERE / "grow-on-plateau-running.jsonl").write_text("\n".join(half) + "\n")


if __name__ == "__main__":
    main()
