"""Dead anywhere and resumed, a run in an accelerator's loop goes on bit for bit."""

import shutil

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import stagegraph as sg
from stagegraph.errors import RunFolderError, SnapshotError, StageGraphError
from stagegraph.trainers.accelerate import AcceleratedEngine, newest_whole
from tests.trainers.accelerate.small import (
    EVERYTHING,
    GROWS,
    HARDER,
    WIDTH,
    Dies,
    Items,
    Life,
    Net,
    Skips,
    differences,
    fresh_accelerator,
    live_twice,
)

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it

# With 7 batches a pass: 9 is the second batch of the second pass, after the growth.


@pytest.mark.parametrize("host", [False, True])
def test_resumes_after_a_growth_in_the_middle_of_a_pass(tmp_path, host):
    whole = live_twice(tmp_path, [9], host=host)
    assert [stage for _, stage in whole.moves][1] == "main:warmup"
    assert len(whole.model.blocks) == 3


def test_resumes_inside_an_accumulation_under_everything(tmp_path):
    given = {"gradient_accumulation_steps": 2, "mixed_precision": "bf16", "ema": True}
    whole = live_twice(tmp_path, [10], EVERYTHING, host=True, **given)
    assert "main:again" in [stage for _, stage in whole.moves]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("host", [False, True])
def test_resumes_from_every_micro_batch(tmp_path, host, accumulate):
    live_twice(tmp_path, range(1, 50), host=host, gradient_accumulation_steps=accumulate)


@pytest.mark.slow
@pytest.mark.parametrize("host", [False, True])
def test_everything_resumes_from_every_micro_batch(tmp_path, host):
    given = {"gradient_accumulation_steps": 2, "mixed_precision": "bf16", "ema": True}
    live_twice(tmp_path, range(1, 60, 2), EVERYTHING, host=host, **given)


def test_an_average_that_no_checkpoint_keeps_is_told(tmp_path):
    model = Net()
    accelerator = fresh_accelerator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    average = AveragedModel(model)
    engine = AcceleratedEngine(
        sg.load(GROWS),
        accelerator,
        model=model,
        optimizer=optimizer,
        ema=average,
        probe=torch.ones(2, WIDTH),
        checkpoints=None,
    )
    engine.start()
    with pytest.warns(UserWarning, match=r"\(ema=\) are in no checkpoint of the accelerator's"):
        accelerator.save_state(tmp_path / "step_0")
    accelerator.save_state(tmp_path / "step_1")  # told once
    engine.close()


CURRICULA = [(False, 0, [6, 10]), (True, 0, [6, 10]), (True, 2, [8])]


@pytest.mark.parametrize(("host", "workers", "cuts"), CURRICULA)
def test_a_curriculum_resumes_over_a_growth_and_a_return(tmp_path, host, workers, cuts):
    given = {"host": host, "workers": workers, "curriculum": True}
    whole = live_twice(tmp_path, cuts, HARDER, **given)
    assert [stage for _, stage in whole.moves][-2:] == ["main:easier", "main:done"]
    assert len(whole.model.blocks) == 2
    assert {0, 1} <= whole.levels


@pytest.mark.parametrize("saved_with", [False, True])
def test_a_checkpoint_with_and_an_engine_without_data_do_not_go_together(tmp_path, saved_with):
    def engine_of(data):
        accelerator = fresh_accelerator()
        net = Net()
        model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
        given = {"model": model, "optimizer": optimizer, "probe": torch.ones(2, WIDTH)}
        loader = sg.CurriculumLoader(Items(), batch_size=4) if data else None
        engine = AcceleratedEngine(
            sg.load(GROWS), accelerator, data=loader, checkpoints=None, **given
        )
        return accelerator, engine, net

    accelerator, engine, _ = engine_of(saved_with)
    engine.start()
    accelerator.save_state(tmp_path / "step_0")
    engine.close()
    accelerator, engine, net = engine_of(not saved_with)
    before = [p.clone() for p in net.parameters()]
    said = "tells where data= stands" if saved_with else "does not tell where data= stands"
    with pytest.raises(SnapshotError, match=said):
        accelerator.load_state(tmp_path / "step_0")
    assert all(map(torch.equal, before, net.parameters()))
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("host", [False, True])
def test_a_curriculum_resumes_at_every_update(tmp_path, host, workers):
    given = {"host": host, "workers": workers, "curriculum": True}
    live_twice(tmp_path, range(1, 12), HARDER, **given)


