"""Rank 0's writer commits a checkpoint once the writers of all ranks have reported a shard of the same save."""

import errno
import functools
import json
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from tests.support.disk import room_for
from tests.support.values import at, commit, draft, file_of

from cairn.errors import SaveError
from cairn.store import commit as commits
from cairn.store import disk, file_format, names, shard, sharded_commit
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import CommitPlan
from cairn.store.shard import Abandoned, ShardPlan
from cairn.writing.committing import ShardWriter, Submitted

NAME = names.checkpoint_name(at(1))


def part(folder, rank, attempt="a" * 16, world_size=2, **facts):
    return ShardPlan(folder, NAME, attempt, rank, world_size, facts.pop("layout", "cut"), **facts)


@functools.cache
def made(rank, save):
    return bytes(file_of({"rank": rank, "save": save, "data": torch.full((40,), float(save))}))


def content(rank, save=0):
    return memoryview(bytearray(made(rank, save)))


def write_rank_0(folder, save=0, attempt="a" * 16, world_size=2, beat=lambda count: None, ended=lambda: False, **facts):
    coming = draft(elapsed_s=float(save + 1))
    own = part(folder, 0, attempt, world_size)
    return commits.write(CommitPlan(folder, coming, {}, shard=own, **facts), content(0, save), beat, ended).saved


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(sharded_commit, "SILENCE_S", 0.05)
    monkeypatch.setattr(sharded_commit, "SILENCE_AFTER_END_S", 0.01)


def test_a_checkpoint_is_a_directory_with_the_shards_of_all_ranks(tmp_path):
    shard.write(part(tmp_path, 1), content(1))
    saved = write_rank_0(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, names.manifest_name(NAME)]
    assert sorted(os.listdir(tmp_path / NAME)) == ["rank_00000.ckpt", "rank_00001.ckpt"]
    assert Catalog(tmp_path).committed() == [saved]
    verify(tmp_path / NAME, saved)
    assert saved.num_bytes == sum(path.stat().st_size for path in (tmp_path / NAME).iterdir())
    assert json.loads((tmp_path / names.manifest_name(NAME)).read_text())["format"] == 3


