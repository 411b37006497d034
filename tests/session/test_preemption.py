"""A run that is told to go finishes its step, saves, and exits with 75; then it goes on."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

import stagegraph as sg
from stagegraph.cli.main import main
from stagegraph.runs.folder import RunFolder
from tests.session.test_resuming import moves
from tests.session.training import EVERY_MOVE, EVERY_STAGE, Training
from tests.survival.test_kills import ENVIRONMENT, ROOT


def running(folder, **more):
    torch.manual_seed(7)
    run = Training(EVERY_STAGE, dropout=0.2, run=folder, **more)
    run.engine.resume()
    run.updates = run.engine.progress.step
    return run


@pytest.fixture(autouse=True)
def in_the_foreground():
    """As a process of its own would have them; one in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    run = running(tmp_path_factory.mktemp("whole") / "a").go()
    run.engine.close()
    return run.weights()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("at", [20, 51])
def test_a_run_that_is_told_to_go_saves_and_goes_on(tmp_path, weights, number, at):
    run = running(tmp_path / "a").go(at)
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def step():
        with run.engine.preemptible():
            loss = run.update()
            os.kill(os.getpid(), number)
            run.engine.step(loss=loss, samples=5)
            run.observe()

    with pytest.raises(sg.Preempted) as left:
        step()
    assert (left.value.code, left.value.reason) == (75, signal.Signals(number).name)
    assert str(left.value) == f"told to go ({left.value.reason}); the run can be resumed"
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    run.engine.close()
    told = [r for r in RunFolder(tmp_path / "a").records() if r["type"] == "preempted"]
    assert [(r["step"], r["reason"]) for r in told] == [(at + 1, left.value.reason)]
    again = running(tmp_path / "a")
    assert again.updates == at + 1
    assert again.go().weights() == weights
    assert moves(tmp_path / "a") == EVERY_MOVE
    again.engine.close()


def test_a_second_interrupt_does_not_wait_for_the_step(tmp_path, capsys):
    run = running(tmp_path / "a")

    def interrupt_twice():
        with run.engine.preemptible():
            os.kill(os.getpid(), signal.SIGINT)
            assert "finishing the step; once more interrupts at once" in capsys.readouterr().err
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    run.engine.close()


def test_epochs_watch_signals_and_stop_when_they_are_left(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run = running(tmp_path / "a")

    def train():
        for epoch in run.engine.epochs(range(10)):
            assert signal.getsignal(signal.SIGTERM) is not before
            for _ in epoch:
                run.tick()
                if run.updates == 13:
                    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(sg.Preempted):
        train()
    assert run.updates == 14
    run.engine.close()
    again = running(tmp_path / "a")
    for epoch in again.engine.epochs(range(10)):
        assert (epoch.index, next(iter(epoch))) == (1, 4)
        break
    assert signal.getsignal(signal.SIGTERM) is before
    again.engine.close()


def test_without_a_folder_signals_do_what_they_always_do():
    before = signal.getsignal(signal.SIGTERM)
    with Training(EVERY_STAGE).engine.preemptible():
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    run = running(tmp_path / "a")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with run.engine.preemptible():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    run.engine.close()


def test_in_another_thread_nothing_is_watched(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []
    run = running(tmp_path / "a")

    def look():
        with run.engine.preemptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
    run.engine.close()


TASK = """
import torch, time
import stagegraph as sg

def train(job):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = torch.randn(32, 4)
    loader = torch.utils.data.DataLoader(data, 4, sampler=sg.SeededSampler(data))
    engine = job.engine(model=model, optimizer=optimizer)
    for epoch in engine.epochs(loader):
        for x in epoch:
            loss = engine.loss((model(x) - x.sum(1, keepdim=True)).pow(2).mean())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step(loss=loss)
            time.sleep(PAUSE)
    print("sum", float(sum(p.detach().sum() for p in model.parameters())))

def lazy(job):
    pass

def twice(job):
    model = torch.nn.Linear(1, 1)
    job.engine(model=model)
    job.engine(model=model)
"""
GRAPH = """
stagegraph: 1
name: a task
initial: a
stages:
  a: {kind: train, duration: 40 steps, next: done}
  done: {kind: final}
"""


def command(folder, *words, kill_at=None):
    """``stagegraph run`` in a process of its own; told to go after a step."""
    words = [sys.executable, "-m", "stagegraph", "run", "graph.yaml", *words]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if kill_at is not None:
        for line in process.stdout:
            if kill_at in line:
                process.send_signal(signal.SIGTERM)
                break
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


@pytest.fixture
def task(tmp_path):
    (tmp_path / "graph.yaml").write_text(GRAPH)
    (tmp_path / "fast.py").write_text(TASK.replace("PAUSE", "0"))
    (tmp_path / "slow.py").write_text(TASK.replace("PAUSE", "0.1"))
    return tmp_path


@pytest.fixture
def here(task, monkeypatch, capsys):
    """``stagegraph run`` in this process, which has torch imported already."""
    monkeypatch.chdir(task)
    monkeypatch.setattr(sys, "path", [str(task), *sys.path])

    def run(*words):
        status = main(["run", "graph.yaml", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    yield run
    sys.modules.pop("fast", None)


@pytest.mark.slow
def test_the_command_line_runs_is_told_to_go_and_resumes(task, here):
    status, whole, _ = here("--task", "fast:train", "--run", "whole")
    assert status == 0
    assert "step 40  main: a → done" in whole and "report: whole/report.html" in whole
    status, out, error = command(task, "--task", "slow:train", kill_at="step 0  main: (start)")
    assert status == 75, error
    assert error.splitlines()[-1] == (
        "runs/graph: told to go (SIGTERM); the run can be resumed: stagegraph run ... "
        "--run runs/graph --resume"
    )
    status, _, error = here("--task", "fast:train")
    assert status == 2
    assert "runs/graph holds an earlier run already; add --resume to go on with it" in error
    status, out, _ = command(task, "--task", "fast:train", "--resume")
    assert status == 0 and "resumed at step " in out
    end = [line for line in out.splitlines() if line.startswith("sum ")]
    assert end == [line for line in whole.splitlines() if line.startswith("sum ")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fast", "--task 'fast': write MODULE:FUNCTION, such as train:main"),
        ("nowhere:train", "there is no module 'nowhere' here or among those installed"),
        ("fast:trein", "module 'fast' has no function 'trein'; did you mean 'train'?"),
        ("fast:lazy", "the task returned without an engine; it takes the job and calls job.engin"),
        ("fast:twice", "a job has one engine; keep the one that engine() gave"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused(here, words, message):
    status, _, error = here("--task", words)
    assert status == 2
    assert message in error
