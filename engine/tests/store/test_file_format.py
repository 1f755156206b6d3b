"""A checkpoint is a valid zip file, for any number, size and position of its records."""

import mmap
import os
import struct
import sys
import zipfile
import zlib

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cairn.errors import CorruptCheckpointError
from cairn.store import file_format
from cairn.store.file_format import ALIGNMENT, Layout, sealed
from cairn.writing.encode import encode

FIXED = ["data.pkl", "byteorder", ".format_version", ".storage_alignment", "version"]
PARTS = st.lists(st.binary(max_size=300), max_size=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("archive") / "file.ckpt"


def tensors_of(parts):
    """One storage of bytes for each part."""
    return [torch.tensor(list(part), dtype=torch.uint8) for part in parts]


def put_together(parts, pickle):
    """The whole file in memory, without checksums."""
    layout = Layout([len(part) for part in parts])
    view = memoryview(bytearray(b"\xaa") * layout.num_bytes(len(pickle)))  # what a used buffer may hold
    layout.write_frame(view)
    fill(view, layout, parts)
    assert layout.write_tail(view, pickle) == len(view)
    return view


def fill(view, layout, parts):
    for at, part in zip(layout.offsets, parts, strict=True):
        view[at : at + len(part)] = part


def names(num_storages):
    return [f"archive/{name}" for name in [*(f"data/{number}" for number in range(num_storages)), *FIXED]]


# Small files


@given(parts=PARTS, chunk_bytes=st.integers(1, 700))
def test_zipfile_and_torch_read_the_same_content(path, parts, chunk_bytes):
    tensors = tensors_of(parts)
    path.write_bytes(b"".join(sealed(put_together(parts, encode(tensors).pickle), chunk_bytes)))
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == names(len(parts))
        assert [file.read(f"archive/data/{number}") for number in range(len(parts))] == parts
    for as_map in (False, True):
        found = torch.load(path, weights_only=True, mmap=as_map)
        assert all(torch.equal(one, other) for one, other in zip(found, tensors, strict=True))


@given(sizes=st.lists(st.integers(0, 300), max_size=8), pickle=st.binary(max_size=300))
def test_every_record_is_aligned_and_the_offsets_are_theirs(sizes, pickle):
    view = put_together([bytes(size) for size in sizes], pickle)
    places = [place for _, place in file_format._records(view)]
    assert [at % ALIGNMENT for at, _ in places] == [0] * len(places)
    assert places[: len(sizes)] == list(zip(Layout(sizes).offsets, sizes, strict=True))
    at, size = places[len(sizes)]
    assert bytes(view[at : at + size]) == pickle


@given(parts=PARTS, chunk_bytes=st.integers(1, 700))
def test_a_chunk_is_yielded_only_when_it_is_final(parts, chunk_bytes):
    view = put_together(parts, b"pickle")
    given_out = [bytes(chunk) for chunk in sealed(view, chunk_bytes)]
    assert b"".join(given_out) == bytes(view)
    assert {len(chunk) for chunk in given_out[:-1]} <= {chunk_bytes}
    assert 0 < len(given_out[-1]) <= chunk_bytes


@given(
    contents=st.integers(0, 5).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=4)),
    pickles=st.lists(st.binary(max_size=300), min_size=1, max_size=3),
)
def test_a_reused_buffer_gets_the_checksums_of_its_new_content(path, contents, pickles):
    layout = Layout([len(part) for part in contents])
    view = memoryview(bytearray(layout.num_bytes(300)))
    layout.write_frame(view)
    for turn, pickle in enumerate(pickles):
        parts = [bytes(byte ^ turn for byte in part) for part in contents]
        fill(view, layout, parts)
        path.write_bytes(b"".join(sealed(view[: layout.write_tail(view, pickle)], 64)))
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
            assert [file.read(name) for name in names(len(parts))[: len(parts) + 1]] == [*parts, pickle]


def test_header_and_central_directory_agree_except_for_the_checksum():
    view = put_together([b"abc"], b"pickle")
    assert sum(len(chunk) for chunk in sealed(view, 100)) == len(view)
    name, extra = struct.unpack_from("<2H", view, 26)
    flags, crc, *sizes = struct.unpack_from("<H6x3I", view, 6)
    after = 30 + name + extra + 3
    assert (flags & 8, crc, sizes) == (8, 0, [3, 3])
    assert struct.unpack_from("<4s3I", view, after) == (b"PK\7\10", zlib.crc32(b"abc"), 3, 3)


# Whether a file is what it was


def file_of(path, parts):
    """Write a file with these storages to `path`; return its digest."""
    view = put_together(parts, b"a pickle")
    path.write_bytes(b"".join(sealed(view, 64)))
    return file_format.digest(view)


