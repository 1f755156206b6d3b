"""The processes of a start verify the shards of a checkpoint together, with the outcome of one that reads all of it."""

import threading
from contextlib import contextmanager

import pytest
from tests.support.shards import commit_shards
from tests.support.values import commit, flip_byte

from cairn.errors import CorruptCheckpointError
from cairn.store import file_format, joint_check, names, resume
from cairn.store.catalog import Catalog, verify
from cairn.store.joint_check import JointCheck


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that each thread has read: a thread is a process here."""
    found, reads = {}, file_format.read

    def watched(path):
        found.setdefault(path.name, []).append(path)
        return reads(path)

    monkeypatch.setattr(file_format, "read", watched)
    return found


@contextmanager
def helpers(folder, num_processes):
    """The other processes, which wait for the first one, and help meanwhile."""
    end = threading.Event()

    def wait(number):
        own = JointCheck(folder.parent, number, num_processes, "s")
        while not end.wait(0.001):
            own.help()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(1, num_processes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def hidden(folder):
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(".verify")]


@pytest.mark.parametrize("num_processes", [2, 3, 7])
def test_each_shard_is_read_once_by_one_of_the_processes(folder, read, num_processes, monkeypatch):
    monkeypatch.setattr(joint_check, "patience_s", lambda *_: 60.0)
    saved = commit_shards(folder, 0)
    read.clear()
    with helpers(folder, num_processes):
        JointCheck(folder.parent, 0, num_processes, "s").verify(folder / saved.name, saved)
    assert {name: len(paths) for name, paths in read.items()} == {item.name: 1 for item in saved.shards}
    assert hidden(folder) == []


@pytest.mark.parametrize("damaged", [[0], [1], [2], [2, 1, 0]])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_what_is_damaged_is_named_as_by_one_process(folder, damaged, num_processes, monkeypatch):
    monkeypatch.setattr(joint_check, "patience_s", lambda *_: 60.0)
    first, saved = commit_shards(folder, 0), commit_shards(folder, 1)
    for rank in damaged:
        flip_byte(folder / saved.name, names.shard_name(rank))
    with pytest.raises(CorruptCheckpointError) as expected:
        verify(folder / saved.name, saved)
    own = JointCheck(folder.parent, 0, num_processes, "s")
    with helpers(folder, num_processes):
        with pytest.raises(CorruptCheckpointError) as found:
            own.verify(folder / saved.name, saved)
        point = resume.find_resume_point(folder, own.verify)
    assert str(found.value) == str(expected.value)
    assert point.saved == first, "the processes verify the one before, too"
    assert [item.why for item in point.rejected] == [str(expected.value)]


def test_a_process_that_does_not_help_costs_nothing_but_time(folder, read, monkeypatch):
    monkeypatch.setattr(joint_check, "patience_s", lambda *_: 0.01)
    saved = commit_shards(folder, 0)
    read.clear()
    JointCheck(folder.parent, 0, 3, "s").verify(folder / saved.name, saved)
    assert sorted(read) == [item.name for item in saved.shards]
    flip_byte(folder / saved.name, names.shard_name(2))
    with pytest.raises(CorruptCheckpointError, match=r"rank_00002\.ckpt"):
        JointCheck(folder.parent, 0, 3, "s").verify(folder / saved.name, saved)


def test_process_0_waits_no_longer_for_a_start_than_it_would_read_itself():
    assert joint_check.patience_s(0.001, 7) == pytest.approx(0.009)
    assert joint_check.patience_s(60.0, 63) == 130.0


def test_what_another_request_or_another_start_has_left_does_not_count(folder, read, monkeypatch):
    monkeypatch.setattr(joint_check, "patience_s", lambda *_: 0.01)
    saved = commit_shards(folder, 0)
    run = folder.parent
    read.clear()
    joint_check._put(run / ".verify-1.json", joint_check.Result("other"))
    JointCheck(run, 0, 2, "s").verify(folder / saved.name, saved)
    assert sorted(read) == [item.name for item in saved.shards]
    read.clear()
    for request in (
        joint_check.Request("other", str(folder / saved.name), saved.digest),
        joint_check.Request("s", str(folder / saved.name), "other"),
        joint_check.Request("s", str(folder / "missing.ckpt"), saved.digest),
    ):
        joint_check._put(run / ".verify.json", request)
        JointCheck(run, 1, 2, "s").help()
    (run / ".verify.json").write_text("{")
    JointCheck(run, 1, 2, "s").help()
    assert read == {}
    assert hidden(folder) == [".verify.json"]


def test_a_single_file_and_a_single_process_are_verified_as_ever(folder):
    one, several = commit(folder, 0), commit_shards(folder, 1)
    JointCheck(folder.parent, 0, 4, "s").verify(folder / one.name, one)
    JointCheck(folder.parent, 0, 1, "").verify(folder / several.name, several)
    assert hidden(folder) == []
    assert Catalog(folder).newest_intact()[0] == several
    flip_byte(folder, one.name)
    with pytest.raises(CorruptCheckpointError):
        JointCheck(folder.parent, 0, 4, "s").verify(folder / one.name, one)
