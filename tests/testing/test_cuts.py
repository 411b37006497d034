"""Where a run is ended: inside each kind, around each change, spread over the rest."""

from fractions import Fraction

from stagegraph.testing.cuts import choose_cuts
from stagegraph.testing.lives import Life


def life(*kinds, structural=(), batches=1000):
    updates = range(1, len(kinds) + 1)
    return Life(
        began=0,
        readings={update: {} for update in updates},
        kinds={update: (kinds[update - 1],) for update in updates},
        structural=list(structural),
        epochs={update: Fraction(update, batches) for update in updates},
    )


def test_one_is_inside_the_longest_time_of_each_kind():
    whole = life(*"aabbbbbaacccc")
    assert choose_cuts(3, whole) == (2, 5, 11)


def test_the_boundaries_around_each_structural_change_are_among_them():
    whole = life(*"a" * 40, structural=(10, 30))
    assert {9, 10, 11, 29, 30, 31} <= set(choose_cuts("spread", whole))
    assert len(choose_cuts("spread", whole)) == 8


def test_one_is_within_a_later_pass():
    whole = life(*"a" * 9, batches=4)
    assert set(choose_cuts(2, whole)) & {5, 6, 7}


def test_the_rest_is_spread():
    assert choose_cuts(4, life(*"a" * 17)) == (1, 5, 9, 16)


def test_more_than_there_are_is_all():
    whole = life(*"aaa")
    assert choose_cuts("all", whole) == choose_cuts("spread", whole) == (1, 2)
    assert choose_cuts([2, 1, 2], whole) == (1, 2)
