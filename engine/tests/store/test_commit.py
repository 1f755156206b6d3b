"""The order of a commit keeps every crash harmless, and a failed commit leaves nothing."""

import re
from dataclasses import replace

import pytest
import torch
from tests.support.disk import Disk, room_for
from tests.support.values import at, commit, draft, file_of, small_file

from cairn.errors import SaveError
from cairn.store import claim, disk, file_format, manifest, names
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import CommitPlan, delete_checkpoint, move_link, write

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
    path = tmp_path / "checkpoints"
    path.mkdir()
    return path


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# What is written


def test_the_file_is_what_its_manifest_says(folder):
    item = commit(folder, score=0.5)
    assert item.num_bytes == (folder / FIRST).stat().st_size
    assert item.digest == file_format.read(folder / FIRST)
    assert manifest.load((folder / "epoch_000_batch_000001.json").read_text()) == item
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]


def test_a_draft_becomes_a_saved_checkpoint_with_the_cost_of_its_write(folder):
    item = commit(folder, 3, score=0.5, stall_s=2.0, reasons=("best", "end"))
    assert (item.number, item.score, item.reasons, item.position) == (3, 0.5, ("best", "end"), at(4))
    assert item.write_s > 0
    assert item.stall_s == 2.0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", item.created)


def test_provenance_goes_into_the_manifest(folder):
    write(CommitPlan(folder, draft(), {"world_size": 1, "seed": 5}), small_file(0))
    assert '"seed": 5' in (folder / "epoch_000_batch_000001.json").read_text()


# The order


def test_a_commit_is_synced_before_it_gets_its_name_and_the_manifest_comes_last(folder, monkeypatch):
    tape = Disk(folder, monkeypatch)
    commit(folder)
    assert tape.steps == COMMIT


def test_a_link_is_moved_in_one_step_and_synced(folder, monkeypatch):
    commit(folder, 0)
    commit(folder, 1)
    move_link(folder, names.LAST, FIRST)
    tape = Disk(folder, monkeypatch)
    move_link(folder, names.LAST, SECOND)
    assert [step for step in tape.steps if not step.startswith("unlink")] == [
        f"symlink {SECOND} .last.ckpt.tmp",
        "replace .last.ckpt.tmp last.ckpt",
        "fsync .",
    ]
    assert "unlink last.ckpt" not in tape.steps
    assert (folder / names.LAST).readlink().as_posix() == SECOND


def test_a_correct_link_is_not_written_again(folder, monkeypatch):
    commit(folder)
    move_link(folder, names.LAST, FIRST)
    tape = Disk(folder, monkeypatch)
    move_link(folder, names.LAST, FIRST)
    assert tape.steps == []


def test_a_link_still_works_after_the_directory_was_moved(folder):
    commit(folder)
    move_link(folder, names.BEST, FIRST)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert (moved / names.BEST).resolve() == (moved / FIRST).resolve()
    assert torch.load(moved / names.BEST, weights_only=True)["number"] == 0


@pytest.mark.parametrize("before", ["nothing", "link", "dangling", "file"])
def test_a_link_replaces_whatever_has_its_name(folder, before):
    commit(folder)
    path = folder / names.LAST
    if before == "file":
        path.write_text("a copy, where links cannot be made")
    elif before != "nothing":
        path.symlink_to(FIRST if before == "link" else "gone.ckpt")
    (folder / names.temp_name(names.LAST)).symlink_to("what a dead writer left")
    move_link(folder, names.LAST, FIRST)
    assert path.readlink().as_posix() == FIRST
    move_link(folder, names.LAST, None)
    assert not path.is_symlink()
    move_link(folder, names.LAST, None)


def test_a_deletion_renames_first_so_that_an_interrupted_one_is_recognized(folder, monkeypatch):
    commit(folder)
    tape = Disk(folder, monkeypatch)
    delete_checkpoint(folder, FIRST)
    assert tape.steps == [
        f"replace {FIRST} .{FIRST}.tmp",
        "fsync .",
        "unlink epoch_000_batch_000001.json",
        f"unlink .{FIRST}.tmp",
    ]
    assert listing(folder) == []
    delete_checkpoint(folder, FIRST)


# Crashes and failures


@pytest.mark.parametrize("step", range(len(COMMIT)), ids=[step.split()[0] for step in COMMIT])
def test_a_failed_step_raises_and_leaves_only_the_previous_checkpoint(folder, step, monkeypatch):
    before = commit(folder, 0)
    move_link(folder, names.LAST, before.name)
    files = listing(folder)
    tape = Disk(folder, monkeypatch)
    tape.fail_at = step
    with pytest.raises(SaveError, match=r"epoch_000_batch_000002\.ckpt could not be written: .*No space left"):
        commit(folder, 1)
    monkeypatch.undo()
    assert listing(folder) == files
    assert verify(folder / before.name, before) is None
    assert (folder / names.LAST).resolve() == (folder / before.name).resolve()
    assert Catalog(folder).newest_intact() == (before, [])


