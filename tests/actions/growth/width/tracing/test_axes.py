from stagegraph.actions.growth.width.tracing.axes import Axes, Ref


def sizes(axes, refs):
    return [axes.of(ref.node).size for ref in axes.atoms(refs)]


def test_a_view_splits_an_axis_everywhere():
    axes = Axes()
    weight = axes.fresh(24)
    (dims,) = [axes.regroup(weight, (3, 2, 4))]
    assert [sizes(axes, refs) for refs in dims] == [[3], [2], [4]]
    assert sizes(axes, weight) == [3, 2, 4]


def test_a_view_that_cuts_across_an_axis_is_not_known():
    axes = Axes()
    refs = (*axes.fresh(6), *axes.fresh(4))
    assert axes.regroup(refs, (8, 3)) is None
    assert axes.regroup(refs, (3, 8)) is not None
    assert sizes(axes, refs) == [3, 2, 4]


def test_axes_that_are_one_are_split_alike():
    axes = Axes()
    whole, heads, inner = axes.fresh(12), axes.fresh(3), axes.fresh(4)
    assert axes.unify(whole, (*heads, *inner))
    other = axes.fresh(12)
    assert axes.unify(other, whole)
    assert axes.roots(other) == axes.roots((*heads, *inner))


def test_products_are_aligned_by_splitting_the_larger_factor():
    axes = Axes()
    left = (*axes.fresh(2), *axes.fresh(12))
    right = (*axes.fresh(6), *axes.fresh(4))
    assert axes.unify(left, right)
    assert sizes(axes, left) == sizes(axes, right) == [2, 3, 4]
    assert axes.roots(left) == axes.roots(right)


def test_products_that_do_not_align_are_counted():
    axes = Axes()
    left = (*axes.fresh(2), *axes.fresh(3))
    assert not axes.unify(left, (*axes.fresh(3), *axes.fresh(2)))
    assert axes.conflicts == 1


def test_origins_go_with_the_factors():
    axes = Axes()
    weight = (Ref(axes.leaf(6), ((7, 0),)),)
    (rows, columns) = axes.regroup(weight, (2, 3))
    assert rows[0].origins == columns[0].origins == ((7, 0),)


def test_an_interval_is_the_same_axis_each_time():
    axes = Axes()
    whole = axes.fresh(8)
    first, again, other = axes.cut(whole, 0, 4), axes.cut(whole, 0, 4), axes.cut(whole, 4, 8)
    assert axes.roots(first) == axes.roots(again) != axes.roots(other)


def test_intervals_of_a_product_are_those_of_its_slowest_factor():
    axes = Axes()
    outer, inner = axes.fresh(3), axes.fresh(4)
    assert sizes(axes, axes.cut((*outer, *inner), 4, 12)) == [2, 4]
    assert axes.roots(axes.cut((*outer, *inner), 4, 8)) == axes.roots(inner)
    assert axes.cut((*outer, *inner), 2, 6) is None


def test_all_parts_together_are_the_axis_again_in_any_order():
    axes = Axes()
    whole = axes.fresh(8)
    low, high = axes.cut(whole, 0, 4), axes.cut(whole, 4, 8)
    assert axes.roots(axes.cat([low, high], [4, 4])) == axes.roots(whole)
    assert axes.roots(low) != axes.roots(high)
    assert axes.roots(axes.cat([high, low], [4, 4])) == axes.roots(whole)
    assert axes.roots(low) == axes.roots(high)


def test_parts_of_unequal_sizes_in_another_order_are_another_axis():
    axes = Axes()
    whole = axes.fresh(8)
    low, high = axes.cut(whole, 0, 3), axes.cut(whole, 3, 8)
    assert axes.roots(axes.cat([high, low], [5, 3])) != axes.roots(whole)


def test_slicing_a_concatenation_where_it_was_joined_gives_the_parts():
    axes = Axes()
    a, b = axes.fresh(3), axes.fresh(5)
    whole = axes.cat([a, b], [3, 5])
    assert axes.roots(axes.cut(whole, 0, 3)) == axes.roots(a)
    assert axes.roots(axes.cut(whole, 3, 8)) == axes.roots(b)


def test_pieces_stay_known_when_a_view_splits_their_axis():
    axes = Axes()
    whole = axes.fresh(12)
    pieces = [axes.cut(whole, at, at + 4) for at in (0, 4, 8)]
    axes.regroup(whole, (3, 4))
    assert axes.roots(pieces[0]) == axes.roots(pieces[2])
    assert sizes(axes, whole) == [3, 4]


def test_pieces_of_axes_that_are_one_are_one():
    axes = Axes()
    left, right = axes.fresh(8), axes.fresh(8)
    a, b = axes.cut(left, 0, 2), axes.cut(right, 0, 2)
    assert axes.roots(a) != axes.roots(b)
    assert axes.unify(left, right)
    assert axes.roots(a) == axes.roots(b)


def test_size_one_is_no_axis():
    axes = Axes()
    assert axes.fresh(1) == ()
    assert axes.regroup(axes.fresh(4), (1, 4, 1))[0] == ()
