"""Rank 0's writer commits a checkpoint once the writers of all ranks have reported a shard of the same save."""

import errno
import functools
import json
import multiprocessing
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.support.disk import room_for
from tests.support.values import at, commit, draft, file_of

from cairn.errors import SaveError
from cairn.policy.keep import Latest
from cairn.store import claim, disk, file_format, names, shard, sharded_commit, sign_of_life
from cairn.store import commit as commits
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import CommitPlan
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.shard import Abandoned, ShardPlan
from cairn.writing.committing import Committer, ShardWriter, Submitted
from cairn.writing.writer import InlineWriter

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


def left(folder, *attempts):
    """Check that nothing is left, except the empty files that stop late ranks in the attempts that failed."""
    expected = sorted(part(folder, 0, attempt).folder for attempt in attempts or ("a" * 16,))
    assert sorted(folder.iterdir()) == expected
    assert not any(path.stat().st_size or path.is_dir() for path in expected)


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
    left(tmp_path)


def test_a_rank_whose_report_cannot_be_written_either_is_waited_for_within_bounds(tmp_path, impatient):
    mine = content(1)
    with room_for(10), pytest.raises(SaveError):
        shard.write(part(tmp_path, 1), mine)
    with pytest.raises(SaveError, match=r"the writer of rank 1 has shown no sign of life for 0.05 s"):
        write_rank_0(tmp_path)
    left(tmp_path)


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
    os.unlink(mine)
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


def test_a_rank_that_is_late_for_a_save_that_was_given_up_writes_nothing_and_is_in_time_for_the_next(
    tmp_path, impatient
):
    with pytest.raises(SaveError):
        write_rank_0(tmp_path)
    late = part(tmp_path, 1)
    for retry in (False, True):
        with pytest.raises(Abandoned):
            shard.write(replace(late, retry=retry), content(1))
    shard.report_failure(late, "too late")
    left(tmp_path)
    shard.write(part(tmp_path, 1, "c" * 16), content(1))
    write_rank_0(tmp_path, attempt="c" * 16, abandoned=(late.folder.name,))
    assert hidden(tmp_path) == []


def test_a_rank_that_writes_when_rank_0_gives_up_stops_with_its_next_piece(tmp_path, monkeypatch):
    mine, sealed, pieces = part(tmp_path, 1), file_format.sealed, []

    def given_up(view, chunk_bytes):
        for number, piece in enumerate(sealed(view, 64)):
            pieces.append(number)
            if number == 2:
                sharded_commit.discard(mine)
            yield piece

    monkeypatch.setattr(disk, "CHUNK_BYTES", 64)
    monkeypatch.setattr(file_format, "sealed", given_up)
    with pytest.raises(Abandoned, match=r"^The shard of rank 1 .* rank 0 has given up this save; its log says why\.$"):
        shard.write(mine, content(1))
    assert len(pieces) < 6 < len(content(1)) // 64
    left(tmp_path)


@pytest.mark.parametrize(("error", "is_awaited"), [(Abandoned("over"), False), (SaveError("full"), True)])
def test_rank_0_learns_why_a_rank_has_no_shard_unless_it_has_given_up_itself(tmp_path, error, is_awaited):
    class Failing:
        def write(self, plan, buffer):
            raise error

    buffer, found = SimpleNamespace(wait=lambda: None, device_s=0.0), []
    mine = part(tmp_path, 1)
    ShardWriter(Failing()).commit(Submitted(buffer, draft(), {}, mine), found.append)
    assert [outcome.error for outcome in found] == ["full" if is_awaited else ""]
    assert mine.folder.exists() == is_awaited
    if is_awaited:
        assert shard.read(mine, 1).error == "full"