LOADERS = [
    {"use_stateful_dataloader": True},
    {"use_stateful_dataloader": True, "workers": 1},
    {"use_stateful_dataloader": True, "workers": 1, "generator": True},
    {"use_stateful_dataloader": True, "use_seedable_sampler": True},
    {"use_stateful_dataloader": True, "generator": True},
    {"use_seedable_sampler": True},
    {"generator": True},
    {"shuffle": False},
    {"workers": 1},
    {"workers": 1, "persistent": True, "generator": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("given", LOADERS, ids="-".join)
def test_resumes_at_every_place_of_a_pass(tmp_path, given, host):
    live_twice(tmp_path, [1, 3, 6, 7, 8, 10], host=host, **given)  # 6 and 7: the end of a pass


def test_resumes_at_the_end_of_a_pass_over_a_loader_that_knows_where_it_is(tmp_path):
    live_twice(tmp_path, [7], use_stateful_dataloader=True)


@pytest.mark.parametrize(
    ("host", "fused"),
    [(False, False), pytest.param(True, True, marks=pytest.mark.slow)],
)
def test_updates_that_the_scaler_skips_are_none(tmp_path, host, fused):
    given = {"gradient_accumulation_steps": 2, "host": host, "fused": fused}
    whole = live_twice(tmp_path, [9], make_scaler=lambda: Skips((2, 5)), **given)
    assert whole.accelerator.scaler.at == ()  # both have come
    assert whole.engine.progress.step == max(whole.seen) == 12
    # 7 batches a pass in fours: 4 updates, of which those that were skipped do not count.
    assert whole.scheduler.scheduler.last_epoch == (14 if fused else 12)


@pytest.mark.slow
def test_resumes_with_accelerates_own_names(tmp_path):
    live_twice(tmp_path, [4, 9], host=True, naming=True)
    names = sorted(one.name for one in (tmp_path / "cut-9/checkpoints").iterdir())
    assert len(names) == 12 and "checkpoint_11" in names


def test_a_checkpoint_that_was_not_saved_to_its_end_is_passed_over(tmp_path):
    whole = Life(tmp_path / "whole", host=True)
    with pytest.raises(Dies):
        Life(tmp_path / "cut", host=True, die=7)
    newest = tmp_path / "cut/checkpoints/step_7"
    last = newest / "random_states_0.pkl"
    last.write_bytes(last.read_bytes()[:100])  # as if killed while it was written
    shutil.rmtree(tmp_path / "cut/checkpoints/step_6/stagegraph")
    (tmp_path / "cut/checkpoints/step_6/stagegraph.json").unlink()
    with pytest.warns(UserWarning, match=r"step_7, step_6 had not been saved to the end; .*step_5"):
        found = newest_whole(tmp_path / "cut/checkpoints")
    assert found is not None and found.name == "step_5"
    with pytest.warns(UserWarning, match="step_7"):
        again = Life(tmp_path / "cut", host=True, resume=True)
    assert min(again.seen) == 6 and differences(whole.seen, again.seen) is None


def test_saving_over_a_checkpoint_makes_it_none_first(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left on device")

    saved = tmp_path / "one_1"
    engine = _waiting_engine(tmp_path / "run_of")
    engine.accelerator.save_state(str(saved))
    assert newest_whole(tmp_path) == saved
    monkeypatch.setattr("accelerate.accelerator.save_accelerator_state", broken)
    with pytest.raises(OSError, match="no space"):
        engine.accelerator.save_state(str(saved))
    engine.close()
    with pytest.raises(RunFolderError, match="none of one_1 was saved to its end"):
        newest_whole(tmp_path)


def _waiting_engine(folder, *, host=True):
    """An engine at its beginning, of which the caller takes leave."""

    class Still(Life):
        def train(self, die):
            self.engine.start()
            self.engine.close = lambda: None

    engine = Still(folder, host=host).engine
    del engine.close
    return engine


def test_newest_whole_of_nothing_is_nothing(tmp_path):
    assert newest_whole(tmp_path / "none") is None
    (tmp_path / "notes").mkdir()
    assert newest_whole(tmp_path) is None


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    Life(tmp_path, host=True, save_every=100)
    with pytest.raises(RunFolderError, match="holds an earlier run already"):
        Life(tmp_path, host=True)


def test_load_state_of_a_run_with_its_own_checkpoints_is_refused(tmp_path):
    engine = _waiting_engine(tmp_path / "a", host=False)
    engine.accelerator.save_state(str(tmp_path / "saved_1"))  # for another run to go on from
    with pytest.raises(StageGraphError, match=r"call engine.resume\(\), or give"):
        engine.accelerator.load_state(str(tmp_path / "saved_1"))
    engine.close()


def test_killed_before_the_first_checkpoint_it_begins_again(tmp_path):
    whole = Life(tmp_path / "whole", host=True, save_every=100)
    with pytest.raises(Dies):
        Life(tmp_path / "cut", host=True, die=3, save_every=100)
    with pytest.warns(
        UserWarning, match=r"cut.run holds a run, and no checkpoint of it was loaded"
    ):
        again = Life(tmp_path / "cut", host=True, resume=True, save_every=100)
    assert again.moves == whole.moves and min(again.seen) == 1


def test_a_checkpoint_without_an_engine_is_refused(tmp_path):
    engine = _waiting_engine(tmp_path / "a")
    accelerator = engine.accelerator
    engine.close()
    accelerator.save_state(str(tmp_path / "bare_1"))  # its hooks are off

    engine = _waiting_engine(tmp_path / "b")
    with pytest.raises(SnapshotError, match=r"bare_1 was not saved with an engine, or"):
        engine.accelerator.load_state(str(tmp_path / "bare_1"))
    engine.close()


class Early(Life):
    """Tries to save everywhere but behind an update that the engine has been told of."""

    def train(self, die):
        step = self.engine.step

        def refused(why):
            with pytest.raises(StageGraphError, match=why):
                self.accelerator.save_state(str(self.folder / "early_1"))
            self.refused.append(why)

        def early(**given):
            inside = not self.accelerator.sync_gradients
            refused("gradients are being accum" if inside else "an update was made that engine.st")
            step(**given)
            if inside:
                refused("gradients are being accumulated, which no checkpoint holds")
            if self.engine.wants_evaluation:
                refused(r"the boundary still waits for engine.observe")

        self.refused = []
        self.engine.step = early
        super().train(die)


def test_checkpoints_from_which_nothing_could_go_on_are_refused(tmp_path):
    life = Early(tmp_path, host=True, save_every=100, gradient_accumulation_steps=2)
    assert life.engine.done and len(set(life.refused)) == 4
    assert not (tmp_path / "early_1/stagegraph.json").exists()
