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
from tests.support.values import at, commit, saved

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


def test_a_removal_takes_the_name_first_so_that_half_of_it_is_known_for_what_it_is(folder, writer, monkeypatch):
    commit(folder)
    disk = Disk(folder, monkeypatch)
    writer.remove(FIRST)
    assert disk.steps == [
        f"replace {FIRST} .{FIRST}.tmp",
        "fsync .",
        "unlink epoch_000_batch_000001.json",
        f"unlink .{FIRST}.tmp",
    ]
    assert listing(folder) == []
    writer.remove(FIRST)


# Deaths and failures


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
