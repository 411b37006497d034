"""The checkpoint store: what it keeps, what it passes over, what it refuses."""

import errno
import json
import math
import os

import pytest

from stagegraph.errors import RunFolderError
from stagegraph.runs.disk import Disk
from stagegraph.runs.lines import Mark
from stagegraph.runs.sealed import seal, unseal
from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import asides, contents, filled, is_whole, read_only, save, writers


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def bare(store, files):
    mark = Mark(0, 0, "00000000")
    return store.save(files, step=0, boundary=0, why="", metrics={}, journal=mark, about={})


def test_what_was_saved_is_read_back(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", run="a")
    saved = save(store, 1, metrics={"loss": 0.5, "broken": math.nan}, why="structure")
    found, passed = CheckpointStore(tmp_path / "checkpoints", run="a").newest()
    assert passed == ()
    assert (found.number, found.parent, found.step, found.boundary) == (1, None, 10, 11)
    assert found.why == "structure"
    assert found.metrics["loss"] == 0.5 and math.isnan(found.metrics["broken"])
    assert found.names == saved.names == tuple(contents(1))
    assert found.size == sum(map(len, contents(1).values()))
    assert is_whole(found)
    assert found.read("model.safetensors") == contents(1)["model.safetensors"]
    with pytest.raises(KeyError):
        found.read("other")


def test_each_names_the_one_it_came_after(tmp_path):
    filled(tmp_path, 3)
    (tmp_path / "gen-00000003" / "engine.json").write_bytes(b"x")
    store = CheckpointStore(tmp_path)
    assert store.newest()[0].number == 2
    saved = save(store, 4)
    assert (saved.number, saved.parent) == (4, 2), "no number is given twice"


def test_a_store_without_checkpoints_has_no_newest(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        store = CheckpointStore(path)
        assert store.newest() == (None, ())
        assert store.generations() == []
        assert not store.is_used


def test_many_small_writes_and_a_writer_that_writes_nothing(tmp_path):
    store = CheckpointStore(tmp_path)

    def many(out):
        for _ in range(70_000):
            out.write(b"abc")
        out.write(bytes(5 << 20))
        out.write(memoryview(b"end"))

    files = {"many": many, "none.json": lambda out: None}
    saved = bare(store, files)
    assert saved.read("many") == b"abc" * 70_000 + bytes(5 << 20) + b"end"
    assert saved.read("none.json") == b""


# Retention


def test_the_newest_stay(tmp_path):
    store = filled(tmp_path, 6, keep=3)
    assert [g.number for g in store.generations()] == [4, 5, 6]
    assert names(tmp_path) == ["gen-00000004", "gen-00000005", "gen-00000006"]


@pytest.mark.parametrize(("goal", "best"), [("min", 2), ("max", 3)])
def test_the_best_stays_whatever_its_age(tmp_path, goal, best):
    store = CheckpointStore(tmp_path, keep=2, best=("loss", goal))
    values = [0.5, 0.1, 0.9, math.nan, 0.1, 0.9, None, 0.5]
    for number, value in enumerate(values, start=1):
        save(store, number, metrics={} if value is None else {"loss": value})
    assert [g.number for g in store.generations()] == [best, 7, 8]
    save(store, 9, metrics={"loss": 0.01 if goal == "min" else 2.0})
    assert [g.number for g in store.generations()] == [8, 9]


def test_infinity_is_never_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep=2, best=("loss", "min"))
    for number, value in enumerate([-math.inf, 0.5, 0.7, 0.8, 0.9], start=1):
        save(store, number, metrics={"loss": value})
    assert [g.number for g in store.generations()] == [2, 4, 5]


@pytest.mark.parametrize("keep", [1, 0, -1])
def test_one_alone_is_not_enough(tmp_path, keep):
    with pytest.raises(RunFolderError, match=r"no checkpoint to fall back to.* keep at least 2"):
        CheckpointStore(tmp_path, keep=keep)


def test_a_goal_is_min_or_max(tmp_path):
    with pytest.raises(ValueError, match="the goal is 'min' or 'max'"):
        CheckpointStore(tmp_path, best=("loss", "minimize"))


def test_a_damaged_one_does_not_take_the_place_of_a_whole_one(tmp_path):
    filled(tmp_path, 3, keep=3)
    for number in (2, 3):
        path = tmp_path / f"gen-0000000{number}" / "model.safetensors"
        path.write_bytes(path.read_bytes()[::-1])
    store = CheckpointStore(tmp_path, keep=2)
    found, passed = store.newest()
    assert found.number == 1 and [p.number for p in passed] == [3, 2]
    save(store, 4)
    whole = [g for g in store.generations() if g.number in (1, 4)]
    assert len(whole) == 2 and all(map(is_whole, whole)), "one to fall back to is left"
    save(store, 5)
    assert names(tmp_path) == ["gen-00000004", "gen-00000005"], "damaged ones go with their time"


def test_what_cannot_be_removed_is_told_and_tried_again(tmp_path):
    class Stubborn(Disk):
        stubborn = True

        def remove(self, path):
            if self.stubborn:
                raise OSError(errno.EBUSY, "Device or resource busy", str(path))
            super().remove(path)

    disk = Stubborn()
    store = filled(tmp_path, 2, keep=2, disk=disk)
    assert is_whole(save(store, 3)), "it was saved nevertheless"
    assert "Device or resource busy" in store.unremoved[0]
    assert len(asides(tmp_path)) == 1
    assert store.newest()[0].number == 3
    disk.stubborn = False
    save(store, 4)
    assert store.unremoved == () and asides(tmp_path) == []


def test_what_cannot_be_read_this_time_is_not_removed(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2, best=("loss", "min"))
    for number in (1, 2, 3):
        save(store, number, metrics={"loss": float(number)})
    real = os.open

    def refuse(path, *rest, **options):
        if "gen-00000001" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert [g.number for g in store.generations()] == [2, 3]
        save(store, 4)
    assert [g.number for g in store.generations()] == [1, 2, 3, 4], "2 was the best to be seen"
    save(store, 5)
    assert [g.number for g in store.generations()] == [1, 4, 5]


# What is passed over


def damage(tmp_path, change):
    """The reason for which the second of two is passed over."""
    filled(tmp_path, 2)
    change(tmp_path / "gen-00000002")
    found, (passed,) = CheckpointStore(tmp_path).newest()
    assert found.number == 1 and is_whole(found)
    assert passed.number == 2
    return str(passed)


def test_a_missing_file_is_named(tmp_path):
    told = damage(tmp_path, lambda path: (path / "engine.json").unlink())
    assert told == "checkpoint 2: engine.json: it is missing"


def test_a_short_file_is_named(tmp_path):
    told = damage(tmp_path, lambda path: os.truncate(path / "model.safetensors", 100))
    assert told == "checkpoint 2: model.safetensors: it has 100 bytes, not 3,000"


def test_a_changed_file_is_named(tmp_path):
    told = damage(tmp_path, lambda path: (path / "model.safetensors").write_bytes(bytes(3000)))
    assert told.startswith("checkpoint 2: model.safetensors: its content was changed (sha256 ")


def test_a_missing_manifest_is_named(tmp_path):
    told = damage(tmp_path, lambda path: (path / "manifest.json").unlink())
    assert told == "checkpoint 2: manifest.json: it is missing"


def test_a_changed_manifest_is_named(tmp_path):
    def change(path):
        text = (path / "manifest.json").read_text()
        (path / "manifest.json").write_text(text.replace('"step": 20', '"step": 21'))

    told = damage(tmp_path, change)
    assert told == "checkpoint 2: manifest.json: its checksum does not fit what it says"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -1),
        ("step", "20"),
        ("files", []),
        ("files", {"../x": {"size": 0, "sha256": "0" * 64}}),
        ("files", {"/etc/passwd": {"size": 0, "sha256": "0" * 64}}),
        ("files", {"x": {"size": 0, "sha256": "0"}}),
        ("journal", None),
        ("metrics", {"a": "b"}),
        ("format", 0),
        ("format", None),
    ],
)
def test_a_manifest_that_says_nonsense_is_named(tmp_path, key, value):
    def change(path):
        data = unseal((path / "manifest.json").read_bytes())
        del data["format"]
        (path / "manifest.json").write_bytes(seal({"format": 1, **data, key: value}))

    told = damage(tmp_path, change)
    assert told.startswith("checkpoint 2: manifest.json: it does not say what a manifest says")