@pytest.mark.parametrize("size", [2**19, 2**21], ids=["one chunk", "several"])
def test_a_disk_that_fills_up_during_the_write_raises_and_leaves_nothing(folder, size):
    commit(folder, 0)
    file = file_of({"state_dict": {"w": torch.zeros(size)}})
    with room_for(2**20), pytest.raises(SaveError, match=r"epoch_000_batch_000002\.ckpt could not be written"):
        write(CommitPlan(folder, draft(1)), file)
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]
    assert commit(folder, 1).num_bytes > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("num_bytes", [2**10, 2 * disk.CHUNK_BYTES], ids=["one chunk", "several"])
def test_an_interrupted_write_leaves_nothing(folder, error, num_bytes, monkeypatch):
    commit(folder, 0)

    def half(view, chunk_bytes):
        yield view[:chunk_bytes]
        raise error

    monkeypatch.setattr(file_format, "sealed", half)
    with pytest.raises(error):
        write(CommitPlan(folder, draft(1)), memoryview(bytes(num_bytes)))
    assert listing(folder) == [FIRST, "epoch_000_batch_000001.json"]


def test_a_directory_that_is_missing_raises_and_is_not_created(folder):
    folder.rmdir()
    with pytest.raises(SaveError, match="could not be written: No such file or directory"):
        write(CommitPlan(folder, draft()), small_file(0))
    assert not folder.exists()


@pytest.mark.parametrize("way", ["renamed", "replaced", "taken over"])
def test_nothing_is_written_or_deleted_where_the_directory_is_another_one_now(folder, way):
    commit(folder, 0)
    own = claim.take(folder, "run")
    plan = CommitPlan(folder, draft(1), make_room=[FIRST], permit=own.permit)
    own.release()
    if way == "taken over":
        claim.take(folder, "run").release()
    else:
        folder.rename(folder.with_name("moved"))
    if way == "replaced":
        folder.mkdir()
        commit(folder, 0)
    before = listing(folder) if folder.exists() else None
    with pytest.raises(SaveError, match="taken over" if way == "taken over" else "has been replaced or removed"):
        write(plan, small_file(1))
    assert (listing(folder) if folder.exists() else None) == before


def test_a_directory_that_is_lost_during_the_write_gets_no_manifest(folder, monkeypatch):
    permit = claim.take(folder, "run").permit
    put_chunks = disk.put_chunks

    def slowly(*args):
        put_chunks(*args)
        folder.rename(folder.with_name("moved"))
        folder.mkdir()
        (folder / FIRST).write_text("of another run")

    monkeypatch.setattr(disk, "put_chunks", slowly)
    with pytest.raises(SaveError, match="has been replaced or removed"):
        write(CommitPlan(folder, draft(), permit=permit), small_file(0))
    assert listing(folder) == [FIRST], "and nothing is deleted there"


# The first writer died


def test_a_retry_does_not_repeat_a_finished_commit(folder):
    """The first writer was killed after its last step; the disk fails whatever the second one tries to write."""
    commit(folder, 0)
    plan = CommitPlan(folder, draft(1), links={names.LAST: SECOND}, to_delete=[FIRST])
    first, view = write(plan, small_file(1)), small_file(1)
    with room_for(0):
        again = write(replace(plan, retry=True), view)
    assert again == first
    assert Catalog(folder).committed() == [first.saved]
    assert verify(folder / names.LAST, first.saved) is None


def test_a_retry_finishes_an_interrupted_commit(folder, monkeypatch):
    """The first writer was killed after the commit, at each step in turn."""
    plan = CommitPlan(folder, draft(1), links={names.LAST: SECOND}, to_delete=[FIRST])
    commit(folder, 0)
    steps = Disk(folder, monkeypatch)
    write(plan, small_file(1))
    num_steps = len(steps.steps)
    assert num_steps > len(COMMIT)
    for number in range(len(COMMIT), num_steps):
        for path in folder.iterdir():
            path.unlink()
        steps.fail_at = None
        commit(folder, 0)
        steps.steps.clear()
        steps.fail_at = number
        write(plan, small_file(1))
        steps.fail_at = None
        again = write(replace(plan, retry=True), small_file(1))
        assert not again.cleanup_error
        assert Catalog(folder).committed() == [again.saved]
        assert (folder / names.LAST).readlink().name == SECOND
        assert Catalog(folder).leftovers() == []


@pytest.mark.parametrize("other", [{"run": "another"}, {"elapsed_s": 9.0}], ids=["another run's", "an earlier try's"])
def test_a_retry_overwrites_another_checkpoint_of_the_same_name(folder, other):
    write(CommitPlan(folder, replace(draft(1), **other)), small_file(5))
    again = write(CommitPlan(folder, draft(1), retry=True), small_file(1))
    assert torch.load(folder / SECOND, weights_only=True)["number"] == 1
    assert Catalog(folder).committed() == [again.saved]
