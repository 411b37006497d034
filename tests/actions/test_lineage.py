import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagegraph.actions.changes import CountChange, Deepened, NewBlock
from stagegraph.actions.growth.depth.layout import places
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import SnapshotError


def grown(lineage, stack, before, after, *, at="spread", cohort="c", step=0):
    order = lineage.order(stack, before)
    blocks = tuple(
        NewBlock(lineage.next_label(k), place.at, order[place.copy_of])
        for k, place in enumerate(places(before, after, how="identity", at=at))
    )
    lineage.add(Deepened(cohort, step, stack, before, blocks))


def test_names_of_old_blocks_shift_and_their_ids_do_not():
    lineage = Lineage()
    grown(lineage, "m.blocks", 2, 4)
    now = [lineage.stable(f"m.blocks.{i}.w") for i in range(4)]
    assert now == ["m.blocks.0.w", "m.blocks.g1-0.w", "m.blocks.1.w", "m.blocks.g1-1.w"]
    assert lineage.stable("head.2.w") == "head.2.w"


def test_stacks_inside_grown_stacks():
    lineage = Lineage()
    grown(lineage, "a.0.b", 1, 2)
    grown(lineage, "a", 1, 2)
    assert lineage.stable("a.0.b.1.w") == "a.0.b.g1-0.w"
    assert lineage.stable("a.1.b.1.w") == "a.g2-0.b.1.w"


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["end", "spread"])), max_size=4))
def test_today_is_the_inverse_of_stable(growths):
    lineage, size = Lineage(), 3
    for added, at in growths:
        grown(lineage, "x", size, size + added, at=at)
        size += added
    names = [f"x.{i}.w" for i in range(size)]
    ids = [lineage.stable(name) for name in names]
    assert len(set(ids)) == size
    assert [lineage.today(key) for key in ids] == names


def test_a_name_grown_again_means_the_newest_boundary():
    lineage = Lineage()
    grown(lineage, "a", 2, 3, cohort="deeper", step=1)
    grown(lineage, "a", 3, 4, cohort="deeper", step=9, at="end")
    grown(lineage, "b", 2, 3, cohort="deeper", step=9, at="end")
    assert lineage.added_names(lineage.cohort("deeper")) == ["a.3", "b.2"]


def test_it_survives_json():
    change = Deepened(
        "c", 4, "x", 2, (NewBlock("g1-0", 2, "1"),), (CountChange("n", 2, 3),), ("layer_idx",)
    )
    data = json.loads(json.dumps(Lineage([change]).as_json()))
    assert Lineage.from_json(data).changes == (change,)


def test_a_change_of_another_version_is_refused():
    with pytest.raises(
        SnapshotError, match=r"a change of kind 'melt'; this stagegraph knows 'deepen'"
    ):
        Lineage.from_json([{"kind": "melt"}])
    with pytest.raises(SnapshotError, match=r"cannot be read: KeyError\('cohort'\)"):
        Lineage.from_json([{"kind": "deepen"}])
