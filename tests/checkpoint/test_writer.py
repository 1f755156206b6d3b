"""A checkpoint is committed in an order that a crash cannot turn against us, and nothing is left of one that failed."""

import hashlib
import pickle
import re
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from tests.support.disk import Disk
from tests.support.values import at, commit, names, saved

from cairn.checkpoint import layout, manifest
from cairn.checkpoint.catalog import Catalog, verify
from cairn.checkpoint.errors import SaveError
from cairn.checkpoint.writer import SyncWriter

FIRST, SECOND = "epoch_000_batch_000001.ckpt", "epoch_000_batch_000002.ckpt"
COMMIT = [
    f"fsync .{FIRST}.tmp",
    f"replace .{FIRST}.tmp {FIRST}",
    "fsync .",
    "fsync .epoch_000_batch_000001.json.tmp",
    "replace .epoch_000_batch_000001.json.tmp epoch_000_batch_000001.json",
    "fsync .",
]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def writer(folder):
    return SyncWriter(folder)


@contextmanager
def room_for(num_bytes):
    """No file can grow beyond this: a real write that fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def next_save(writer, number):
    """What a run does at each save: commit, move the links, then delete the one before."""
    item = commit(writer.directory, number, score=1.0 / (number + 1))
    writer.link(layout.LAST, item.name)
    writer.link(layout.BEST, item.name)
    if number:
        writer.remove(saved(number - 1).name)
    return item


# What is written


def test_the_file_is_what_its_manifest_says(folder):
    item = commit(folder, score=0.5)
    data = (folder / FIRST).read_bytes()
    assert item.num_bytes == len(data)
    assert item.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.load((folder / "epoch_000_batch_000001.json").read_text()) == item
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]


def test_the_file_is_an_ordinary_one_for_torch(folder, writer):
    state = {"state_dict": {"w": torch.arange(1000.0)}, "step": 3, "names": ["a", ("b", None)]}
    writer.commit(state, saved(), {})
    found = torch.load(folder / FIRST, weights_only=True, mmap=True)
    assert torch.equal(found["state_dict"]["w"], state["state_dict"]["w"])
    assert (found["step"], found["names"]) == (3, ["a", ("b", None)])


def test_the_draft_keeps_what_the_run_said_and_gets_what_the_write_cost(folder):
    item = commit(folder, 3, score=0.5, stall_s=2.0, reasons=("best", "end"))
    assert (item.number, item.score, item.reasons, item.position) == (3, 0.5, ("best", "end"), at(4))
    assert item.write_s > 0
    assert item.stall_s == pytest.approx(2.0 + item.write_s)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", item.created)


def test_provenance_goes_into_the_manifest(folder, writer):
    writer.commit({}, saved(), {"world_size": 1, "seed": 5})
    assert '"seed": 5' in (folder / "epoch_000_batch_000001.json").read_text()


# The order


def test_a_commit_is_synced_before_it_gets_its_name_and_the_manifest_comes_last(folder, monkeypatch):
    folder.mkdir()
    disk = Disk(folder, monkeypatch)
    commit(folder)
    assert disk.steps == COMMIT


def test_a_link_is_moved_in_one_step_and_synced(folder, writer, monkeypatch):
    commit(folder, 0)
    commit(folder, 1)
    writer.link(layout.LAST, FIRST)
    disk = Disk(folder, monkeypatch)
    writer.link(layout.LAST, SECOND)
    assert [step for step in disk.steps if not step.startswith("unlink")] == [
        f"symlink {SECOND} .last.ckpt.tmp",
        "replace .last.ckpt.tmp last.ckpt",
        "fsync .",
    ]
    assert "unlink last.ckpt" not in disk.steps
    assert (folder / layout.LAST).readlink().as_posix() == SECOND


def test_a_link_that_stands_right_is_left_alone(folder, writer, monkeypatch):
    commit(folder)
    writer.link(layout.LAST, FIRST)
    disk = Disk(folder, monkeypatch)
    writer.link(layout.LAST, FIRST)
    assert disk.steps == []


def test_a_link_survives_that_the_directory_moves(folder, writer):
    commit(folder)
    writer.link(layout.BEST, FIRST)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert (moved / layout.BEST).resolve() == (moved / FIRST).resolve()
    assert torch.load(moved / layout.BEST, weights_only=True)["number"] == 0


@pytest.mark.parametrize("before", ["nothing", "link", "dangling", "file"])
def test_a_link_takes_the_place_of_whatever_was_there(folder, writer, before):
    commit(folder)
    path = folder / layout.LAST
    if before == "file":
        path.write_text("a copy, where links cannot be made")
    elif before != "nothing":
        path.symlink_to(FIRST if before == "link" else "gone.ckpt")
    (folder / layout.temp_name(layout.LAST)).symlink_to("what a dead writer left")
    writer.link(layout.LAST, FIRST)
    assert path.readlink().as_posix() == FIRST
    writer.link(layout.LAST, None)
    assert not path.is_symlink()
    writer.link(layout.LAST, None)


def test_a_removal_begins_with_the_manifest(folder, writer, monkeypatch):
    commit(folder)
    disk = Disk(folder, monkeypatch)
    writer.remove(FIRST)
    assert disk.steps == ["unlink epoch_000_batch_000001.json", f"unlink {FIRST}"]
    assert listing(folder) == []
    writer.remove(FIRST)


def test_a_sweep_removes_what_dead_writers_left_and_nothing_else(folder, writer):
    commit(folder)
    others = [".keep", "notes.tmp", ".notes.txt.tmp", "epoch_0_batch_150.ckpt"]
    left = [layout.temp_name(name) for name in (SECOND, layout.manifest_name(SECOND), layout.LAST)]
    for name in (*others, *left):
        (folder / name).write_text("half")
    writer.sweep()
    assert listing(folder) == sorted([*others, FIRST, "epoch_000_batch_000001.json"])


def test_a_sweep_of_no_directory_is_nothing(writer, folder):
    writer.sweep()
    assert not folder.exists()


# Deaths and failures


def test_a_kill_between_any_two_steps_leaves_a_whole_last_checkpoint(folder, writer, tmp_path, monkeypatch):
    folder.mkdir()
    next_save(writer, 0)
    disk = Disk(folder, monkeypatch)
    disk.copies = tmp_path / "copies"
    disk.copies.mkdir()
    for number in (1, 2):
        next_save(writer, number)
    disk.copy()
    monkeypatch.undo()

    newest = -1
    for copy in sorted(disk.copies.iterdir()):
        item, _ = Catalog(copy).newest_whole()
        assert item.number >= newest
        newest = item.number
        links = [(copy / link).resolve() for link in (layout.LAST, layout.BEST)]
        for path in links:
            verify(path, next(good for good in Catalog(copy).committed() if good.name == path.name))
        _take_over(SyncWriter(copy))
        assert listing(copy) == sorted([*_files(names(Catalog(copy).committed())), layout.LAST, layout.BEST])
    assert newest == 2
    assert len(list(disk.copies.iterdir())) == len(disk.steps) + 1


def _take_over(writer):
    """What the next start does first."""
    writer.sweep()
    for item in Catalog(writer.directory).rejected():
        writer.remove(item.path.name)


def _files(checkpoints):
    return [file for name in checkpoints for file in (name, layout.manifest_name(name))]


@pytest.mark.parametrize("step", range(len(COMMIT)), ids=[step.split()[0] for step in COMMIT])
def test_a_step_that_fails_is_told_and_leaves_the_one_before_and_nothing_else(folder, writer, step, monkeypatch):
    before = commit(folder, 0)
    writer.link(layout.LAST, before.name)
    files = listing(folder)
    disk = Disk(folder, monkeypatch)
    disk.fail_at = step
    with pytest.raises(SaveError, match=r"epoch_000_batch_000002\.ckpt could not be written: .*No space left"):
        commit(folder, 1)
    monkeypatch.undo()
    assert listing(folder) == files
    assert verify(folder / before.name, before) is None
    assert (folder / layout.LAST).resolve() == (folder / before.name).resolve()
    assert Catalog(folder).newest_whole() == (before, [])


def test_a_disk_that_is_full_in_the_middle_of_the_file_is_told_and_leaves_nothing(folder, writer):
    commit(folder, 0)
    with room_for(2**20), pytest.raises(SaveError, match=r"epoch_000_batch_000002\.ckpt could not be written"):
        writer.commit({"state_dict": {"w": torch.zeros(2**20)}}, saved(1), {})
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]
    assert commit(folder, 1).num_bytes > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, pickle.PicklingError])
def test_whatever_stops_the_write_leaves_nothing(folder, writer, error, monkeypatch):
    commit(folder, 0)

    def half(state, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(error):
        writer.commit({}, saved(1), {})
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="could not be written"):
        commit(tmp_path / "file" / "checkpoints")
