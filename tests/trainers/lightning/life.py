"""Whole runs, and runs that go on from every checkpoint of them, compared batch by batch."""

import copy
import warnings
from pathlib import Path

import pytest
import torch

from stagegraph.actions.randomness import seed_all
from stagegraph.errors import SnapshotError
from tests.trainers.lightning import small


def life(folder, *, resume=None, make=small.Module, text=small.GROWS, about=None, **given):
    """A run that saves wherever it can; what it was like, its metrics, its callback."""
    given = dict(given)
    places, only = (
        given.pop("places", ("batch", "validated", "pass", "end")),
        given.pop("only", None),
    )
    seed_all(0)
    module = make()
    data = given.pop("train", small.loader)()
    given |= {key: given[key]() for key in ("val", "plugins") if callable(given.get(key))}
    prints = small.Prints()
    ours = small.stages(text, **(about or {}))
    extra = [one() for one in given.pop("extra", ())]
    if resume is not None:
        seed_all(7)  # a new process does not begin with the random numbers of another
    saves = [small.Places(folder, places, only)] if folder is not None else []
    trainer = small.fit(module, ours, [*extra, prints, *saves], train=data, resume=resume, **given)
    return prints, ours, trainer


def assert_resumes(folder, cuts=None, **given):
    """A run that goes on from each of its checkpoints is the whole one, or is refused.

    Returns:
        The last batch, and the checkpoints from which one could go on.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a run cannot go on as it was")
        return _assert_resumes(folder, cuts, **given)


def _assert_resumes(folder, cuts, **given):
    whole, ours, _ = life(folder / "whole", **copy.deepcopy(given))
    ended = ours.engine.stages
    ours.engine.close()
    last = max(whole.seen)
    saved = sorted(Path(folder / "whole").glob("*.ckpt"))
    assert saved
    tried, failures = [], []
    for one in saved:
        at, _, place = one.stem.partition("-")
        if cuts is not None and one.stem not in cuts:
            continue
        if torch.load(one, weights_only=True)["stagegraph"]["host"]["inexact"]:
            with pytest.raises(SnapshotError, match="would not be the one that saved it"):
                life(None, resume=str(one), **copy.deepcopy(given))
            continue
        tried.append(one.stem)
        resumed, again, _ = life(None, resume=str(one), **copy.deepcopy(given))
        again.engine.close()
        if int(at) < last:
            wrong = small.differences(whole.seen, resumed.seen)
            if min(resumed.seen, default=0) != int(at) + 1:
                wrong.append(f"begins at {min(resumed.seen, default=0)}")
        else:
            wrong = [] if not resumed.seen else ["trains more"]
        if again.engine.stages != ended:
            wrong.append(f"ends in {again.engine.stages}")
        after = int(at) if place == "batch" else int(at) + 1
        told = [{k: v for k, v in each.metrics.items() if k >= after} for each in (whole, resumed)]
        if told[0] != told[1]:
            wrong.append(f"validated {told[1]}, not {told[0]}")
        if wrong:
            failures.append((one.stem, wrong))
    assert not failures, "\n".join(map(str, failures))
    return last, tried
