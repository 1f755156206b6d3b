"""Buffers grow, are used again, and leave nothing behind."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch
from tests.support.disk import room_for

from cairn.store.disk import PAGE
from cairn.writing import buffers
from cairn.writing.buffers import Image, Images

LINUX = [int(number) for number in re.findall(r"\d+", os.uname().release)[:2]]


@pytest.fixture
def image():
    image = Image()
    yield image
    image.close()


def open_files():
    return {number: os.readlink(f"/proc/self/fd/{number}") for number in our_fds()}


def our_fds():
    return [number for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")]


def maps_of_buffers():
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:checkpoint" in line]


@pytest.mark.parametrize("num_bytes", [1, PAGE, PAGE + 1, 3_000_000])
def test_there_is_room_for_the_file_and_for_one_that_is_a_little_larger(image, num_bytes):
    image.fit(num_bytes)
    assert image.capacity % PAGE == 0
    assert num_bytes + num_bytes // 300 + 4096 <= image.capacity <= 1.005 * num_bytes + 2**17
    assert len(image.view) == image.capacity
    image.view[num_bytes - 1] = 7


def test_a_buffer_that_is_large_enough_stays_what_it_is(image):
    image.fit(100_000)
    image.view[5] = 7
    image.held = held = object()
    before = image.capacity
    for num_bytes in (0, 100, 100_000, before):
        image.fit(num_bytes)
    assert (image.capacity, image.view[5], image.held) == (before, 7, held)


def test_a_buffer_that_grows_forgets_what_was_mapped_onto_it_and_takes_its_memory_once(image):
    image.fit(100_000)
    maps = len(maps_of_buffers())
    image.held = torch.frombuffer(image.view, dtype=torch.uint8)
    undone = []
    image.unpin = lambda: undone.append(image.capacity)
    before = image.capacity
    image.fit(10_000_000)
    assert image.held is image.unpin is None
    assert undone == [before]
    assert image.capacity > 10_000_000
    assert len(maps_of_buffers()) == maps
    assert os.fstat(image.fd).st_size == image.capacity


@pytest.mark.skipif(LINUX < [5, 14], reason="this kernel fills pages when they are touched")
def test_all_of_its_pages_are_there_before_they_are_used(image):
    image.fit(3_000_000)
    assert os.fstat(image.fd).st_blocks * 512 >= image.capacity


def test_it_is_anonymous_and_nothing_is_left_of_it():
    before, maps = open_files(), maps_of_buffers()
    image = Image()
    image.fit(100_000)
    new = [what for number, what in open_files().items() if number not in before]
    assert all(what == "/memfd:checkpoint (deleted)" for what in new)
    assert not os.get_inheritable(image.fd)
    image.close()
    image.close()
    assert (open_files(), maps_of_buffers()) == (before, maps)
    assert image.capacity == 0


def test_what_still_looks_into_a_closed_buffer_keeps_it():
    image = Image()
    image.fit(100_000)
    image.view[5] = 7
    seen = torch.frombuffer(image.view, dtype=torch.uint8)
    image.close()
    assert seen[5] == 7


def test_no_memory_is_told_and_the_buffer_can_be_used_when_there_is_some_again(image):
    image.fit(100_000)
    with room_for(2**20), pytest.raises(MemoryError, match="No memory for a checkpoint of 3000000 bytes: File too la"):
        image.fit(3_000_000)
    assert image.capacity == 0
    image.fit(3_000_000)
    image.view[2_999_999] = 7


def test_pages_that_cannot_be_filled_are_told_and_a_kernel_that_cannot_fill_them_is_not(image, monkeypatch):
    class Map(buffers.mmap.mmap):
        errors = iter(())

        def madvise(self, *args):
            raise OSError(next(Map.errors), "refused")

    monkeypatch.setattr(buffers.mmap, "mmap", Map)
    Map.errors = iter([errno.EINVAL, errno.EINVAL])
    image.fit(1000)
    assert image.capacity
    Map.errors = iter([errno.EINVAL, errno.ENOMEM])
    with pytest.raises(MemoryError, match="No memory for a checkpoint of 3000000 bytes: refused"):
        image.fit(3_000_000)


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.EPERM])
def test_without_memfd_or_where_it_is_not_allowed_a_buffer_is_plain_memory(code, monkeypatch):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    if code is None:
        monkeypatch.delattr(os, "memfd_create")
    before = open_files()
    image = Image()
    image.fit(100_000)
    image.view[99_999] = 7
    assert image.fd == -1
    image.close()
    assert open_files() == before


@pytest.mark.parametrize("count", [1, 2])
def test_as_many_buffers_are_given_out_as_there_are(count):
    own = Images(count)
    taken = [own.take() for _ in range(count)]
    assert taken == own.all
    assert len(set(map(id, taken))) == count
    assert own.take() is None
    own.give_back(taken[-1])
    assert own.take() is taken[-1]
    assert own.take() is None
    own.close()
    assert [image.fd for image in own.all] == [-1] * count


def test_two_buffers_take_turns():
    own = Images(2)
    seen = []
    for _ in range(4):
        image = own.take()
        seen.append(own.all.index(image))
        own.give_back(image)
    own.close()
    assert seen == [0, 1, 0, 1]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc")
def test_the_free_memory_is_the_least_that_some_limit_leaves(tmp_path, monkeypatch):
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
