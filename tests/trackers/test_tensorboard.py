"""TensorBoard: what an accumulator reads back is the run, also after it was cut."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import stagegraph as sg
from stagegraph.trackers import TensorBoard
from tests.trackers.running import MOVES, STAGES, resumed, training, whole, without


def read(folder):
    """Everything that TensorBoard shows: scalars and texts by name, with their steps."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    shown = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["tensors"]:
        events = board.Tensors(tag)
        shown[tag.removesuffix("/text_summary")] = [
            (e.step, e.tensor_proto.string_val[0].decode()) for e in events
        ]
    return shown


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    whole(TensorBoard(folder)).engine.close()
    return read(folder)


def test_stages_are_numbered_and_moves_are_texts_with_their_reason(expected):
    assert expected["stagegraph/stage/main"] == STAGES
    moves = expected["stagegraph/move/main"]
    assert [step for step, _ in moves] == MOVES
    assert "main: first → grow → warmup" in moves[1][1]
    assert "completed()" in moves[4][1]  # why, as the guard says it
    [(at, growth)] = expected["stagegraph/growth"]
    assert at == 3 and "params" in growth
    assert [step for step, _ in expected["stagegraph/roll_back"]] == [12, 17]
    [(at, end)] = expected["stagegraph/end"]
    assert at == 22 and "ended: final" in end


def test_alpha_rates_factors_and_parameters_are_numbers(expected):
    alphas = expected["stagegraph/alpha/main_grow_1"]
    assert [(at, pytest.approx(alpha)) for at, alpha in alphas] == [(3, 0.0), (6, 0.75), (7, 1.0)]
    factors = dict(expected["stagegraph/lr_factor/0"])
    assert factors[0] == 1.0 and factors[3] == 0.0 and factors[6] == pytest.approx(0.75)
    assert factors[10] == 1.0 and factors[22] == 1.0
    rates = dict(expected["stagegraph/lr/0"])
    assert rates[6] == pytest.approx(0.1 * 0.99**6 * 0.75)
    before, after = (dict(expected["stagegraph/params"])[at] for at in (0, 3))
    assert before < after == dict(expected["stagegraph/params"])[22]


def test_a_rollback_goes_on_to_the_right_and_its_step_falls(expected):
    steps = expected["stagegraph/step"]
    assert [at for at, _ in steps] == sorted({at for at, _ in steps})
    assert dict(steps)[10] == 10 and dict(steps)[12] == 10 and dict(steps)[15] == 13


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in range(2, 22) if n != 13]


@pytest.mark.parametrize("cut", [13, *SLOW])
def test_a_run_that_is_cut_shows_nothing_twice_and_lacks_nothing(tmp_path, expected, cut):
    """The folder's last checkpoint is some updates older than the cut."""
    board, how = tmp_path / "board", sg.Checkpoints(every="4 steps", background=False)
    run = training(TensorBoard(board), run=tmp_path / "run", checkpoints=how)
    run.engine.start()
    run.go(cut).engine.close()
    resumed(TensorBoard(board), run=tmp_path / "run", checkpoints=how).go().engine.close()
    shown = read(board)
    [(_, told)] = shown.pop("stagegraph/resume")
    assert "resumed from checkpoint" in told
    assert shown == expected


def test_what_the_backend_never_got_comes_with_the_resume(tmp_path, expected):
    """A writer that dies with its buffer full, or a tracker that was not there before."""
    run = training(run=tmp_path / "run")
    run.engine.start()
    run.go(11).engine.close()
    resumed(TensorBoard(tmp_path / "board"), run=tmp_path / "run").go().engine.close()
    shown = read(tmp_path / "board")
    assert shown["stagegraph/move/main"] == expected["stagegraph/move/main"]
    assert shown["stagegraph/growth"] == expected["stagegraph/growth"]


def test_ones_own_writer_is_used_and_stays_open(tmp_path, expected):
    def writer():
        return SummaryWriter(tmp_path / "board")

    how = sg.Checkpoints(every="4 steps", background=False)
    with writer() as mine:
        mine.add_scalar("loss", 1.0, 0)
        run = training(TensorBoard(mine), run=tmp_path / "run", checkpoints=how)
        run.engine.start()
        run.go(13).engine.close()
        mine.add_scalar("loss", 2.0, 13)
    with writer() as mine:
        run = resumed(TensorBoard(mine), run=tmp_path / "run", checkpoints=how)
        run.go().engine.close()
        mine.add_scalar("loss", 3.0, 22)
    shown = read(tmp_path / "board")
    assert shown.pop("loss") == [(0, 1.0), (13, 2.0), (22, 3.0)]
    shown.pop("stagegraph/resume")
    assert shown == expected


@pytest.mark.parametrize("undecided", [False, True])
def test_without_a_folder_a_loaded_state_cuts_at_its_boundary(tmp_path, expected, undecided):
    run = training(TensorBoard(tmp_path))
    run.engine.start()
    run.go(11)
    run.engine.step(loss=run.update(), samples=5)
    if not undecided:
        run.observe()
    saved, snapshots = run.save(), run.engine.snapshots()
    run.observe()
    run.go(4)
    again = training(TensorBoard(tmp_path)).load(saved)
    again.engine.load_snapshots(snapshots)
    again.observe()
    again.go().engine.close()
    shown = read(tmp_path)
    assert shown["stagegraph/move/main"] == expected["stagegraph/move/main"]
    assert shown["stagegraph/stage/main"] == expected["stagegraph/stage/main"]


def test_a_new_run_in_a_used_folder_is_refused(tmp_path):
    whole(TensorBoard(tmp_path)).engine.close()
    with pytest.raises(sg.RunFolderError, match=r"of an earlier run .* choose another folder"):
        whole(TensorBoard(tmp_path))


def test_without_tensorboard_the_error_names_the_extra(monkeypatch, tmp_path):
    without(monkeypatch, "tensorboard")
    with pytest.raises(ImportError, match=r"pip install 'stagegraph\[tensorboard\]'"):
        TensorBoard(tmp_path)
