"""An engine with a folder: its journal, its report, and what is shown while it runs."""

import io
import json
import re

import pytest
import torch

import stagegraph as sg
from stagegraph.runs.journal import read_journal
from tests.session.training import EVERY_MOVE, EVERY_STAGE, Training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    training = Training(EVERY_STAGE, run=folder)
    training.folder, training.shown = folder, io.StringIO()
    sg.Terminal(training.engine, out=training.shown)
    training.go()
    training.report = training.engine.report()
    return training


def test_the_folder_keeps_graph_authors_bytes_and_journal(run):
    assert {path.name for path in run.folder.iterdir()} == {
        "author.yaml",
        "checkpoints",
        "graph.json",
        "journal.jsonl",
        "lock",
        "report.html",
        "run.json",
        "status.json",
    }
    assert (run.folder / "author.yaml").read_text("utf-8") == EVERY_STAGE
    assert sg.digest(sg.load(run.folder / "graph.json")) == sg.digest(run.engine.graph)


def test_the_journal_has_all_that_the_listeners_were_told(run):
    journal = read_journal(run.folder / "journal.jsonl")
    assert journal[0]["type"] == "run"
    assert journal[0]["digest"] == sg.digest(run.engine.graph)
    assert journal[0]["params"] == 385
    assert journal[1:] == json.loads(json.dumps(run.records))


def test_the_vitals_have_loss_rates_alphas_and_parameters(run):
    vitals = [r for r in run.records if r["type"] == "vitals"]
    assert [r["step"] for r in vitals] == [0, *range(3, 75, 3)]
    warm = next(r for r in vitals if r["step"] == 51)
    assert warm["alphas"] == {"main:grow#1": 0.5}
    assert warm["params"] == 559
    assert isinstance(warm["loss"], float)
    assert warm["lr"] == [pytest.approx(0.1 * 0.99**51)]


def test_the_report_is_one_page_that_loads_nothing(run):
    page = run.report.read_text("utf-8")
    assert run.report == run.folder / "report.html"
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!\#|data:)[^\s>"']+""", page) == []
    assert not re.search(r"@import|url\((?!['\"]?(?:#|data:))", page)
    for source, target, _ in EVERY_MOVE[1:]:
        assert source.partition(":")[2] in page and target.partition(":")[2] in page
    assert "val_loss" in page and "every kind of stage" in page


def test_the_summary_tells_what_the_run_has_come_to(run):
    summary = run.engine.summary()
    assert summary.startswith("every kind of stage: ")
    assert "growths 1" in summary and "72" in summary


def test_a_folder_with_a_run_is_not_begun_in_again(run):
    before = (run.folder / "journal.jsonl").read_bytes()
    other = Training(EVERY_STAGE, run=run.folder)
    with pytest.raises(
        sg.RunFolderError, match=r"holds an earlier run already; call engine.resume\(\) before"
    ):
        other.engine.start()
    with pytest.raises(sg.RunFolderError, match="holds an earlier run already"):
        other.tick()
    assert (run.folder / "journal.jsonl").read_bytes() == before
    other.engine.close()


def test_an_engine_that_finds_no_folder_leaves_the_optimizer_alone(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [len(vars(optimizer)[f"_optimizer_step_{w}_hooks"]) for w in ("pre", "post")]
    with pytest.raises(sg.RunFolderError):
        sg.Engine(
            sg.load(
                "stagegraph: 1\nname: x\ninitial: a\nstages:\n"
                "  a: {kind: train, duration: 9 steps, next: done}\n  done: {kind: final}\n"
            ),
            model=model,
            optimizer=optimizer,
            run=tmp_path / "file",
        )
    after = [len(vars(optimizer)[f"_optimizer_step_{w}_hooks"]) for w in ("pre", "post")]
    assert before == after


def test_without_a_folder_there_is_nothing_to_report():
    engine = Training(EVERY_STAGE).engine
    for ask in (engine.report, engine.summary):
        with pytest.raises(sg.RunFolderError, match=r"give Engine\(run='...'\) a folder"):
            ask()


def test_a_report_can_be_written_while_the_run_goes_on(tmp_path):
    training = Training(EVERY_STAGE, run=tmp_path / "a").go(50)
    assert "warmup" in training.engine.report().read_text("utf-8")
    assert training.go().moves == EVERY_MOVE


# The terminal


def lines(run):
    return run.shown.getvalue().splitlines()


def test_the_terminal_shows_stage_step_loss_rate_parameters_and_waits(run):
    status = next(line for line in lines(run) if "step 24/200" in line)
    assert status.startswith("train  step 24/200 12%")
    for piece in ("loss ", "val_loss 1.04", "lr 0.0786", "385 params", "waits for grow: plateau"):
        assert piece in status
    ramping = next(line for line in lines(run) if "step 51/200" in line)
    assert "α 0.50" in ramping
    assert "559 params" in ramping


def test_the_terminal_shows_each_transition_with_its_evidence(run):
    text = run.shown.getvalue()
    for source, target, step in EVERY_MOVE[1:]:
        via = " → grow" if target == "main:warmup" else ""
        assert f"step {step}  main: {source[5:]}{via} → {target[5:]}" in text
    shown = lines(run)
    (growth,) = (n for n, line in enumerate(shown) if "train → grow → warmup" in line)
    assert any("plateau(val_loss, worth=0.05" in line for line in shown[growth : growth + 4])
    assert any("main:grow.actions[0]" in line for line in shown[growth : growth + 20])


def test_the_terminal_shows_the_end(run):
    end = lines(run)[-1]
    assert end.startswith("step 72")
    assert "final" in end and "done" in end


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_state_is_one_line_written_over(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = Tty()
    training = Training(EVERY_STAGE)
    sg.Terminal(training.engine, out=out)
    training.go()
    text = out.getvalue()
    assert "\x1b[34m" in text  # moves are coloured
    states = re.findall(r"\r\x1b\[K([^\r\n]+)", re.sub(r"\x1b\[\d+m", "", text))
    assert len([state for state in states if "/200" in state]) == 24
    assert max(len(state) for state in states if "/200" in state) <= 100
    assert text.endswith("\n")
