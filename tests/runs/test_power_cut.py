"""After a power cut, what was acknowledged is there, and nothing damaged is taken for whole."""

import hashlib

import pytest

from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Mark, read_tail
from stagegraph.runs.manifest import MANIFEST, Manifest
from stagegraph.runs.sealed import Unsealed
from stagegraph.runs.store import CheckpointStore
from stagegraph.schema.load import load
from tests.runs.disks import QUICK, Death, contents, dying, is_whole, save
from tests.runs.power import Recorder, crashes, put

STATES = 10_000
LOOKED_AT = 100
"""One in so many is put on a real disk, and opened with the store itself."""

GRAPH = load(
    "stagegraph: 1\nname: x\ninitial: a\nstages:\n"
    "  a: {kind: train, duration: 9 steps, next: done}\n  done: {kind: final}\n"
)


def saved(root, disk=None, count=5):
    """A store that has saved and retired, and the notes of it."""
    recorder = Recorder(root) if disk is None else disk
    store = CheckpointStore(root / "checkpoints", keep=2, best=("loss", "min"), disk=recorder)
    for number in range(1, count + 1):
        save(store, number, metrics={"loss": abs(number - 2)})
        recorder.acknowledge(number)
    return recorder.notes


def newest(found):
    """The newest whole checkpoint of what was found, told independently of the store."""
    for name in sorted(found, reverse=True):
        if not name.startswith("gen-"):
            continue
        try:
            manifest = Manifest.from_bytes(found[name].get(MANIFEST, b""))
        except Unsealed:
            continue
        files = found[name]
        if all(
            hashlib.sha256(files.get(inner, b"?")).hexdigest() == written.sha256
            for inner, written in manifest.files.items()
        ):
            read = {inner: files[inner] for inner in manifest.files}
            return int(name[4:]), read
    return 0, {}


def lost_and_corrupt(notes, count):
    """How many states have lost what was acknowledged, and how many load what was never saved."""
    lost = corrupt = states = 0
    for found, acknowledged in crashes(notes, count):
        states += 1
        number, read = newest(found.get("checkpoints", {}))
        lost += number < max(acknowledged, default=0)
        corrupt += number > 0 and read != contents(number)
    assert states >= count
    return lost, corrupt


def test_no_power_cut_loses_or_corrupts_a_checkpoint(tmp_path):
    assert lost_and_corrupt(saved(tmp_path), STATES) == (0, 0)


class Forgetful(Recorder):
    """A disk without one kind of call, to see that the model would tell."""

    def __init__(self, root, without):
        super().__init__(root)
        self._without = without

    def _note(self, *note):
        if note[0] != self._without:
            super()._note(*note)


@pytest.mark.parametrize("without", ["sync", "sync_directory"])
def test_the_model_tells_what_a_missing_sync_would_cost(tmp_path, without):
    lost, corrupt = lost_and_corrupt(saved(tmp_path, Forgetful(tmp_path, without)), STATES // 4)
    assert lost > 100
    assert corrupt == 0, "the digests see to that"


def test_the_store_itself_finds_the_same_and_goes_on(tmp_path):
    notes = saved(tmp_path)
    for at, (found, acknowledged) in enumerate(crashes(notes, STATES, seed=1)):
        if at % LOOKED_AT:
            continue
        root = tmp_path / f"at-{at}"
        put(root, found)
        store = CheckpointStore(root / "checkpoints", keep=2, disk=QUICK)
        generation, passed = store.newest()
        number = 0 if generation is None else generation.number
        assert number == newest(found.get("checkpoints", {}))[0]
        assert number >= max(acknowledged, default=0)
        assert generation is None or is_whole(generation)
        assert all(one.number < number or one.number not in acknowledged for one in passed)
        assert store.clean() == ()
        following = save(store, max([number, *(one.number for one in passed)]) + 1)
        assert is_whole(following) and store.newest()[0].number == following.number


@pytest.mark.parametrize("at", range(1, 9))
def test_what_a_dead_process_made_and_had_not_synced_is_made_durable(tmp_path, at):
    with pytest.raises(Death):
        save(CheckpointStore(tmp_path / "checkpoints", disk=dying(at)), 1)
    recorder = Recorder(tmp_path)
    recorder.note_what_is_there()
    save(CheckpointStore(tmp_path / "checkpoints", disk=recorder), 2)
    recorder.acknowledge(2)
    for found, acknowledged in crashes(recorder.notes, 300):
        assert newest(found.get("checkpoints", {}))[0] >= min(1, len(acknowledged))


# The whole folder


def run(root):
    """A run that begins, writes its journal and saves; and the notes of it."""
    disk = Recorder(root)
    folder = RunFolder(root / "run", disk=disk)
    with folder.create(GRAPH) as journal:
        journal.write(({"type": "run", "step": 0},))
        disk.acknowledge("run")
        store = folder.checkpoints(keep=2)
        for number in range(1, 4):
            journal.write(({"type": "note", "step": number},))
            mark = journal.sync()
            save(store, number, journal=mark)
            disk.acknowledge(number)
            journal.write(({"type": "move", "step": number, **MOVE},))
            disk.acknowledge(f"move {number}")
    folder.close()
    return disk.notes


MOVE = {"region": "a", "edge": "e", "source": None, "via": [], "target": "b"}


def test_a_folder_after_a_power_cut_goes_on_or_begins_anew(tmp_path):
    notes = run(tmp_path)
    begun = 0
    for at, (found, acknowledged) in enumerate(crashes(notes, 150, seed=2)):
        root = tmp_path / f"at-{at}"
        put(root, found)
        folder = RunFolder(root / "run", disk=QUICK)
        if not folder.is_used:
            assert acknowledged == ()
            folder.create(GRAPH).close()
            folder.close()
            assert folder.graph() == GRAPH
            continue
        begun += 1
        _require_resumable(folder, acknowledged)
    assert begun > 50


def _require_resumable(folder, acknowledged):
    assert folder.graph() == GRAPH
    with folder.open() as journal:
        generation, _ = folder.checkpoints(keep=2).newest()
        numbers = [one for one in acknowledged if isinstance(one, int)]
        assert numbers == [] or generation.number >= numbers[-1]
        mark = Mark(0, 0, "00000000") if generation is None else generation.journal
        assert generation is None or generation.about["number"] == generation.number
        journal.resume(mark, {"step": 0})
        journal.write(({"type": "note", "step": 99},))
    folder.close()
    kinds = [record["type"] for record in folder.records()]
    assert kinds[-2:] == ["resume", "note"]
    assert len(kinds) == mark.records + 2


def test_no_power_cut_loses_an_acknowledged_move(tmp_path):
    notes = run(tmp_path)
    for at, (found, acknowledged) in enumerate(crashes(notes, 200, seed=3)):
        if not acknowledged:
            continue
        root = tmp_path / f"at-{at}"
        put(root, found)
        records = read_tail(root / "run" / "journal.jsonl", Mark(0, 0, "00000000")).records
        moves = sum(str(one).startswith("move") for one in acknowledged)
        assert sum(record["type"] == "move" for record in records) >= moves
