"""Flipped bits and cut files: nothing loads that is not what was saved, and it is said."""

import random

import pytest

from stagegraph.errors import DocumentError, RunFolderError
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.store import CheckpointStore
from stagegraph.schema.dump import dump
from stagegraph.schema.load import load
from tests.runs.disks import contents, filled, is_whole

FLIPS = 2_000
CUTS = 300

GRAPH = load(
    "stagegraph: 1\nname: x\ninitial: a\nstages:\n"
    "  a: {kind: train, duration: 9 steps, next: done}\n  done: {kind: final}\n"
)


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture
def store(tmp_path):
    filled(tmp_path, 2)
    return CheckpointStore(tmp_path)


def require_passed_over(store, name, told):
    found, passed = store.newest()
    assert found is not None and found.number == 1 and is_whole(found), told
    (one,) = passed
    assert one.number == 2 and one.reason.startswith(f"{name}: "), told


@pytest.mark.parametrize("name", ["manifest.json", *(n for n, c in contents(2).items() if c)])
def test_no_flipped_bit_goes_unseen(store, tmp_path, name):
    path = tmp_path / "gen-00000002" / name
    whole = path.read_bytes()
    draw = random.Random(name)
    bits = range(8 * len(whole))
    for bit in bits if len(bits) < FLIPS // 2 else draw.sample(bits, FLIPS // 2):
        path.write_bytes(flipped(whole, bit))
        require_passed_over(store, name, f"bit {bit} of {name}")
    path.write_bytes(whole)
    assert store.newest()[0].number == 2


@pytest.mark.parametrize("name", ["manifest.json", *contents(2)])
def test_no_cut_or_longer_file_goes_unseen(store, tmp_path, name):
    path = tmp_path / "gen-00000002" / name
    whole = path.read_bytes()
    draw = random.Random(name)
    sizes = range(len(whole))
    for size in sizes if len(sizes) < CUTS // 2 else draw.sample(sizes, CUTS // 2):
        path.write_bytes(whole[:size])
        require_passed_over(store, name, f"{name} cut to {size}")
    for more in (b"\0", b"\n", whole or b"x"):
        path.write_bytes(whole + more)
        require_passed_over(store, name, f"{name} and {more!r}")
    path.write_bytes(whole)
    assert store.newest()[0].number == 2


def test_the_sizes_tell_what_can_be_told_without_reading(store, tmp_path):
    path = tmp_path / "gen-00000002" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert [g.number for g in store.generations()] == [1]


@pytest.mark.parametrize("name", ["run.json", "graph.json"])
def test_a_damaged_folder_is_refused_or_the_same(tmp_path, name):
    folder = RunFolder(tmp_path)
    with folder.create(GRAPH) as journal:
        journal.write(({"type": "run", "step": 0},))
    folder.close()
    path, same = tmp_path / name, 0
    whole = path.read_bytes()
    changes = [flipped(whole, bit) for bit in range(8 * len(whole))]
    for changed in [
        *changes[:: max(1, len(changes) // 400)],
        *(whole[:n] for n in range(0, 99, 9)),
    ]:
        path.write_bytes(changed)
        try:
            assert folder.graph() == GRAPH
            same += 1
        except (RunFolderError, DocumentError):
            pass
        try:
            folder.open().close()
        except RunFolderError:
            assert name == "run.json"
        finally:
            folder.close()
    assert same < len(changes) / 10, "but for white space"
    path.write_bytes(whole)
    assert dump(folder.graph()) == dump(GRAPH)
