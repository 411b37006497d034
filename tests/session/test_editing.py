"""A growing model goes on under a graph whose future was edited; what is past is not touched."""

import json

import pytest
import torch

import stagegraph as sg
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Journal, read_journal
from tests.session.training import EVERY_STAGE, Training

EDITS = {
    "    duration: 4 steps\n    next: train": "    duration: 7 steps\n    next: train",
    "during: [{type: lr_ramp, end: 0, over: 6 steps}]\n    duration: 6 steps": (
        "during: [{type: lr_ramp, end: 0.2, over: 9 steps}]\n    duration: 9 steps"
    ),
    "    transitions:\n      - target: grow\n": (
        "    transitions:\n"
        "      - {target: again, when: visits(grow) >= 1 and elapsed(2 steps), at_most: 1}\n"
        "      - target: grow\n"
    ),
    "  done: {kind: final}": (
        "  again: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: ease}\n"
        "  ease:\n    kind: warmup\n    during: [{type: alpha_ramp, of: grown, over: 3 steps}]\n"
        "    next: train\n"
        "  done: {kind: final}"
    ),
}
EDITED = EVERY_STAGE
for _old, _new in EDITS.items():
    assert EDITED.count(_old) == 1
    EDITED = EDITED.replace(_old, _new)


def left_at(folder, updates, document=EVERY_STAGE):
    """A run that was left after so many updates."""
    training = Training(document, dropout=0.2, run=folder)
    training.engine.resume()
    training.go(updates)
    training.engine.finish()
    training.engine.close()
    return training


def taken_up(folder, document, **more):
    training = Training(document, dropout=0.2, run=folder, **more)
    assert training.engine.resume()
    training.updates = training.engine.progress.step
    return training


def resumes(folder):
    return [r for r in read_journal(folder / "journal.jsonl") if r["type"] == "resume"]


