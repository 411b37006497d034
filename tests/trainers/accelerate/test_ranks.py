"""Several processes with Accelerate: one decision, and resume bit for bit on each of them."""

import contextlib
import os
import warnings

import pytest

from tests.ranks.processes import on_ranks
from tests.trainers.accelerate.small import EVERYTHING, GROWS, Dies, Life, differences

pytestmark = pytest.mark.xdist_group("ranks")


def lives(rank, folder, host, text, cuts):
    """A whole run, and runs that die on all ranks and go on; what is different."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    warnings.simplefilter("ignore")
    given = {"host": host, "gradient_accumulation_steps": 2, "text": text}
    whole = Life(folder / "whole", **given)
    found = []
    for cut in cuts:
        with contextlib.suppress(Dies):
            Life(folder / f"cut-{cut}", die=cut, **given)
        again = Life(folder / f"cut-{cut}", resume=True, **given)
        found.append(differences(whole.seen, again.seen))
    last = whole.seen[max(whole.seen)]
    return {
        "processes": whole.accelerator.num_processes,
        "differences": found,
        "weights": last["weights"],
        "moments": last["moments"],
        "batches": [one["batch"] for one in whole.seen.values()],
        "moves": whole.moves,
        "samples": whole.engine.progress.samples,
        "steps": whole.engine.progress.step,
    }


def check(tmp_path, host, text, cuts, size=2):
    first, *others = on_ranks(size, lives, tmp_path, host, text, cuts, folder=tmp_path, seconds=200)
    assert first["processes"] == size
    assert first["differences"] == [None] * len(cuts)
    assert first["moves"]
    for one in others:
        assert one["batches"] != first["batches"]
        assert {**one, "batches": first["batches"]} == first


def test_all_processes_grow_together_and_go_on_with_the_folder_of_the_run(tmp_path):
    check(tmp_path, False, EVERYTHING, (9,))


@pytest.mark.slow
def test_in_each_part_of_the_run_they_go_on_too(tmp_path):
    check(tmp_path, False, EVERYTHING, (3, 12, 18))


@pytest.mark.slow
def test_all_processes_go_on_with_what_the_accelerator_saved(tmp_path):
    check(tmp_path, True, EVERYTHING, (10,))


@pytest.mark.slow
@pytest.mark.parametrize("host", [False, True], ids=["run", "accelerator"])
@pytest.mark.parametrize("text", [GROWS, EVERYTHING], ids=["grows", "everything"])
def test_three_processes_add_up_gradients_in_one_order(tmp_path, host, text):
    """The order is settled at the first backward, and among three the last bits hang on it."""
    check(tmp_path, host, text, (3, 10, 16), size=3)
