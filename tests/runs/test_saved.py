"""Saved models on the disk: all stay, none twice, and what is not whole is said."""

import errno
import re

import pytest

from stagegraph.errors import RunFolderError
from stagegraph.runs.lines import Mark
from stagegraph.runs.manifest import DEVICES
from stagegraph.runs.saved import Saved, SavedModels, directory_of
from tests.runs import disks

ABOUT = {"stages": {"main": "anneal"}, "progress": {"step": 5}, "graph": "g", "digest": "d"}


def save(path, name, boundary, *, content=b"x", disk=disks.QUICK, run="r"):
    return SavedModels(path, run=run, disk=disk).save(
        name,
        {"shape.json": lambda out: out.write(content), "more.json": lambda out: out.write(b"{}")},
        step=boundary - 1,
        boundary=boundary,
        metrics={"loss": 0.5},
        journal=Mark(1, 10, "0" * 8),
        about=ABOUT,
    )


def known(path):
    return [(one.name, one.boundary) for one in SavedModels(path, run="r").all()]


def test_all_stay_and_are_listed_by_when_they_were_saved(tmp_path):
    for boundary in range(1, 8):
        save(tmp_path, "a" if boundary % 2 else "b.c", boundary)
    assert known(tmp_path) == [("a" if n % 2 else "b.c", n) for n in range(1, 8)]
    one = SavedModels(tmp_path, run="r").all()[3]
    assert one == Saved(
        name="b.c",
        step=3,
        boundary=4,
        stages={"main": "anneal"},
        metrics={"loss": 0.5},
        progress={"step": 5},
        graph="g",
        digest="d",
        bytes=3,
        path=tmp_path / "saved" / "b.c" / "gen-00000002",
    )


def test_what_is_saved_again_at_its_boundary_takes_the_place_of_the_first(tmp_path):
    save(tmp_path, "a", 4, content=b"other")
    save(tmp_path, "a", 7, content=b"old")
    save(tmp_path, "b", 7, content=b"b")
    again = save(tmp_path, "a", 7, content=b"new")
    assert known(tmp_path) == [("a", 4), ("a", 7), ("b", 7)]
    assert (again.path / "shape.json").read_bytes() == b"new"
    assert sorted(path.name for path in again.path.parent.iterdir()) == [
        "gen-00000001",
        "gen-00000003",
    ]


@pytest.mark.parametrize("how", [disks.dying, disks.interrupted])
def test_whenever_it_stops_the_boundary_has_one_whole_model(tmp_path, how):
    """Of a save that takes another's place, stopped at each of its calls."""
    save(tmp_path / "count", "a", 7)
    disk = disks.counting()
    save(tmp_path / "count", "a", 7, disk=disk)
    assert {"rename", "remove", "remove_directory"} <= set(disk.calls)
    for at in range(len(disk.calls)):
        path = tmp_path / str(at)
        save(path, "a", 7, content=b"old")
        with pytest.raises((disks.Death, KeyboardInterrupt)):
            save(path, "a", 7, content=b"new", disk=how(at))
        (one,), broken = SavedModels(path, run="r").survey()
        assert (one.boundary, broken) == (7, [])
        assert (one.path / "shape.json").read_bytes() in (b"old", b"new")
        SavedModels(path, run="r", disk=disks.QUICK).clean()
        assert [p.name for p in (path / "saved" / "a").iterdir() if p.name[0] == "."] == []
        save(path, "a", 7, content=b"last")
        assert known(path) == [("a", 7)]


def test_a_full_disk_is_told_of_and_leaves_what_was(tmp_path):
    save(tmp_path, "a", 7)
    disk = disks.counting()
    save(tmp_path / "count", "a", 7, disk=disk)
    for at, call in enumerate(disk.calls):
        if call in ("create", "write", "make_directory"):
            with pytest.raises(RunFolderError, match="cannot be written: No space left"):
                save(tmp_path / str(at), "a", 9, disk=disks.failing(at, errno.ENOSPC, times=99))
            assert known(tmp_path / str(at)) == []


def test_what_is_not_whole_is_not_passed_over_in_silence(tmp_path):
    whole = save(tmp_path, "a", 3)
    cut = save(tmp_path, "a", 4)
    (cut.path / "shape.json").write_bytes(b"")
    foreign = save(tmp_path, "b", 5, run="another")
    found, broken = SavedModels(tmp_path, run="r").survey()
    assert found == [whole]
    assert [(one.number, one.path) for one in broken] == [(2, cut.path), (1, foreign.path)]
    assert "it has 0 bytes, not 1" in str(broken[0])
    assert "it belongs to another run" in str(broken[1])


def test_nothing_outside_of_the_folder_is_touched(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "saved").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="is a symbolic link"):
        SavedModels(tmp_path / "run", run="r").all()


NAMES = ["lr.anneal1", "a", "A", "aA", "Aa", "con", "CON", "nul.x", "com1", "x" * 64, "X" * 64]
NAMES += [".".join(["long" * 16] * 4), ".".join(["Long" * 16] * 4), "a_b.c", "a.b_c"]


def test_names_become_directories_that_every_system_can_have():
    made = {directory_of(name) for name in NAMES}
    assert len({one.lower() for one in made}) == len(NAMES), "no two share one"
    for one in made:
        assert re.fullmatch(r"[a-z][a-z0-9_.-]{0,99}", one)
        assert not one.endswith(".")
        assert not DEVICES.fullmatch(one.partition(".")[0])
    assert directory_of("lr.anneal1") == "lr.anneal1"