def content(folder):
    """Every file but the lock, which says who held it last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def whole():
    """The weights of the uninterrupted run after 60 updates, and at its end."""
    torch.manual_seed(7)
    training = Training(EVERY_STAGE, dropout=0.2).go(60)
    early = training.weights()
    return early, training.go().weights()


def test_a_growing_run_goes_on_with_more_to_come(tmp_path, whole):
    torch.manual_seed(7)
    folder = tmp_path / "a"
    left_at(folder, 55)
    training = taken_up(folder, EDITED)
    assert (training.stage, len(training.model.blocks)) == ("settle", 3)
    assert training.records.of("growth", "move") == [], "no entry action runs again"
    assert training.go(5).weights() == whole[0], "until the first edit everything is as it was"
    training.go()
    assert training.moves == [
        ("main:settle", "main:consolidate", 58),
        ("main:consolidate", "main:train", 65),
        ("main:train", "main:ease", 67),
        ("main:ease", "main:train", 70),
        ("main:train", "main:anneal", 74),
        ("main:anneal", "main:done", 83),
    ]
    assert len(training.model.blocks) == 4
    assert training.engine.report().is_file() and "again" in training.engine.summary()
    training.engine.close()


def test_the_journal_and_the_folder_tell_of_the_edit(tmp_path):
    folder = tmp_path / "a"
    left_at(folder, 55)
    before = content(folder)
    training = taken_up(folder, EDITED)
    training.engine.close()
    (resume,) = resumes(folder)
    assert resume["digest"] == sg.digest(sg.load(EDITED))
    assert resume["edited"]["moved"] == {"main:train.transitions[0]": "main:train.transitions[1]"}
    told = resume["edited"]["differences"]
    assert "~ /stages/consolidate/duration: 4 steps -> 7 steps" in told
    assert (
        "+ /stages/train/transitions/0: {target: again, when: visits(grow) >= 1 and "
        "elapsed(2 steps), at_most: 1}"
    ) in told
    assert not any("/stages/train/transitions/1" in line for line in told), "it moved on, no more"
    after = content(folder)
    kept = ("graph.json", "author.yaml", "run.json")
    assert all(after[name] == before[name] for name in kept), "history is not written over"
    assert after["author-2.yaml"].decode() == EDITED
    assert RunFolder(folder).graph() == sg.load(EDITED)
    assert RunFolder(folder).graph(sg.digest(sg.load(EVERY_STAGE))) == sg.load(EVERY_STAGE)


def test_later_resumes_are_plain_and_the_old_graph_is_an_edit_back(tmp_path):
    folder = tmp_path / "a"
    later = EVERY_STAGE.replace("end: 0, over: 6 steps", "end: 0.5, over: 6 steps")
    left_at(folder, 20)
    for document in (later, later, EVERY_STAGE, EVERY_STAGE):
        training = taken_up(folder, document).go(3)
        training.engine.finish()
        training.engine.close()
        assert RunFolder(folder).graph() == sg.load(document)
    there, plain, back, again = [record["edited"] for record in resumes(folder)]
    assert there["differences"] == ["~ /stages/anneal/during/0/end: 0 -> 0.5"]
    assert back["differences"] == ["~ /stages/anneal/during/0/end: 0.5 -> 0"]
    assert plain is None and again is None
    assert [path.name for path in sorted(folder.glob("graph*.json"))] == [
        "graph-2.json",
        "graph.json",
    ]


def test_a_changed_guard_begins_anew_and_the_journal_says_so(tmp_path):
    folder = tmp_path / "a"
    left_at(folder, 30)
    taken_up(folder, EVERY_STAGE.replace("worth=5%", "worth=4%")).engine.close()
    (resume,) = resumes(folder)
    assert resume["edited"]["anew"] == ["main:train|plateau(val_loss, worth=0.04, over=24 steps)"]
    assert resume["edited"]["forgotten"] == [
        "main:train|plateau(val_loss, worth=0.05, over=24 steps)"
    ]


def test_what_is_refused_leaves_folder_and_model_as_they_were(tmp_path, whole):
    torch.manual_seed(7)
    folder = tmp_path / "a"
    left_at(folder, 55)
    before = content(folder)
    refused = Training(EVERY_STAGE.replace("add: 1", "add: 2"), dropout=0.2, run=folder)
    weights = refused.weights()
    with pytest.raises(
        sg.SnapshotError, match=r"main:grow \(/stages/grow/actions/0/add\) was 1, is 2: it has been"
    ):
        refused.engine.resume()
    assert content(folder) == before
    assert refused.weights() == weights and len(refused.model.blocks) == 2
    # It lets the folder go, so that another can go on at once.
    assert taken_up(folder, EVERY_STAGE).go().weights() == whole[1]


def test_a_run_stopped_by_its_budget_goes_on_bit_for_bit_with_a_larger_one(tmp_path, whole):
    torch.manual_seed(7)
    folder = tmp_path / "a"
    ended = left_at(folder, 200, EVERY_STAGE.replace("steps: 200", "steps: 60"))
    assert (ended.engine.ended, ended.stage) == ("budget", "consolidate")
    training = taken_up(folder, EVERY_STAGE)
    assert not training.engine.done
    frozen = [n for n, p in training.model.named_parameters() if not p.requires_grad]
    assert frozen == ["inp.weight", "inp.bias"], "what was let go at the end is held again"
    assert training.go().weights() == whole[1]
    assert resumes(folder)[0]["edited"]["reopened"]


def test_dying_before_the_journal_knows_leaves_the_old_graph_in_force(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    left_at(folder, 20)

    def dies(self, mark, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "resume", dies)
        training = Training(EDITED, dropout=0.2, run=folder)
        with pytest.raises(KeyboardInterrupt):
            training.engine.resume()
        training.engine.close()
    assert (folder / "graph-2.json").is_file()
    assert RunFolder(folder).graph() == sg.load(EVERY_STAGE), "nothing ran under the other"
    taken_up(folder, EVERY_STAGE).engine.close()
    assert resumes(folder)[-1]["edited"] is None
    taken_up(folder, EDITED).engine.close()
    assert RunFolder(folder).graph() == sg.load(EDITED)
    assert not (folder / "graph-3.json").exists()


def test_a_graph_of_the_folder_that_was_changed_is_told(tmp_path):
    folder = tmp_path / "a"
    left_at(folder, 20)
    training = taken_up(folder, EDITED).go(3)
    training.engine.finish()
    training.engine.close()
    path = folder / "graph-2.json"
    path.write_text(path.read_text("utf-8").replace('"7 steps"', '"8 steps"'), "utf-8")
    with pytest.raises(
        sg.RunFolderError, match=r"none of graph\.json, graph-2\.json is the graph that the run"
    ):
        RunFolder(folder).graph()
    other = Training(EVERY_STAGE, dropout=0.2, run=folder)
    with pytest.raises(sg.RunFolderError, match="it is missing or was changed; bring it back"):
        other.engine.resume()


def test_a_run_without_a_checkpoint_begins_anew_under_any_graph(tmp_path):
    folder = tmp_path / "a"
    Training(EVERY_STAGE, run=folder).engine.close()
    other = Training(EVERY_STAGE.replace("add: 1", "add: 2"), run=folder)
    with pytest.warns(UserWarning, match="died before its first checkpoint; it begins anew"):
        assert not other.engine.resume()
    assert other.go(49).stage == "warmup" and len(other.model.blocks) == 4
    assert resumes(folder)[0]["edited"]["differences"] == ["~ /stages/grow/actions/0/add: 1 -> 2"]
    other.engine.close()


def test_a_state_that_is_kept_by_hand_is_taken_up_by_an_explicit_word():
    training = Training(EVERY_STAGE).go(20)
    state = json.loads(json.dumps(training.engine.state_dict()))
    other = Training(EDITED)
    with pytest.raises(sg.SnapshotError, match=r"give the one it was saved under as edited_from="):
        other.engine.load_state_dict(state)
    other.engine.load_state_dict(state, edited_from=sg.load(EVERY_STAGE))
    assert other.stage == "train" and other.engine.progress.step == 20
    (told,) = other.records.of("edit")
    assert told["differences"] and told["step"] == 20
    again = Training(EDITED)
    again.engine.load_state_dict(other.engine.state_dict(), edited_from=sg.load(EVERY_STAGE))
    assert again.records.of("edit") == [], "it is of this graph already"
