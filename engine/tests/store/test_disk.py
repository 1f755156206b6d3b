"""Large files bypass the page cache where possible, and any file appears completely or not at all."""

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from threading import Event

import pytest
from tests.support.disk import room_for
from tests.support.paths import ENGINE

from cairn.store import disk
from cairn.store.disk import CHUNK_BYTES, is_locked, locked, put_chunks

PLACES = [place for place in ("/tmp", "/dev/shm") if os.access(place, os.W_OK)]
SIZES = {
    "nothing": 0,
    "a byte": 1,
    "one chunk": CHUNK_BYTES,
    "a byte more": CHUNK_BYTES + 1,
    "whole pages": CHUNK_BYTES + 4096,
    "pages and a tail": 2 * CHUNK_BYTES + 4096 + 77,
    "less than a page behind the chunks": 2 * CHUNK_BYTES + 77,
}


@pytest.fixture(params=PLACES)
def folder(request):
    with tempfile.TemporaryDirectory(dir=request.param) as path:
        yield Path(path)


@pytest.fixture
def calls(monkeypatch):
    """Records writes: how many bytes, and whether they bypassed the cache."""
    seen, write = [], os.write

    def recorded(handle, data):
        count = write(handle, data)
        seen.append((count, bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)))
        return count

    monkeypatch.setattr(os, "write", recorded)
    return seen


def data_of(num_bytes):
    """Bytes in memory aligned to a page, like a buffer."""
    memory = mmap.mmap(-1, max(num_bytes, 1))
    block = bytes(range(256)) * 17  # which is not a page long
    memory[:num_bytes] = (block * (num_bytes // len(block) + 1))[:num_bytes]
    return memoryview(memory)[:num_bytes]


def chunks_of(data):
    return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


def put(folder, data, beat=lambda num_bytes: None):
    put_chunks(folder / "file", chunks_of(data), len(data), beat)


def check(folder, data):
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == data


def takes_direct(folder):
    """True if the file system of a folder supports direct writes."""
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    finally:
        (folder / "probe").unlink(missing_ok=True)
    return True


# Files


@pytest.mark.parametrize("num_bytes", SIZES.values(), ids=SIZES)
def test_a_file_of_any_size_is_written_correctly(folder, num_bytes):
    data = data_of(num_bytes)
    (folder / "file").write_text("what was there before")
    put(folder, data)
    check(folder, data)


def test_all_but_the_tail_of_a_large_file_bypasses_the_cache(folder, calls):
    if not takes_direct(folder):
        pytest.skip("not on this file system")
    data = data_of(2 * CHUNK_BYTES + 4096 + 77)
    put(folder, data)
    check(folder, data)
    assert sum(count for count, direct in calls if direct) == 2 * CHUNK_BYTES + 4096
    assert calls[-1] == (77, False)


def test_a_small_file_goes_through_the_cache(folder, calls):
    data = data_of(CHUNK_BYTES)
    put(folder, data)
    check(folder, data)
    assert calls == [(CHUNK_BYTES, False)]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_file_system_without_direct_open_is_written_through_the_cache(folder, calls, code, monkeypatch):
    open_ = os.open

    def refusing(path, flags, *mode, **options):
        if flags & os.O_DIRECT:
            raise OSError(code, os.strerror(code))
        return open_(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refusing)
    data = data_of(CHUNK_BYTES + 77)
    put(folder, data)
    check(folder, data)
    assert not any(direct for _, direct in calls)


@pytest.mark.parametrize("after", [0, 1])
def test_a_file_system_without_direct_writes_is_written_through_the_cache(folder, after, monkeypatch):
    write, tries = os.write, Counter()

    def refusing(handle, data):
        direct = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT
        if direct and tries["direct"] == after:
            raise OSError(errno.EINVAL, "Invalid argument")
        tries["direct" if direct else "usual"] += 1
        return write(handle, data)

    monkeypatch.setattr(os, "write", refusing)
    data = data_of(2 * CHUNK_BYTES + 77)
    put(folder, data)
    check(folder, data)
    assert tries["direct"] <= after
    assert tries["usual"] >= 1


@pytest.mark.parametrize("most", [2**20, 4096 * 3, 2**20 + 512, 99_999], ids=lambda most: f"{most} at most")
def test_the_rest_of_a_partial_write_is_written(folder, most, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:most]))
    data = data_of(CHUNK_BYTES + 4096 + 77)
    put(folder, data)
    check(folder, data)


