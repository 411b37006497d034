import pytest

from stagegraph.actions.growth.layout import places


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
        (2, 4, "stack", "spread", "0 +0 1 +1"),
        (4, 7, "identity", "spread", "0 1 +1 2 +2 3 +3"),
        (2, 6, "identity", "spread", "0 +0 +0 1 +1 +1"),
        (1, 2, "identity", "spread", "0 +0"),
    ],
)
def test_rows(before, after, how, at, row):
    assert laid_out(before, after, how=how, at=at) == row
