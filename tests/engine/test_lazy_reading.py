"""Values on a device are read when a guard that is asked needs them, and then all at once."""

import math

import pytest

from stagegraph.engine.arrivals import MAX_PENDING
from stagegraph.errors import MetricError
from tests.engine.driving import Run
from tests.engine.on_device import OnDevice, Transfers

FINAL = "b: {kind: final}"


def graph(when, *, metric="{goal: minimize}", stage="", more=""):
    return f"""
metrics: {{loss: {metric}, acc: {{goal: maximize}}}}
initial: a
stages:
  a: {{kind: train, transitions: [{{target: b, when: '{when}'}}]{stage}}}
  {FINAL}
{more}
"""


def begun(document, **options):
    """A run past its first boundary, which is looked at in any case."""
    return Run(document, **options).step()


def reads(document, *, steps=1000, loss=lambda n: 1.0, **options):
    """How many transfers so many updates force, each with a loss on a device."""
    transfers = Transfers()
    run = begun(document, reader=transfers, **options)
    for n in range(2, steps + 1):
        run.core.step(loss=OnDevice(loss(n)), acc=OnDevice(0.1))
        if run.core.wants_evaluation:
            run.core.observe()
    return transfers.sizes


def test_undeclared_loss_is_never_read():
    loss = OnDevice(1.0)
    run = Run("initial: a\nstages: {a: {kind: train}}\n")
    run.step(1000, loss=loss)
    run.core.state_dict()
    assert loss.reads == []