def test_a_link_is_not_followed(tmp_path):
    def change(path):
        (path / "engine.json").rename(path / "other")
        (path / "engine.json").symlink_to("other")

    assert damage(tmp_path, change) == "checkpoint 2: engine.json: it is no regular file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    def change(path):
        (path / "engine.json").unlink()
        os.mkfifo(path / "engine.json")

    assert damage(tmp_path, change) == "checkpoint 2: engine.json: it is no regular file"


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith("2/engine.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    told = damage(tmp_path, lambda path: None)
    assert told == "checkpoint 2: engine.json: it cannot be read: Input/output error"


def test_a_file_in_place_of_a_checkpoint_is_named(tmp_path):
    def change(path):
        path.rename(tmp_path / "elsewhere")
        path.write_text("")

    assert damage(tmp_path, change) == "checkpoint 2: it is no directory"


def test_a_link_in_place_of_a_checkpoint_is_not_followed(tmp_path):
    def change(path):
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")

    assert damage(tmp_path, change) == "checkpoint 2: it is no directory"


def test_a_copy_under_another_number_is_passed_over(tmp_path):
    filled(tmp_path, 2)
    (tmp_path / "gen-00000002").rename(tmp_path / "gen-00000009")
    found, (passed,) = CheckpointStore(tmp_path).newest()
    assert found.number == 1
    assert str(passed) == "checkpoint 9: it is a copy of checkpoint 2, under another name"


def test_one_of_another_run_is_passed_over(tmp_path):
    filled(tmp_path, 1, run="a")
    store = CheckpointStore(tmp_path, run="b")
    found, (passed,) = store.newest()
    assert found is None
    assert passed.reason == "it belongs to another run (a)"
    assert store.is_used


def test_all_are_named_when_none_is_whole(tmp_path):
    filled(tmp_path, 3)
    for path in tmp_path.glob("gen-*/engine.json"):
        path.write_bytes(b"x")
    found, passed = CheckpointStore(tmp_path).newest()
    assert found is None
    assert [p.number for p in passed] == [3, 2, 1]


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    store = filled(tmp_path, 2, keep=2)
    others = ["gen-1", "gen-000000001", "notes.txt", ".tmp-mine", ".old-x", "gen-00000003.bak"]
    for name in others:
        (tmp_path / name).mkdir()
    for number in (3, 4, 5):
        save(store, number)
    assert names(tmp_path) == sorted([*others, "gen-00000004", "gen-00000005"])


def test_a_newer_format_is_no_damage(tmp_path):
    filled(tmp_path, 2)
    path = tmp_path / "gen-00000002" / "manifest.json"
    path.write_bytes(seal({"format": 7, "anything": "else"}))
    with pytest.raises(
        RunFolderError, match=r"a newer stagegraph \(format 7; this one reads 1\); update stageg"
    ):
        CheckpointStore(tmp_path).newest()


def test_a_file_that_changed_since_it_was_found_is_not_read(tmp_path):
    store = filled(tmp_path, 1)
    found, _ = store.newest()
    (found.path / "engine.json").write_bytes(b'{"number": 2}')
    with pytest.raises(
        RunFolderError, match=r"engine\.json is not as it was written: its content was changed"
    ):
        found.read("engine.json")


# What is refused


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/x",
        ".hidden",
        "a b",
        "ä",
        "x" * 65,
        "a.",
        "a\n",
        "manifest.json",
        "Manifest.json",
        "con",
        "NUL.txt",
        "com1",
    ],
)
def test_names_that_no_file_should_have_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"choose another|can be no file's name"):
        bare(CheckpointStore(tmp_path), {name: lambda out: None})
    assert names(tmp_path) == []