def test_a_committer_keeps_late_ranks_out_of_a_save_that_failed_until_the_next_one_is_committed(tmp_path, impatient):
    own = History(tmp_path, [Latest(2)], None)
    committer = Committer(own, InlineWriter(), Listeners(), lambda: None, blocking=False)
    found = []
    for attempt in ("a" * 16, "b" * 16):
        data = content(0)
        buffer = SimpleNamespace(wait=lambda: None, device_s=0.0, view=data, num_bytes=len(data))
        coming = draft()
        committer.expect(coming)
        if found:
            shard.write(part(tmp_path, 1, attempt), content(1))
        committer.commit(Submitted(buffer, coming, {}, part(tmp_path, 0, attempt)), found.append)
        assert hidden(tmp_path) == ([] if found[1:] else [part(tmp_path, 0).folder.name])
    assert [bool(outcome.error) for outcome in found] == [True, False]


# A writer at work that makes no progress


@pytest.fixture
def working(tmp_path):
    """A process that is at work on the shard of rank 1."""
    mine = part(tmp_path, 1)
    mine.folder.mkdir()
    ours, theirs = multiprocessing.Pipe()

    def work():
        with sign_of_life.shown(mine.folder, 1):
            theirs.send("begun")
            theirs.recv()
        theirs.send("ended")
        theirs.recv()

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    ours.recv()
    yield process, ours
    process.kill()
    process.join()


def test_a_writer_at_work_is_waited_for_with_one_warning_however_slow_its_disk_is(tmp_path, impatient, working):
    _, pipe = working
    warnings, plan = [], CommitPlan(tmp_path, draft(), {}, shard=part(tmp_path, 0))

    def warn(message):
        warnings.append(message)
        pipe.send("go on")
        pipe.recv()
        shard.write(part(tmp_path, 1), content(1))

    saved = commits.write(plan, content(0), warn=warn).saved
    assert Catalog(tmp_path).committed() == [saved]
    assert len(warnings) == 1
    assert "has made no progress for 0.05 s: the disk of rank 1 does not respond. Still waiting." in warnings[0]
    assert sorted(os.listdir(tmp_path / NAME)) == ["rank_00000.ckpt", "rank_00001.ckpt"]


def test_a_writer_that_dies_at_work_is_given_up(tmp_path, impatient, working):
    process, _ = working
    plan = CommitPlan(tmp_path, draft(), {}, shard=part(tmp_path, 0))

    def warn(message):
        process.kill()
        process.join()

    with pytest.raises(SaveError, match=r"the writer of rank 1 has shown no sign of life for 0.05 s"):
        commits.write(plan, content(0), warn=warn)
    left(tmp_path)


@pytest.mark.parametrize("was_seen", [True, False], ids=["seen at work", "on a file system without locks"])
def test_once_the_training_has_ended_a_writer_that_was_seen_at_work_and_died_is_not_waited_for(
    tmp_path, monkeypatch, working, was_seen
):
    monkeypatch.setattr(sharded_commit, "SILENCE_AFTER_END_S", 0.0)
    monkeypatch.setattr(sharded_commit, "SILENCE_S", 0.2)
    process, _ = working
    shard.write(part(tmp_path, 0), content(0))
    (part(tmp_path, 1).folder / names.temp_name(names.shard_name(1))).write_bytes(b"begun")
    if not was_seen:
        monkeypatch.setattr(sign_of_life, "is_shown", lambda *given: False)
    looks = []

    def has_ended():
        if looks and was_seen:
            process.kill()
            process.join()
        looks.append(0)
        return True

    with pytest.raises(SaveError, match="the writer of rank 1 has shown no sign of life for ") as caught:
        sharded_commit.wait_for_reports(part(tmp_path, 0), has_ended=has_ended)
    assert (f"for {0.0 if was_seen else 0.2:g} s" in str(caught.value), len(looks) > 1) == (True, True)