def test_unaligned_data_is_written(folder):
    data = data_of(CHUNK_BYTES + 5000)[3:]
    put(folder, data)
    check(folder, data)


@pytest.mark.parametrize("num_bytes", [CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77])
def test_progress_is_reported_after_each_chunk(folder, num_bytes):
    beats = []
    put(folder, data_of(num_bytes), beats.append)
    assert beats == [min(at + CHUNK_BYTES, num_bytes) for at in range(0, num_bytes, CHUNK_BYTES)]


def test_other_errors_of_open_are_raised(folder, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *args, **options: (_ for _ in ()).throw(PermissionError(errno.EACCES, "No")))
    with pytest.raises(PermissionError):
        put(folder, data_of(2 * CHUNK_BYTES))


def test_a_chunk_is_written_while_the_next_one_is_computed(folder, monkeypatch):
    written, made, write = Event(), Event(), os.write

    def slow(handle, data):
        assert made.wait(60), "the next one is not made until this one is written"
        written.set()
        return write(handle, data)

    def chunks():
        yield from chunks_of(data[:CHUNK_BYTES])
        assert not written.is_set()
        made.set()
        yield from chunks_of(data[CHUNK_BYTES:])

    data = data_of(2 * CHUNK_BYTES)
    monkeypatch.setattr(os, "write", slow)
    put_chunks(folder / "file", chunks(), len(data))
    check(folder, data)


# Errors


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_an_error_during_the_write_leaves_the_previous_file(folder, fails_at, monkeypatch):
    (folder / "file").write_text("before")
    write, num_writes = os.write, Counter()

    def failing(handle, data):
        num_writes["all"] += 1
        if num_writes["all"] - 1 == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match="No space left"):
        put(folder, data_of(5 * CHUNK_BYTES))
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "before"
    assert num_writes["all"] == fails_at + 1


@pytest.mark.parametrize("limit", [4096, CHUNK_BYTES + 1000])
def test_a_really_full_disk_leaves_nothing(folder, limit):
    with room_for(limit), pytest.raises(OSError, match="File too large"):
        put(folder, data_of(3 * CHUNK_BYTES))
    assert list(folder.iterdir()) == []


def test_a_file_of_the_wrong_size_is_an_error(folder, monkeypatch):
    write = os.write

    def lying(handle, data):
        write(handle, data[:4096])
        return len(data)

    monkeypatch.setattr(os, "write", lying)
    with pytest.raises(OSError, match="bytes instead of 8388608"):
        put(folder, data_of(2 * CHUNK_BYTES))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_while_computing_chunks_leaves_nothing(folder, error):
    def chunks():
        yield from chunks_of(data_of(CHUNK_BYTES))
        raise error

    with pytest.raises(error):
        put_chunks(folder / "file", chunks(), 2 * CHUNK_BYTES)
    assert list(folder.iterdir()) == []


def test_no_file_stays_open(folder):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    put(folder, data_of(CHUNK_BYTES + 1))
    with room_for(4096), pytest.raises(OSError, match="File too large"):
        put(folder, data_of(CHUNK_BYTES + 1))
    with locked(folder):
        pass
    assert not is_locked(folder)
    assert count() == before


# Locks

HOLD = """
import sys
from pathlib import Path
from threading import Event
from cairn.store.disk import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    """A process that holds the lock until its input ends."""
    environment = {**os.environ, "PYTHONPATH": str(ENGINE / "src")}
    command = [sys.executable, "-S", "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("how", ["it leaves", "kill -9"])
def test_a_lock_is_seen_by_other_processes_and_ends_with_its_holder(folder, how):
    with holder(folder) as process:
        assert is_locked(folder)
        if how == "kill -9":
            process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not is_locked(folder)


def test_a_lock_is_seen_in_the_same_process_and_testing_does_not_take_it(folder):
    assert not is_locked(folder)
    with locked(folder):
        assert is_locked(folder)
        assert is_locked(folder)
    assert not is_locked(folder)


def test_a_missing_directory_or_one_without_locks_counts_as_unlocked(folder, monkeypatch):
    with locked(folder / "gone"):
        assert not is_locked(folder / "gone")
    monkeypatch.setattr(disk.fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with locked(folder):
        assert not is_locked(folder)


def test_writers_of_several_ranks_share_the_lock_and_keep_others_out(folder):
    with locked(folder, shared=True), locked(folder, shared=True):
        assert is_locked(folder)
    assert not is_locked(folder)