@given(parts=PARTS, read_bytes=st.integers(1, 700))
def test_the_digest_is_the_same_in_memory_and_on_the_disk(path, parts, read_bytes):
    digest = file_of(path, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_format, "_READ_BYTES", read_bytes)
        assert file_format.read(path) == digest


@given(parts=PARTS, data=st.data())
def test_every_changed_lost_or_added_byte_is_detected(path, parts, data):
    digest, content = file_of(path, parts), bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["bit", "less", "more", "lost", "moved", "zeros", "elsewhere"]))
    if damage == "bit":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "less":
        del content[at:]
    elif damage == "more":
        content += b"\0" * (at + 1)
    elif damage in ("lost", "moved"):
        lost = content[at : at + data.draw(st.integers(1, 100))]
        assume(damage == "lost" or any(content[at:]))
        del content[at : at + len(lost)]
        content += bytes(len(lost)) if damage == "moved" else b""
    elif damage == "elsewhere":  # the directory, says the end of the file
        struct.pack_into("<I", content, len(content) - 6, at)
        assume(content != path.read_bytes())
    else:
        assume(any(content[at : at + 50]))
        content[at : at + 50] = bytes(len(content[at : at + 50]))
    path.write_bytes(content)
    try:
        assert file_format.read(path) != digest
    except CorruptCheckpointError:
        pass


@given(one=PARTS, other=PARTS)
def test_other_contents_have_another_digest(path, one, other):
    assume(one != other)
    assert file_of(path, one) != file_of(path, other)


def test_a_file_written_by_torch_is_verified(path):
    torch.save({"a": torch.arange(5), "b": [torch.ones(3, 3), "text"]}, path)
    assert file_format.read(path).startswith("crc32-sha256:")
    content = bytearray(path.read_bytes())
    at = content.index(bytes(torch.arange(5).numpy()))
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"the checksum of its record .*/data/0 does not fit"):
        file_format.read(path)


@pytest.mark.parametrize("name", ["file.ckpt", "größe.ckpt"])
def test_a_file_that_torch_cannot_read_is_rejected(tmp_path, name):
    path = tmp_path / name
    torch.save([torch.arange(3), torch.ones(2)], path)
    whole, found = path.read_bytes(), set()
    file_format.read(path)
    starts = [at for at in range(len(whole)) if whole.startswith(b"PK\3\4", at)]
    for at in [start + offset for start in starts for offset in range(4)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptCheckpointError, match="is not where the central directory says") as raised:
            file_format.read(path)
        found.add(str(raised.value))
    assert len(found) == len(starts) > 2
    at = whole.index(b"data.pkl")
    path.write_bytes(whole[:at] + b"d4t4.pkl" + whole[at + 8 :])
    with pytest.raises(CorruptCheckpointError, match=r"data\.pkl has another name in its own header"):
        file_format.read(path)


def test_a_gap_that_is_too_large_is_rejected(path):
    file_of(path, [b"one", b"two"])
    content, gap = path.read_bytes(), 2**17
    second = content.index(b"PK\3\4", 1)
    moved = bytearray(content[:second] + bytes(gap) + content[second:])
    lines = [at + 42 for at in range(len(moved)) if moved.startswith(b"PK\1\2", at)]  # where each says where it is
    for place in [*lines[1:], len(moved) - 6]:
        struct.pack_into("<I", moved, place, struct.unpack_from("<I", moved, place)[0] + gap)
    path.write_bytes(moved)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
    with pytest.raises(CorruptCheckpointError, match=r"data/1 is not where the central directory says"):
        file_format.read(path)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_disk_and_memory_errors_do_not_count_as_corruption(path, error, monkeypatch):
    def fail(file):
        raise error

    file_of(path, [b"one"])
    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(type(error)):
        file_format.read(path)