def test_a_writer_shows_that_it_is_at_work_until_it_has_reported(tmp_path, monkeypatch):
    mine, seen = part(tmp_path, 1), []

    def ask():
        there = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(sign_of_life.is_shown(mine.folder, 1)), daemon=True
        )
        there.start()
        there.join()
        seen.append(bool(there.exitcode))

    put = disk.put
    monkeypatch.setattr(disk, "put", lambda *given: (ask(), put(*given)))
    shard.write(mine, content(1))
    ask()
    assert seen == [True, False]


def test_a_sign_that_cannot_be_made_or_read_is_none(tmp_path):
    with sign_of_life.shown(tmp_path / "missing", 1):
        assert not sign_of_life.is_shown(tmp_path / "missing", 1)


@pytest.mark.parametrize("is_back", [False, True])
def test_a_directory_that_is_another_one_now_gets_no_file(tmp_path, is_back):
    folder = tmp_path / "checkpoints"
    held = claim.take(folder, "run")
    own = part(folder, 0, permit=held.permit)
    shard.write(part(folder, 1), content(1))
    held.release()
    folder.rename(tmp_path / "moved")
    if is_back:
        folder.mkdir()
    with pytest.raises(SaveError, match="has been replaced or removed"):
        commits.write(CommitPlan(folder, draft(), {}, shard=own), content(0))
    sharded_commit.discard(own)
    assert list(folder.iterdir() if is_back else tmp_path.iterdir()) == ([] if is_back else [tmp_path / "moved"])


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
    assert hidden(tmp_path) == [part(tmp_path, 0, "b" * 16).folder.name]


# Writers that died


def test_the_writer_of_a_rank_that_dies_after_the_commit_does_not_make_its_directory_again(tmp_path):
    first = shard.write(part(tmp_path, 1), content(1))
    write_rank_0(tmp_path)
    again = shard.write(part(tmp_path, 1, retry=True), content(1))
    assert again == first
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("at", ["reports", "directory", "manifest"])
def test_the_writer_of_a_rank_that_dies_during_the_commit_writes_nothing_again(tmp_path, monkeypatch, at):
    """Before the reports are deleted, before the directory is renamed, and before the manifest is."""
    first, found = shard.write(part(tmp_path, 1), content(1)), []
    before = {path: path.stat().st_ino for path in part(tmp_path, 1).folder.glob("*.ckpt")}

    def again(*given, do, when):
        if when(*given) and not found:
            found.append(shard.write(part(tmp_path, 1, retry=True), content(1)))
        do(*given)

    whens = {
        "reports": ("remove", lambda path: path.name == names.WRITERS),
        "directory": ("replace", lambda old, new: new == tmp_path / NAME),
        "manifest": ("replace", lambda old, new: new == tmp_path / names.manifest_name(NAME)),
    }
    name, when = whens[at]
    module = disk if name == "remove" else os
    monkeypatch.setattr(module, name, functools.partial(again, do=getattr(module, name), when=when))
    write_rank_0(tmp_path)
    assert found == [first]
    assert sorted(os.listdir(tmp_path / NAME)) == ["rank_00000.ckpt", "rank_00001.ckpt"]
    assert {(tmp_path / NAME / path.name).stat().st_ino for path in before} == set(before.values())
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


def test_a_rank_that_rank_0_overtakes_at_its_last_sync_has_written_its_shard(tmp_path, monkeypatch):
    sync, mine, saved = disk.sync_directory, part(tmp_path, 1), []

    def overtaken(path):
        if (path / names.report_name(1)).exists() and not saved:
            monkeypatch.setattr(disk, "sync_directory", sync)
            saved.append(write_rank_0(tmp_path))
        sync(path)

    monkeypatch.setattr(disk, "sync_directory", overtaken)
    assert shard.write(mine, content(1)).digest == saved[0].shards[1].digest
    assert hidden(tmp_path) == []


def test_a_late_report_of_a_failure_does_not_replace_one_of_success(tmp_path):
    mine = part(tmp_path, 1)
    found = shard.write(mine, content(1))
    shard.report_failure(mine, "too late")
    assert shard.read(mine, 1) == found
