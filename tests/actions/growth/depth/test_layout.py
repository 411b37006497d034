import pytest

from stagegraph.actions.growth.depth.layout import Place, grown_order, nearest, places


def laid_out(before, after, **options):
    row = [str(i) for i in range(before)]
    for place in places(before, after, **options):
        row.insert(place.at, f"+{place.copy_of}")
    return " ".join(row)


@pytest.mark.parametrize(
    ("before", "after", "how", "at", "row"),
    [
        (2, 4, "identity", "end", "0 1 +1 +1"),
        (2, 5, "stack", "end", "0 1 +0 +1 +0"),
        (4, 6, "identity", "spread", "0 1 +1 2 3 +3"),
        (2, 4, "interleave", "end", "0 +0 1 +1"),
        (4, 7, "interleave", "end", "0 1 +1 2 +2 3 +3"),
        (2, 4, "random", "end", "0 1 +1 +1"),
        (2, 4, "random", "spread", "0 +0 1 +1"),
        (4, 5, "middle", "end", "0 1 +1 2 3"),
        (5, 6, "middle", "end", "0 1 2 +2 3 4"),
        (5, 8, "middle", "end", "0 1 2 3 +1 +2 +3 4"),
        (3, 6, "middle", "end", "0 1 2 +0 +1 +2"),
        (4, 6, "drop_and_cat", "end", "0 1 2 +1 +2 3"),
        (5, 6, "drop_and_cat", "end", "0 1 2 +2 3 4"),
        (3, 6, "drop_and_cat", "end", "0 1 2 +0 +1 +2"),
        (4, 7, "identity", "spread", "0 1 +1 2 +2 3 +3"),
        (2, 6, "identity", "spread", "0 +0 +0 1 +1 +1"),
        (1, 2, "identity", "spread", "0 +0"),
    ],
)
def test_rows(before, after, how, at, row):
    assert laid_out(before, after, how=how, at=at) == row


@pytest.mark.parametrize(("before", "after"), [(32, 48), (8, 10), (6, 12)])
def test_drop_and_cat_is_two_copies_without_their_inner_ends(before, after):
    dropped = before - after // 2
    expected = [*range(before - dropped), *range(dropped, before)]
    assert grown_order(before, places(before, after, how="drop_and_cat")) == expected


@pytest.mark.parametrize(
    ("before", "after", "how", "message"),
    [
        (4, 9, "middle", "middle at most doubles a stack: 4 blocks become 5 to 8, not 9"),
        (4, 9, "drop_and_cat", "at most doubles"),
        (4, 7, "drop_and_cat", "two equal parts, and 7 is odd; from 4 blocks it makes 6, 8"),
        (32, 47, "drop_and_cat", r"from 32 blocks it makes 34, 36, …, 64"),
        (5, 7, "drop_and_cat", r"from 5 blocks it makes 6, 8, 10"),
    ],
)
def test_sizes_that_cannot_be(before, after, how, message):
    with pytest.raises(ValueError, match=message):
        places(before, after, how=how)


def test_a_block_that_may_not_be_copied_gives_way_to_its_neighbour():
    row = nearest(places(3, 6, how="interleave"), (False, True, True))
    assert row == (Place(1, 1), Place(3, 1), Place(5, 2))
    assert nearest((Place(2, 1),), (True, False, True)) == (Place(2, 2),)