def test_a_zip_file_that_torch_would_not_write_is_rejected(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", "x" * 1000)
    with pytest.raises(
        CorruptCheckpointError, match=r"not a file that torch.save wrote \(archive/data.pkl is compressed"
    ):
        file_format.read(path)
    path.write_bytes(b"text")
    with pytest.raises(CorruptCheckpointError, match=r"not a file that torch\.save wrote"):
        file_format.read(path)


# Many records, large ones, and far ones


@pytest.mark.slow
@pytest.mark.parametrize("num_records", [0xFFFE, 0xFFFF, 0x10000])
def test_more_than_65535_records(path, num_records):
    parts = [b""] * (num_records - len(FIXED) - 1) + [b"the last"]
    view = put_together(parts, b"pickle")
    with open(path, "wb") as file:
        file.writelines(sealed(view, 2**20))
    assert sum(1 for _ in file_format._records(view)) == num_records
    assert file_format.read(path) == file_format.digest(view)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == names(len(parts))
        assert file.read(f"archive/data/{len(parts) - 1}") == b"the last"
    reader = torch._C.PyTorchFileReader(str(path))  # what torch.load reads with; a tensor for each would take seconds
    assert reader.get_record(f"data/{len(parts) - 1}") == b"the last"
    assert len(reader.get_all_records()) == num_records


GIB = 2**30
HOLE = memoryview(bytes(2**22))
LARGE = {
    "just below": [2**32 - 2, 3],
    "just not": [2**32 - 1, 3],
    "just above": [2**32, 3],
    "the directory begins before and ends behind": [2**32 - 900, 3],
    "only the directory is far": [2**32 - 1000 - 96, 3],
    "small ones that are far": [2 * GIB, 2 * GIB, 0, 5],
    "large ones that are far": [5 * GIB, 7, 4 * GIB + 5000, 9],
}


@pytest.fixture
def sparse(path):
    """A sparse file with storages of `sizes`, as a view, with its pickle."""
    opened = []

    def make(sizes):
        layout, pickle = Layout(sizes), encode([torch.empty(size, dtype=torch.uint8) for size in sizes]).pickle
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        os.truncate(handle, layout.num_bytes(len(pickle)))
        opened.append((memory := mmap.mmap(handle, 0), view := memoryview(memory)))
        os.close(handle)
        layout.write_frame(view)
        assert layout.write_tail(view, pickle) == len(view)
        return layout, view

    yield make
    for memory, view in opened:
        view.release()
        memory.close()
    path.unlink()


@pytest.mark.parametrize("sizes", LARGE.values(), ids=LARGE)
def test_records_larger_than_4_gib_and_after_4_gib(path, sparse, sizes, monkeypatch):
    layout, view = sparse(sizes)
    places = list(zip(layout.offsets, sizes, strict=True))
    for at, size in places:
        view[at : at + min(size, 9)] = b"beginning"[:size]
    monkeypatch.setattr(file_format, "crc32", checksum_without_holes)
    assert sum(len(chunk) for chunk in sealed(view, 2**22)) == len(view)
    monkeypatch.undo()
    assert [place for _, place in file_format._records(view)][: len(sizes)] == places
    with zipfile.ZipFile(path) as file:
        infos = file.infolist()
        assert [info.filename for info in infos] == names(len(sizes))
        assert [info.file_size for info in infos[: len(sizes)]] == sizes
        assert [info.compress_size for info in infos[: len(sizes)]] == sizes
        assert all(bytes(view[info.header_offset :][:4]) == b"PK\3\4" for info in infos)
        assert [file.read(name) for name in names(len(sizes))[-2:]] == [b"64", b"3\n"]
        for (at, size), info in zip(places, infos, strict=False):
            with file.open(info) as record:  # which compares the name in its header
                assert record.read(9) == b"beginning"[:size]
            assert size < SMALL or size & 0xFFFFFFFF == info.CRC
            how = "<4sI2Q" if size >= 0xFFFFFFFF else "<4s3I"
            assert struct.unpack_from(how, view, at + size) == (b"PK\7\10", info.CRC, size, size)
    monkeypatch.setattr(file_format, "_pieces", pieces_without_holes)
    monkeypatch.setattr(file_format, "crc32", checksum_without_holes)
    assert file_format.read(path) == file_format.digest(view)


SMALL = 1000


def pieces_without_holes(file, num_bytes, real=file_format._pieces):
    """Stand-in for the content of a large record: the right number of zeros, without reading."""
    if num_bytes < SMALL or num_bytes == sys.maxsize:
        yield from real(file, num_bytes)
        return
    file.seek(num_bytes, os.SEEK_CUR)
    yield from (HOLE[: min(len(HOLE), num_bytes - at)] for at in range(0, num_bytes, len(HOLE)))


def checksum_without_holes(data, crc, real=zlib.crc32):
    """Stand-in for the CRC-32 of a large record: the number of its bytes, which shows that all were seen."""
    return real(data, crc) if len(data) < SMALL else (crc + len(data)) & 0xFFFFFFFF


@pytest.mark.parametrize("sizes", LARGE.values(), ids=LARGE)
def test_torch_maps_records_larger_than_4_gib_and_after_4_gib(path, sparse, sizes):
    layout, view = sparse(sizes)
    for number, (at, size) in enumerate(zip(layout.offsets, sizes, strict=True)):
        if size:
            view[at] = view[at + size - 1] = number + 1
    found = torch.load(path, weights_only=True, mmap=True)
    assert [tensor.nbytes for tensor in found] == sizes
    ends = [(int(tensor[0]), int(tensor[-1])) for tensor in found if len(tensor)]
    assert ends == [(number + 1, number + 1) for number, size in enumerate(sizes) if size]
