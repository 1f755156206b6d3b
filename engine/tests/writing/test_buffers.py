"""Buffers grow, are reused, and leave nothing behind."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch
from tests.support.disk import room_for

from cairn.store.disk import PAGE
from cairn.writing import buffers
from cairn.writing.buffers import Buffer, BufferPool

LINUX = [int(number) for number in re.findall(r"\d+", os.uname().release)[:2]]


@pytest.fixture
def buffer():
    buffer = Buffer()
    yield buffer
    buffer.close()


def open_files():
    return {number: os.readlink(f"/proc/self/fd/{number}") for number in our_fds()}


def our_fds():
    return [number for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")]


def maps_of_buffers():
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:checkpoint" in line]


@pytest.mark.parametrize("num_bytes", [1, PAGE, PAGE + 1, 3_000_000])
def test_a_buffer_has_room_for_the_file_and_for_a_slightly_larger_one(buffer, num_bytes):
    buffer.allocate(num_bytes)
    assert buffer.capacity % PAGE == 0
    assert num_bytes + num_bytes // 300 + 4096 <= buffer.capacity <= 1.005 * num_bytes + 2**17
    assert len(buffer.view) == buffer.capacity
    buffer.view[num_bytes - 1] = 7


def test_a_buffer_that_is_large_enough_is_kept_as_it_is(buffer):
    buffer.allocate(100_000)
    buffer.view[5] = 7
    buffer.held = held = object()
    before = buffer.capacity
    for num_bytes in (0, 100, 100_000, before):
        buffer.allocate(num_bytes)
    assert (buffer.capacity, buffer.view[5], buffer.held) == (before, 7, held)


def test_a_buffer_that_grows_drops_its_old_memory_and_what_was_mapped_onto_it(buffer):
    buffer.allocate(100_000)
    maps = len(maps_of_buffers())
    buffer.held = torch.frombuffer(buffer.view, dtype=torch.uint8)
    undone = []
    buffer.unpin = lambda: undone.append(buffer.capacity)
    before = buffer.capacity
    buffer.allocate(10_000_000)
    assert buffer.held is buffer.unpin is None
    assert undone == [before]
    assert buffer.capacity > 10_000_000
    assert len(maps_of_buffers()) == maps
    assert os.fstat(buffer.fd).st_size == buffer.capacity


@pytest.mark.skipif(LINUX < [5, 14], reason="this kernel fills pages when they are touched")
def test_all_pages_of_a_buffer_are_in_memory_before_the_first_save(buffer):
    buffer.allocate(3_000_000)
    assert os.fstat(buffer.fd).st_blocks * 512 >= buffer.capacity


def test_a_closed_buffer_leaves_nothing_behind():
    before, maps = open_files(), maps_of_buffers()
    buffer = Buffer()
    buffer.allocate(100_000)
    new = [what for number, what in open_files().items() if number not in before]
    assert all(what == "/memfd:checkpoint (deleted)" for what in new)
    assert not os.get_inheritable(buffer.fd)
    buffer.close()
    buffer.close()
    assert (open_files(), maps_of_buffers()) == (before, maps)
    assert buffer.capacity == 0


def test_a_tensor_that_is_mapped_onto_a_closed_buffer_keeps_its_memory():
    buffer = Buffer()
    buffer.allocate(100_000)
    buffer.view[5] = 7
    seen = torch.frombuffer(buffer.view, dtype=torch.uint8)
    buffer.close()
    assert seen[5] == 7


def test_too_little_memory_is_an_error_and_the_buffer_works_once_there_is_enough(buffer):
    buffer.allocate(100_000)
    with room_for(2**20), pytest.raises(MemoryError, match=r"may not make files of that size: .* ulimit -f"):
        buffer.allocate(3_000_000)
    assert buffer.capacity == 0
    buffer.allocate(3_000_000)
    buffer.view[2_999_999] = 7


def test_missing_memory_for_pages_is_an_error_but_a_kernel_that_cannot_fill_them_is_not(buffer, monkeypatch):
    class Map(buffers.mmap.mmap):
        errors = iter(())

        def madvise(self, *args):
            raise OSError(next(Map.errors), "refused")

    monkeypatch.setattr(buffers.mmap, "mmap", Map)
    Map.errors = iter([errno.EINVAL, errno.EINVAL])
    buffer.allocate(1000)
    assert buffer.capacity
    Map.errors = iter([errno.EINVAL, errno.ENOMEM])
    with pytest.raises(MemoryError, match="No memory for a checkpoint of 3000000 bytes: refused"):
        buffer.allocate(3_000_000)


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.EPERM])
def test_without_memfd_or_where_it_is_not_allowed_a_buffer_is_plain_memory(code, monkeypatch):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    if code is None:
        monkeypatch.delattr(os, "memfd_create")
    before = open_files()
    buffer = Buffer()
    buffer.allocate(100_000)
    buffer.view[99_999] = 7
    assert buffer.fd == -1
    buffer.close()
    assert open_files() == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_pool_hands_out_each_buffer_once(count):
    own = BufferPool(count)
    taken = [own.take() for _ in range(count)]
    assert taken == own.buffers
    assert len(set(map(id, taken))) == count
    assert own.take() is None
    own.give_back(taken[-1])
    assert own.take() is taken[-1]
    assert own.take() is None
    own.close()
    assert [buffer.fd for buffer in own.buffers] == [-1] * count


def test_two_buffers_take_turns():
    own = BufferPool(2)
    seen = []
    for _ in range(4):
        buffer = own.take()
        seen.append(own.buffers.index(buffer))
        own.give_back(buffer)
    own.close()
    assert seen == [0, 1, 0, 1]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc")
def test_the_free_memory_is_what_the_strictest_limit_leaves(tmp_path, monkeypatch):
    assert 2**20 < buffers.available_bytes() < 2**50
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "memory.max").write_text("max\n")
    (tmp_path / "job" / "memory.current").write_text("5\n")
    monkeypatch.setattr(buffers, "_groups", lambda: [tmp_path / "job", tmp_path, tmp_path / "none"])
    assert buffers.available_bytes() == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 700000\ninactive_file 400000\nactive_file 200000\n")
    assert buffers.available_bytes() == 2_600_000, "files that were read give way"
