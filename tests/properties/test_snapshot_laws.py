"""Giving up snapshots that nothing can return to changes nothing that a run decides or does."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from hypothesis import HealthCheck, given, settings

from stagegraph.engine import moves
from tests.properties.runnable import runnable_graphs, streams
from tests.properties.ticking import begin, finish, seen, tick

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def lived(document, stream):
    run = begin(document)
    for happening in stream:
        tick(run, happening)
    finish(run)
    return run


@settings(max_examples=20, suppress_health_check=SLOW)
@given(runnable_graphs(), streams)
def test_what_is_given_up_is_never_missed(document, stream):
    frugal = lived(document, stream)
    with mock.patch.object(moves, "_newest", lambda after: (after, ())):
        hoarding = lived(document, stream)
    assert seen(frugal) == seen(hoarding)
    assert frugal.core.stages == hoarding.core.stages
    restored = [[b.restore for b in run.actor.boundaries] for run in (frugal, hoarding)]
    assert restored[0] == restored[1]
    kept = {s.id for s in frugal.core.state.snapshots}
    assert kept <= {s.id for s in hoarding.core.state.snapshots}
    assert set(frugal.actor.state_dict()["snapshots"]) == kept
    state = replace(hoarding.core.state, snapshots=frugal.core.state.snapshots)
    assert state.teachers == frugal.core.state.teachers