def test_names_that_are_one_on_some_systems_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'A' is taken in this checkpoint"):
        bare(CheckpointStore(tmp_path), {"a": lambda out: None, "A": lambda out: None})


@pytest.mark.parametrize("about", [{"x": object()}, {"x": math.nan}])
def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path, about):
    with pytest.raises((TypeError, ValueError)):
        save(CheckpointStore(tmp_path / "c"), 1, about=about)
    assert not (tmp_path / "c").exists()


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    store = filled(tmp_path, 1)

    def broken(out):
        out.write(b"half")
        raise ZeroDivisionError

    for files in ({"a": broken}, {**writers(2), "z": broken}):
        with pytest.raises(ZeroDivisionError):
            bare(store, files)
        assert names(tmp_path) == ["gen-00000001"]
    assert is_whole(store.newest()[0])


def test_a_writer_cannot_go_back(tmp_path):
    with pytest.raises(RunFolderError, match="not seekable"):
        bare(CheckpointStore(tmp_path), {"a": lambda out: out.seek(0)})


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path):
    class Small(Disk):
        left = 1 << 40

        def free(self, path):
            return self.left

    disk = Small()
    store = filled(tmp_path, 1, disk=disk)
    disk.left = math.ceil(1.2 * sum(map(len, contents(1).values()))) - 1
    with pytest.raises(
        RunFolderError, match=r"has no room for a checkpoint.*free some space there"
    ):
        save(store, 2)
    assert names(tmp_path) == ["gen-00000001"]
    disk.left += 1
    assert is_whole(save(store, 2))


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "Read-only file system; it is mounted read-only: choose another folder"),
        (errno.EACCES, "Permission denied; make it writable for you"),
        (errno.ENOSPC, "No space left on device; free some space there"),
        (errno.EIO, "Input/output error; the disk or the network under it failed"),
    ],
)
def test_what_cannot_be_written_says_where_why_and_what_to_do(tmp_path, code, remedy):
    filled(tmp_path, 1)
    store = CheckpointStore(tmp_path, disk=read_only(code))
    with pytest.raises(RunFolderError, match=f"{tmp_path}.* cannot be written: {remedy}"):
        save(store, 2)
    assert names(tmp_path) == ["gen-00000001"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_systems_own_limit_is_told(tmp_path):
    import resource

    filled(tmp_path, 1)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            save(CheckpointStore(tmp_path), 2)
        except RunFolderError as error:
            told = (
                "File too large; a limit on the size of files stands against it: raise it"
                in str(error)
            )
            os._exit(0 if told else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert names(tmp_path) == ["gen-00000001"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    store = filled(tmp_path, 1)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunFolderError, match="Permission denied; make it writable for you"):
            save(store, 2)
    finally:
        tmp_path.chmod(0o700)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path):
    filled(tmp_path / "elsewhere", 1)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="is a symbolic link, and nothing outside"):
        CheckpointStore(tmp_path / "checkpoints").newest()


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(RunFolderError, match="cannot be read: Not a directory"):
        store.newest()


# Orphans


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path):
    store = filled(tmp_path, 1)
    for name in (".new-00000002-0123abcd", ".old-00000009-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(10))
        (tmp_path / name / "deep").mkdir()
    outside = tmp_path.with_name("outside")
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / ".new-00000003-0123abcd").symlink_to(outside)
    (tmp_path / ".old-00000009-0123abcd" / "link").symlink_to(outside)
    (tmp_path / ".new-mine").mkdir()
    assert store.clean() == ()
    assert names(tmp_path) == [".new-mine", "gen-00000001"]
    assert (outside / "precious").read_text() == "x"


def test_the_manifest_is_plain_json(tmp_path):
    saved = save(CheckpointStore(tmp_path, run="r"), 1)
    data = json.loads((saved.path / "manifest.json").read_text())
    assert data["format"] == 1 and data["run"] == "r" and data["generation"] == 1
    assert data["files"]["engine.json"]["size"] == 13
    assert list(data)[-1] == "sha256"
