import pytest
from pydantic import ValidationError

from stagegraph.schema.actions import Deepen


def deepen(**fields):
    return Deepen.model_validate({"type": "deepen", "stack": "blocks", "add": 2, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"how": "middle", "at": "end"}, "how: middle says itself where its blocks go, without"),
        ({"how": "stack", "at": "spread"}, "without 'at': 'interleave' spreads copies"),
        ({"how": "stack", "zero": ["out"]}, "'zero' is for how: identity; how: stack zeroes noth"),
        ({"how": "random", "init": "fresh"}, "'init' is for how: identity; without zeros"),
        ({"init": "fresh", "noise": 0.1}, "'noise' is for weights that are copied"),
        ({"how": "random", "noise": 0.1}, "'noise' is for weights that are copied"),
        ({"noise": 0}, "greater than 0"),
        ({"how": "solar"}, "'drop_and_cat'"),
    ],
)
def test_what_does_not_go_together(fields, message):
    with pytest.raises(ValidationError, match=message):
        deepen(**fields)


@pytest.mark.parametrize(
    ("fields", "fresh"),
    [
        ({}, False),
        ({"init": "copy", "noise": "1%"}, False),
        ({"init": "fresh", "at": "spread"}, True),
        ({"how": "random", "at": "end"}, True),
        ({"how": "stack", "noise": 0.01}, False),
    ],
)
def test_where_new_weights_come_from(fields, fresh):
    action = deepen(**fields)
    assert action.fresh == fresh
    assert Deepen.model_validate(action.model_dump(mode="json")) == action
