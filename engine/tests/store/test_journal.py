"""A journal keeps every record that was appended completely, whatever was cut off before or after it."""

import errno
import os

import pytest
from tests.support.disk import Disk, room_for

from cairn.store import journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_a_directory_is_not_created(tmp_path):
    """It was there when the run started: its disk may be unmounted now."""
    with pytest.raises(FileNotFoundError):
        journal.append(tmp_path / "gone" / "journal.jsonl", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_records_come_back_in_their_order(path):
    journal.append(path, {"a": 1}, [2, None])
    journal.append(path, {"b": "three"})
    assert list(journal.read(path)) == [{"a": 1}, [2, None], {"b": "three"}]
    assert path.read_text() == '{"a": 1}\n[2, null]\n{"b": "three"}\n'


@pytest.mark.parametrize("rest", ["", "\n", '{"b": 2', '{"b": 2\n', "\n\n", "\x00\n", "[" * 100_000])
def test_a_line_that_was_cut_off_is_skipped_and_does_not_spoil_the_next(path, rest):
    journal.append(path, [1])
    with open(path, "a") as file:
        file.write(rest)
    assert list(journal.read(path)) == [[1]]
    journal.append(path, [2])
    assert list(journal.read(path)) == [[1], [2]]


def test_each_line_that_is_skipped_can_be_counted(path):
    skipped = []
    journal.append(path, [1])
    path.write_text("half\n" + path.read_text() + "[2")
    assert list(journal.read(path, lambda: skipped.append(1))) == [[1]]
    assert len(skipped) == 2


def test_any_prefix_of_a_journal_can_be_read(path):
    records = [{"step": number, "loss": [0.5, None]} for number in range(95, 105)]
    journal.append(path, *records)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        found = list(journal.read(path))
        assert found == records[: len(found)]
        assert len(found) >= data[:length].count(b"\n")


def test_a_missing_journal_is_an_error(path):
    with pytest.raises(FileNotFoundError, match=r"journal\.jsonl"):
        list(journal.read(path))


def test_half_a_record_is_removed_when_the_disk_is_full(path):
    journal.append(path, [1])
    with room_for(10), pytest.raises(OSError, match="No space left"):
        journal.append(path, list(range(100)))
    assert path.read_bytes() == b"[1]\n"


def test_a_record_that_cannot_be_synced_is_removed(path, monkeypatch):
    journal.append(path, [1])

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append(path, [2], sync=True)
    assert list(journal.read(path)) == [[1]]


@pytest.mark.parametrize(("sync", "steps"), [(False, []), (True, ["fsync journal.jsonl"])])
def test_only_a_synced_record_waits_for_the_disk(path, sync, steps, monkeypatch):
    disk = Disk(path.parent, monkeypatch)
    journal.append(path, [1], sync=sync)
    assert disk.steps == steps