def test_metric_that_no_guard_reads_waits_until_the_list_is_full():
    document = graph("step > 10k")
    assert reads(document, steps=MAX_PENDING // 2 - 1) == []
    assert reads(document, steps=1000) == [MAX_PENDING]


def test_a_look_that_is_due_anyway_reads_all_that_waits_at_once():
    assert reads(graph("step == 400 or step > 5k"), steps=450) == [798]


def test_metric_of_another_stage_is_not_read():
    document = """
metrics: {loss: {goal: minimize}, acc: {goal: maximize}}
initial: a
stages:
  a: {kind: train, duration: 400 steps, next: b}
  b: {kind: train, transitions: [{target: c, when: loss < 0}]}
  c: {kind: final}
"""
    sizes = reads(document, steps=410)
    assert sizes == [798] + [2] * 10


def test_comparison_reads_each_value_all_metrics_of_an_update_together():
    assert reads(graph("loss < 0 and acc > 1")) == [2] * 999


@pytest.mark.parametrize("when", ["loss < 0", "best(loss) < 0", "nonfinite(loss) > 2"])
def test_look_every_says_how_often_values_are_looked_at(when):
    sizes = reads(graph(when, metric="{goal: minimize, look_every: 50 steps}"))
    assert 20 <= len(sizes) <= 22, "at the fifties, and once when the list is full"
    assert sum(sizes) > 1900


def test_plateau_reads_what_its_sampling_looks_at():
    when = "plateau(loss, worth=0.1%)"
    document = graph(when, metric="{goal: minimize, every: 50 steps}")
    assert 20 <= len(reads(document, loss=lambda n: 100.0 / n)) <= 42
    patient = graph("plateau(loss, patience=5k steps)", metric="{goal: minimize, every: 50 steps}")
    assert 20 <= len(reads(patient, loss=lambda n: 100.0 / n)) <= 42


def test_plateau_without_a_declared_rate_reads_each_value():
    document = graph("plateau(loss, worth=0.1%, over=400 steps)")
    assert len(reads(document, loss=lambda n: 100.0 / n)) == 999


def test_guard_that_is_not_asked_reads_nothing():
    stay = ", min_duration: 300 steps"
    assert reads(graph("loss < 0", stage=stay), steps=299) == []
    assert reads(graph("loss < 0 and elapsed(300 steps)"), steps=299) == []
    assert reads(graph("loss < 0 and step > 300"), steps=300) == []
    assert len(reads(graph("loss < 0 and step > 300"), steps=310)) == 10


def test_way_that_was_used_up_reads_nothing():
    document = (
        graph("loss < 0")
        .replace("when:", "at_most: 1, when:")
        .replace(FINAL, "b: {kind: train, duration: 1 step, next: a}")
    )
    sizes = reads(document, steps=200, loss=lambda n: -1.0)
    assert len(sizes) <= 3


def test_half_a_condition_does_not_hide_the_other_half():
    """Both come with the same update, and only together do they make the guard true."""
    run = Run(graph("loss < 1 and acc > 0.5"), reader=Transfers())
    run.step(loss=OnDevice(2.0), acc=OnDevice(0.0)).step(loss=OnDevice(0.5), acc=OnDevice(0.9))
    assert run.moves == [(2, "main:a.transitions[0]")]


def test_value_that_the_host_writes_over_is_the_one_that_was_given():
    run = Run(graph("step == 3 and last(loss) == 2"))
    loss = OnDevice(1.0)
    for value in (1.0, 2.0, 5.0):
        loss.value = value
        run.step(loss=loss) if value < 5 else run.step()
        loss.value = 99.0
    assert run.moves == [(3, "main:a.transitions[0]")]
    assert run.of_type("metric", "value") == [1.0, 2.0]


def test_saved_state_has_what_waits():
    transfers = Transfers()
    run = begun(graph("step > 10k"), reader=transfers)
    for n in range(20):
        run.step(loss=OnDevice(float(n)))
    assert transfers.sizes == []
    assert run.core.state_dict()["engine"]["metrics"]["loss"][0] == 19.0
    assert transfers.sizes == [20]


def test_observe_reads_once():
    transfers = Transfers()
    run = begun(graph("loss < 0"), reader=transfers).step(acc=OnDevice(0.5))
    run.core.observe(loss=OnDevice(1.0), acc=OnDevice(math.nan))
    assert transfers.sizes == [3]


def test_what_can_be_told_without_reading_is_refused_at_the_call():
    vector = OnDevice(1.0)
    vector.shape = (2,)
    for name in ("loss", "acc"):
        run = Run(graph("step > 10k"))
        with pytest.raises(MetricError, match=rf"'{name}' must be one number, got OnDevice of sh"):
            run.step(**{name: vector})
        assert run.core.progress.step == 0
    silent = Run("initial: a\nstages: {a: {kind: train}}\n")
    with pytest.raises(MetricError, match=r"'loss' must be one number, got OnDevice of shape \(2,"):
        silent.step(loss=vector)
    assert silent.core.progress.step == 0 and silent.core.loss is None


def test_value_that_turns_out_to_be_no_number_is_named_and_dropped():
    run = begun(graph("step == 3 or step > 10k"))
    run.step(loss=OnDevice("many"), acc=OnDevice(0.5))
    with pytest.raises(MetricError, match="metric 'loss' must be one number, got str"):
        run.core.explain()
    assert run.step().moves == [(3, "main:a.transitions[0]")]
    assert run.core.state.metrics["acc"].value == 0.5
    assert run.core.state.metrics["loss"].value is None


CANNOT_BE_READ = """
metrics: {m: {goal: minimize}}
initial: a
stages: {a: {kind: train, transitions: [{target: b, when: 'WHEN'}]}, b: {kind: final}}
"""


@pytest.mark.parametrize("when", ["m < 1", "step > 3 and m < 1"])
def test_value_that_cannot_be_read_is_named_and_dropped_and_the_run_goes_on(when):
    class Lost(OnDevice):
        def clone(self):
            return self

        def item(self):
            raise RuntimeError("the device is gone")

    run = Run(CANNOT_BE_READ.replace("WHEN", when))
    with pytest.raises(MetricError, match="metric 'm' cannot be read: RuntimeError: the device is"):
        run.step(4, m=Lost(0.5))
    run.step(3, m=OnDevice(2.0)).step(m=OnDevice(0.5))
    assert run.stage == "b"