def test_rank_0_waits_for_ranks_that_are_late_and_shows_the_progress_of_all(tmp_path):
    seen, found = [], []
    waiting = threading.Thread(target=lambda: found.append(write_rank_0(tmp_path, beat=seen.append, world_size=3)))
    waiting.start()
    for rank in (2, 1):
        assert waiting.is_alive()
        shard.write(part(tmp_path, rank, world_size=3), content(rank))
    waiting.join()
    assert [item.name for item in found[0].shards] == [names.shard_name(rank) for rank in range(3)]
    assert seen[-1] == found[0].num_bytes


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_fails_the_save_by_its_report_and_leaves_nothing(tmp_path, rank):
    mine = content(1)
    if rank == 0:
        shard.write(part(tmp_path, 1), mine)
        content(0)
        with room_for(100), pytest.raises(SaveError, match="could not be written"):
            write_rank_0(tmp_path)
    else:
        with room_for(400), pytest.raises(SaveError, match="could not be written"):
            shard.write(part(tmp_path, 1), mine)
        with pytest.raises(SaveError, match=r"^Rank 1: The checkpoint .*could not be written"):
            write_rank_0(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_whose_report_cannot_be_written_either_is_waited_for_within_bounds(tmp_path, impatient):
    mine = content(1)
    with room_for(10), pytest.raises(SaveError):
        shard.write(part(tmp_path, 1), mine)
    with pytest.raises(SaveError, match=r"the writer of rank 1 has shown no sign of life for 0.05 s"):
        write_rank_0(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_the_end_of_the_training_a_rank_that_has_not_begun_is_not_waited_for_as_long(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded_commit, "SILENCE_AFTER_END_S", 0.01)
    with pytest.raises(SaveError, match=r"rank 1 has shown no sign of life for 0.01 s"):
        write_rank_0(tmp_path, ended=lambda: True)


def test_after_the_end_of_the_training_a_rank_that_writes_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded_commit, "SILENCE_AFTER_END_S", 0.0)
    monkeypatch.setattr(sharded_commit, "SILENCE_S", 0.05)
    mine = part(tmp_path, 1)
    mine.folder.mkdir()
    (mine.folder / names.temp_name(names.shard_name(1))).write_bytes(b"begun")
    with pytest.raises(SaveError, match=r"rank 1 has shown no sign of life for 0.05 s"):
        write_rank_0(tmp_path, ended=lambda: True)


def test_a_shard_of_another_save_is_never_counted(tmp_path, impatient):
    """Neither one in the directory of another attempt, nor a file that was put into that of this one."""
    shard.write(part(tmp_path, 1, "b" * 16), content(1, 7))
    with pytest.raises(SaveError, match="rank 1"):
        write_rank_0(tmp_path)
    other = part(tmp_path, 1, "b" * 16).folder
    mine = part(tmp_path, 1).folder
    os.rename(other, mine)
    with pytest.raises(SaveError, match="rank 1"):
        write_rank_0(tmp_path)
    assert Catalog(tmp_path).committed() == []


@pytest.mark.parametrize("facts", [{"world_size": 3}, {"layout": "other"}])
def test_a_rank_that_holds_something_else_fails_the_save(tmp_path, impatient, facts):
    shard.write(part(tmp_path, 1, **facts), content(1))
    with pytest.raises(SaveError, match=r"rank 1 (holds other tensors|has shown no sign)"):
        write_rank_0(tmp_path)


def test_a_shard_that_is_not_what_its_report_says_fails_the_save(tmp_path):
    shard.write(part(tmp_path, 1), content(1))
    with (part(tmp_path, 1).folder / names.shard_name(1)).open("ab") as file:
        file.write(b"more")
    with pytest.raises(SaveError, match=r"the shard of rank 1 is not what its report says"):
        write_rank_0(tmp_path)


def test_the_directory_of_a_failed_save_is_deleted_again_if_a_late_rank_has_made_it(tmp_path, impatient):
    with pytest.raises(SaveError):
        write_rank_0(tmp_path)
    late = part(tmp_path, 1)
    shard.write(late, content(1))
    assert hidden(tmp_path) == [late.folder.name]
    shard.write(part(tmp_path, 1, "c" * 16), content(1))
    write_rank_0(tmp_path, attempt="c" * 16, abandoned=(late.folder.name,))
    assert hidden(tmp_path) == []


def test_a_rank_that_writes_when_rank_0_gives_up_stops_and_does_not_make_the_directory_again(tmp_path, monkeypatch):
    mine, sealed = part(tmp_path, 1), file_format.sealed

    def given_up(view, chunk_bytes):
        yield from sealed(view, chunk_bytes)
        sharded_commit.discard(mine)

    monkeypatch.setattr(file_format, "sealed", given_up)
    with pytest.raises(Abandoned, match=r"^The shard of rank 1 .* rank 0 has given up this save; its log says why\.$"):
        shard.write(mine, content(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "is_told"), [(Abandoned("over"), False), (SaveError("full"), True)])
def test_rank_0_learns_why_a_rank_has_no_shard_unless_it_has_given_up_itself(tmp_path, error, is_told):
    class Failing:
        def write(self, plan, buffer):
            raise error

    buffer, found = SimpleNamespace(wait=lambda: None, device_s=0.0), []
    mine = part(tmp_path, 1)
    ShardWriter(Failing()).commit(Submitted(buffer, draft(), {}, mine), found.append)
    assert [outcome.error for outcome in found] == [str(error)]
    assert mine.folder.exists() == is_told
    if is_told:
        assert shard.read(mine, 1).error == "full"


def test_a_copy_that_fails_on_a_rank_is_reported_to_rank_0(tmp_path):
    def fail():
        raise SaveError("Weights changed while they were copied.")

    mine = part(tmp_path, 1)
    buffer = SimpleNamespace(wait=fail, device_s=0.0)
    ShardWriter(None).commit(Submitted(buffer, draft(), {}, mine), lambda outcome: None)
    with pytest.raises(SaveError, match=r"^Rank 1: Weights changed"):
        write_rank_0(tmp_path)


# The same position again


@pytest.mark.parametrize("before", ["a file", "a directory"])
@pytest.mark.parametrize("after", ["a file", "a directory"])
def test_a_checkpoint_replaces_one_of_the_same_name_in_either_form(tmp_path, before, after):
    for save, form in enumerate((before, after)):
        if form == "a file":
            found = commit(tmp_path, number=0, elapsed_s=float(save + 1))
        else:
            shard.write(part(tmp_path, 1, f"{save:016x}"), content(1, save))
            found = write_rank_0(tmp_path, save, f"{save:016x}")
    assert Catalog(tmp_path).committed() == [found]
    verify(tmp_path / NAME, found)
    assert (tmp_path / NAME).is_dir() == (after == "a directory")
    assert hidden(tmp_path) == []


def test_an_earlier_checkpoint_of_this_name_stays_while_its_successor_fails(tmp_path, impatient):
    shard.write(part(tmp_path, 1), content(1))
    first = write_rank_0(tmp_path)
    with pytest.raises(SaveError):
        write_rank_0(tmp_path, 1, "b" * 16)
    with room_for(100), pytest.raises(SaveError):
        commits.write(CommitPlan(tmp_path, draft(elapsed_s=2.0), {}), content(0))
    assert Catalog(tmp_path).committed() == [first]
    verify(tmp_path / NAME, first)
    assert hidden(tmp_path) == []


# Writers that died


def test_the_writer_of_a_rank_that_dies_after_the_commit_does_not_make_its_directory_again(tmp_path):
    first = shard.write(part(tmp_path, 1), content(1))
    write_rank_0(tmp_path)
    again = shard.write(part(tmp_path, 1, retry=True), content(1))
    assert again == first
    assert hidden(tmp_path) == []


def test_a_retry_keeps_what_was_committed_before(tmp_path):
    shard.write(part(tmp_path, 1), content(1))
    first = write_rank_0(tmp_path)
    assert write_rank_0(tmp_path, retry=True) == first
    verify(tmp_path / NAME, first)


def test_a_report_of_success_is_never_followed_by_the_deletion_of_its_shard(tmp_path, monkeypatch):
    """The last sync fails after the report is there: rank 0 may count on it already."""
    sync = disk.sync_directory

    def fail_at_the_end(path):
        if (path / names.report_name(1)).exists():
            raise OSError(errno.EIO, "broken")
        sync(path)

    monkeypatch.setattr(disk, "sync_directory", fail_at_the_end)
    assert shard.write(part(tmp_path, 1), content(1)).error == ""
    monkeypatch.undo()
    verify(tmp_path / NAME, write_rank_0(tmp_path))


def test_a_late_report_of_a_failure_does_not_replace_one_of_success(tmp_path):
    mine = part(tmp_path, 1)
    found = shard.write(mine, content(1))
    shard.report_failure(mine, "too late")
    assert shard.read(mine, 1) == found
