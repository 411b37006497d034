"""assert_resume_exact: see that a run, ended anywhere and resumed, goes on bit for bit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from stagegraph.actions.randomness import preserved_randomness
from stagegraph.errors import StageGraphError
from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.testing.cuts import Cuts, choose_cuts
from stagegraph.testing.differences import (
    NOT_DETERMINISTIC,
    NOT_RESUMED,
    Difference,
    causes,
    differences,
    tell,
)
from stagegraph.testing.lives import How, Life, Plan, Task, live
from stagegraph.testing.parts import Kind

__all__ = ["ResumeReport", "assert_resume_exact", "compare_lives"]


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """What was tried and found exact.

    Attributes:
        updates: Updates of the whole run.
        cuts: The updates after which a run was ended and resumed.
        compared: How many updates of resumed runs were compared.
        kinds: The kinds of the stages in which runs were ended.
        batches: What a resumed run gets of the batches: ``exact``, ``order exact``, ``not exact``;
            ``None`` if they do not come from ``engine.epochs``.
    """

    updates: int
    cuts: tuple[int, ...]
    compared: int
    kinds: tuple[str, ...]
    batches: str | None

    def __str__(self) -> str:
        return (
            f"ended after {len(self.cuts)} of {self.updates} updates (in {', '.join(self.kinds)}), "
            f"resumed, and all {self.compared} updates compared are the same"
        )


def assert_resume_exact(
    task: Task,
    graph: StageGraph | str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str],
    cuts: Cuts = "spread",
    how: How = "die",
    seed: int = 0,
    steps: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> ResumeReport:
    """Train, end the run at many places, resume it, and compare each update bit for bit.

    The run is trained twice without interruption: were these two not the same, nothing could be
    said of a resumed one. Then, for each cut, it is ended there, taken up by a fresh call of the
    task, and compared with the whole run after every update: each weight, buffer and optimizer
    entry, group settings, scheduler, scaler, EMA, random numbers, batches, metrics, decisions, the
    engine's own state; and schedulers, averaged models, optimizers, modules and generators among
    the task's own variables, which nobody may have thought of.

    Example::

        def test_my_run_resumes(tmp_path):
            assert_resume_exact(train, "grow.yaml", folder=tmp_path)

    Args:
        task: What ``stagegraph run`` takes: a function of the job that makes model and data, calls
            ``job.engine(...)`` and trains. ``job.watch(name=...)`` has more compared.
        graph: The graph, or its file.
        folder: An empty folder to train in.
        cuts: After which updates the run is ended: ``"spread"`` (one inside each kind of stage,
            before, at and after each structural change, and some between), ``"all"``, how many at
            least, or the updates themselves.
        how: ``"die"``: by an exception, nothing is saved then; ``"preempt"``: told to go, as by
            SIGTERM, with a checkpoint.
        seed: What the global random numbers begin with before the task is called; where it is
            called again, as by a new process, they begin with others.
        steps: Look at so many updates only; for a run that takes long, or never ends.
        checkpoints: When checkpoints are saved; by default, where one is in any case and after the
            update that the run is ended at, so that it is resumed there.

    Returns:
        What was tried.

    Raises:
        AssertionError: The run is not the same; the message says from which update on, which parts
            differ, and what usually causes that.
        StageGraphError: The task made no engine, or a cut is no update of the run.
    """
    if not isinstance(graph, StageGraph):
        graph = load(graph)
    home = Path(folder)
    again = partial(live, task, graph)
    whole_plan = Plan(steps=steps, checkpoints=checkpoints)
    with preserved_randomness():
        modules = len(sys.modules)
        whole = again(_fresh(home, "whole"), seed=seed, plan=whole_plan)
        imported = len(sys.modules) > modules
        other = again(_fresh(home, "again"), seed=seed + 1, plan=whole_plan)
        _require_deterministic(whole, other)
        chosen = choose_cuts(cuts, whole)
        compared = 0

        def until(cut: int) -> Plan:
            return replace(whole_plan, cut=cut, how=how, every=max(1, whole.clocks[cut]))

        for cut in chosen:
            place = _fresh(home, f"cut-{cut}")
            again(place, seed=seed, plan=until(cut))
            resumed = again(place, seed=seed + 2, resume=True, plan=whole_plan)
            found = compare_lives(whole, resumed)
            if found is not None and imported:  # what modules draw at their import comes but once
                whole = again(_fresh(home, "whole-2"), seed=seed, plan=whole_plan)
                imported, found = False, compare_lives(whole, resumed)
            if found is not None:
                raise AssertionError(_not_resumed(whole, resumed, cut, place, found))
            compared += len(resumed.readings)
            shutil.rmtree(place)
    for name in ("whole", "again", "whole-2"):
        shutil.rmtree(home / name, ignore_errors=name == "whole-2")
    kinds = tuple(dict.fromkeys(kind for cut in chosen for kind in whole.kinds[cut]))
    label = None if whole.loader is None else whole.loader.label
    return ResumeReport(len(whole.readings), chosen, compared, kinds, label)


def _fresh(home: Path, name: str) -> Path:
    place = home / name
    if place.exists():
        raise StageGraphError(f"{place} is there already; give assert_resume_exact an empty folder")
    return place


@dataclass(frozen=True, slots=True)
class Found:
    """The first update at which two lives are not the same.

    Attributes:
        update: Which.
        differing: The parts; none if only one of the two has this update.
        hints: Numbers kept in Python that are not the same either.
    """

    update: int
    differing: Sequence[Difference]
    hints: Sequence[Difference] = ()


def compare_lives(whole: Life, other: Life, *, unless: Set[Kind] = frozenset()) -> Found | None:
    """The first update after which a life is not what the whole run was, or ``None``.

    Args:
        whole: The whole run.
        other: The other one.
        unless: Kinds that do not count where nothing else differs.
    """
    first = min(other.began, whole.last) + 1
    for update in range(first, max(whole.last, other.last) + 1):
        wanted, found = whole.readings.get(update), other.readings.get(update)
        if wanted is None and found is None:
            continue  # a boundary that nobody saw: an evaluation that was asked for never came
        if wanted is None or found is None:
            return Found(update, ())
        every = differences(wanted, found, common=(Kind.HINT, Kind.FOUND, Kind.RANDOM))
        differing = [one for one in every if one.kind is not Kind.HINT]
        if any(one.kind not in unless for one in differing):
            return Found(update, differing, every[len(differing) :])
    return None


def _require_deterministic(whole: Life, other: Life) -> None:
    # Generators that nobody seeds and nobody draws from do no harm.
    at_start = differences(whole.at_start, other.at_start, without=(Kind.HINT,))
    if any(one.kind is not Kind.RANDOM for one in at_start):
        found: Found | None = Found(0, at_start)
    else:
        at_start, found = [], compare_lives(whole, other, unless={Kind.RANDOM})
    if found is None:
        return
    where = "before the first update" if at_start else f"first after {_place(whole, found.update)}"
    lines = [
        "this run is not deterministic in itself: two uninterrupted runs of it differ, so that no "
        "resumed run could be the same; that is not resume's fault.",
        f"They differ {where}:",
        *_tell(whole, other, found),
        "What usually causes it:",
        *causes(found.differing, found.hints, whole.loader, NOT_DETERMINISTIC),
    ]
    raise AssertionError("\n".join(lines))


def _not_resumed(whole: Life, resumed: Life, cut: int, place: Path, found: Found) -> str:
    lines = [
        "this run does not resume exactly.",
        f"It was ended after {_place(whole, cut)} and resumed from the checkpoint of update "
        f"{resumed.began}.",
    ]
    at_once = _not_brought_back(whole, resumed)
    if at_once:
        lines += ["Not brought back, before any update:", *tell(at_once)]
    lines += [
        f"The first update that differs is {_made(whole, found.update)}:",
        *_tell(whole, resumed, found),
        "What usually causes it:",
        *causes([*at_once, *found.differing], found.hints, resumed.loader, NOT_RESUMED),
        f"Its folder: {place}",
    ]
    return "\n".join(lines)


def _not_brought_back(whole: Life, resumed: Life) -> list[Difference]:
    wanted = whole.at_start if resumed.began == whole.began else whole.readings.get(resumed.began)
    if wanted is None:
        return []
    of_an_update = (Kind.HINT, Kind.BATCHES, Kind.DECISION)
    beside = (Kind.FOUND, Kind.WATCHED)
    return differences(wanted, resumed.at_start, without=of_an_update, common=beside)


def _tell(whole: Life, other: Life, found: Found) -> list[str]:
    if found.differing:
        return tell(found.differing)
    shorter, longer = sorted((whole.last, other.last))
    which = "the whole run" if whole.last > other.last else "this one"
    return [f"  one ends after update {shorter}, {which} after update {longer}"]


def _made(life: Life, update: int) -> str:
    """An update, and the kinds of the stages that it was made in."""
    return _in(update, life.kinds.get(update - 1))


def _place(life: Life, update: int) -> str:
    """An update, and the kinds of the stages after it."""
    return _in(update, life.kinds.get(update))


def _in(update: int, kinds: tuple[str, ...] | None) -> str:
    return f"update {update}" + (f" (in {', '.join(kinds)})" if kinds else "")
