"""The bytes of a checkpoint file: a zip of stored records as `torch.load` reads it, how they are laid out and verified.

Where each byte goes depends on the sizes alone, and is known before a tensor is copied. So the file is put together in
memory by copying tensors to their places, as often as wanted into the same buffer; the checksums of the records are
filled in on the way to the disk.
The format is PKWARE's (APPNOTE.TXT 6.3.10) with its 64-bit extension; alignment and names are those of `torch.save`.

A byte is looked at once, for the CRC-32 of its record that a zip file holds anyway. The digest of a file is the SHA-256
of the rest, those checksums among it: one of everything would take a processor four times as long as all else that a
write does. It is there to find accidents, of which a CRC-32 misses one in 2**32. It finds no forgery: from that only
`weights_only` protects.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from cairn.errors import CorruptCheckpointError

try:
    from isal.isal_zlib import crc32  # the same number in a third of the time
except ImportError:
    from zlib import crc32

ALIGNMENT = 64
"""Every record begins at a multiple of this, in bytes, so that it can be mapped as a tensor of any type."""
_DIGEST = "crc32-sha256:"
"""How a digest was made. Those of format 1 begin with `disk.PLAIN`."""
_READ_BYTES = 2**20  # at a time
_MOST_BETWEEN = 2**16
"""Bytes from the end of a record to where the name of the next one begins: they are few, or a number is damaged."""
_FOLDER = "archive"
_FIXED = {
    "byteorder": sys.byteorder.encode(),
    ".format_version": b"1",
    ".storage_alignment": str(ALIGNMENT).encode(),
    "version": b"3\n",
}
"""What `torch.load` asks for beside the pickle and the storages."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_LOCAL_MAGIC = b"PK\3\4"
_CRC_FOLLOWS = 0x0008
_UTF8 = 0x0800
_JANUARY_1980 = 0x0021
_MOST_32, _MOST_16 = 0xFFFFFFFF, 0xFFFF
_PADDING, _ZIP64 = 0x4246, 0x0001  # ids of extra fields; the first is the one that torch pads with


@dataclass(frozen=True)
class _Entry:
    """A record in the file."""

    name: bytes
    num_bytes: int
    at: int
    """Where its header is."""

    @property
    def large(self) -> bool:
        return self.num_bytes >= _MOST_32

    @property
    def _version(self) -> int:
        return 45 if self.large or self.at >= _MOST_32 else 20

    @property
    def _sizes(self) -> tuple[int, int]:
        """Compressed and not; for a large one they stand in the extra field."""
        return (_MOST_32, _MOST_32) if self.large else (self.num_bytes, self.num_bytes)

    @cached_property
    def header(self) -> bytes:
        """What comes before its bytes, padded so that they are aligned."""
        large = struct.pack("<2H2Q", _ZIP64, 16, self.num_bytes, self.num_bytes) if self.large else b""
        used = self.at + _LOCAL.size + len(self.name) + len(large) + 4
        padding = -used % ALIGNMENT
        extra = large + struct.pack("<2H", _PADDING, padding) + bytes(padding)
        flags, when = _CRC_FOLLOWS | _UTF8, (0, _JANUARY_1980)
        fields = (_LOCAL_MAGIC, self._version, flags, 0, *when, 0, *self._sizes, len(self.name), len(extra))
        return _LOCAL.pack(*fields) + self.name + extra

    @cached_property
    def descriptor(self) -> bytes:
        """What comes after its bytes; the checksum is still to be filled in."""
        return struct.pack("<4sI2Q" if self.large else "<4s3I", b"PK\7\10", 0, self.num_bytes, self.num_bytes)

    @property
    def central(self) -> bytes:
        """Its line in the directory at the end; the checksum is still to be filled in."""
        far = self.at >= _MOST_32
        wide = ([self.num_bytes] * 2 if self.large else []) + ([self.at] if far else [])
        extra = struct.pack(f"<2H{len(wide)}Q", _ZIP64, 8 * len(wide), *wide) if wide else b""
        flags, when, at = _CRC_FOLLOWS | _UTF8, (0, _JANUARY_1980), _MOST_32 if far else self.at
        sizes = (*self._sizes, len(self.name), len(extra))
        fields = (b"PK\1\2", self._version, self._version, flags, 0, *when, 0, *sizes, 0, 0, 0, 0, at)
        return _CENTRAL.pack(*fields) + self.name + extra

    @property
    def data(self) -> int:
        """Where its bytes are."""
        return self.at + len(self.header)

    @cached_property
    def end(self) -> int:
        """Where the next record may begin."""
        return self.data + self.num_bytes + len(self.descriptor)


class Layout:
    """Where each storage goes in a file that holds storages of these sizes, in bytes.

    Attributes:
        offsets: where the bytes of each storage are.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self._entries = list(_in_a_row([(f"data/{number}", size) for number, size in enumerate(sizes)], at=0))
        self.offsets = [entry.data for entry in self._entries]
        self._end = self._entries[-1].end if self._entries else 0
        self._directory = b"".join(entry.central for entry in self._entries)

    def num_bytes(self, pickle_bytes: int) -> int:
        """The size of the file with a pickle of this size."""
        entries = self._behind(pickle_bytes)
        directory = len(self._directory) + sum(len(entry.central) for entry in entries)
        return entries[-1].end + directory + len(self._closing(entries, directory))

    def write_frame(self, view: memoryview) -> None:
        """Put down what is between the storages: the same for every file of this layout."""
        for entry in self._entries:
            header, descriptor = entry.header, entry.descriptor
            view[entry.at : entry.at + len(header)] = header
            view[entry.end - len(descriptor) : entry.end] = descriptor

    def write_tail(self, view: memoryview, pickle: bytes) -> int:
        """Put down the pickle and the directory behind the storages; returns the size of the file, in bytes."""
        tail = self._tail(pickle)
        view[self._end : self._end + len(tail)] = tail
        return self._end + len(tail)

    def _tail(self, pickle: bytes) -> bytes:
        entries, parts = self._behind(len(pickle)), []
        for entry, data in zip(entries, (pickle, *_FIXED.values()), strict=True):
            parts += [entry.header, data, entry.descriptor]
        directory = self._directory + b"".join(entry.central for entry in entries)
        return b"".join([*parts, directory, self._closing(entries, len(directory))])

    def _behind(self, pickle_bytes: int) -> list[_Entry]:
        """The records behind the storages."""
        sizes = {"data.pkl": pickle_bytes, **{name: len(data) for name, data in _FIXED.items()}}
        return list(_in_a_row(list(sizes.items()), self._end))

    def _closing(self, behind: Sequence[_Entry], directory_bytes: int) -> bytes:
        return _end(len(self._entries) + len(behind), directory_bytes, behind[-1].end)


def _in_a_row(records: Sequence[tuple[str, int]], at: int) -> Iterator[_Entry]:
    for name, size in records:
        entry = _Entry(f"{_FOLDER}/{name}".encode(), size, at)
        yield entry
        at = entry.end


def _end(count: int, num_bytes: int, at: int) -> bytes:
    """What ends a zip file: where its directory is, of how many records and bytes."""
    end_64 = b""
    if count >= _MOST_16 or at + num_bytes >= _MOST_32:
        end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, num_bytes, at)
        end_64 += _LOCATOR_64.pack(b"PK\6\7", 0, at + num_bytes, 1)
    few = min(count, _MOST_16)
    return end_64 + _END.pack(b"PK\5\6", 0, 0, few, few, min(num_bytes, _MOST_32), min(at, _MOST_32), 0)


def sealed(view: memoryview, chunk_bytes: int) -> Iterator[memoryview]:
    """Fill in the checksums of a file in memory, and give it out in order, each chunk when nothing in it will change.

    Args:
        view: the whole file.
        chunk_bytes: the size of a chunk (the last may be shorter).
    """
    given = 0
    for final in _final(view, chunk_bytes):
        while final - given >= chunk_bytes:
            yield view[given : given + chunk_bytes]
            given += chunk_bytes
    if given < len(view):
        yield view[given:]


def _final(view: memoryview, step_bytes: int) -> Iterator[int]:
    """Up to where the file is final: after each piece of a record, and at last with the directory."""
    for at, (data, size) in _records(view):
        crc = 0
        for start in range(data, data + size, step_bytes):
            end = min(start + step_bytes, data + size)
            crc = crc32(view[start:end], crc)
            yield end
        struct.pack_into("<I", view, data + size + 4, crc)
        struct.pack_into("<I", view, at + 16, crc)
    yield len(view)


def digest(view: memoryview) -> str:
    """Of a file in memory, when its checksums are filled in; the same as `read` returns when it is on the disk."""
    frame, at = hashlib.sha256(), 0
    for _, (data, size) in _records(view):
        frame.update(view[at:data])
        at = data + size
    frame.update(view[at:])
    return _DIGEST + frame.hexdigest()


def read(path: Path) -> str:
    """Read all of a file, and compare each record with its checksum; returns its digest.

    Raises:
        CorruptCheckpointError: a record is not what it was, or this is not a zip file of stored records.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        frame = hashlib.sha256()
        for record in _listed(file):
            frame.update(_before(file, record))
            crc = 0
            for piece in _pieces(file, record.file_size):
                crc = crc32(piece, crc)
            if crc != record.CRC:
                raise CorruptCheckpointError(f"the checksum of {record.filename} in it does not fit")
        for piece in _pieces(file, sys.maxsize):
            frame.update(piece)
    return _DIGEST + frame.hexdigest()


def _listed(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The records, in the order in which they lie in the file, whose beginning is to be read next."""
    try:
        records = zipfile.ZipFile(file).infolist()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # it raises many kinds for what is not as it should be
        raise CorruptCheckpointError(f"it is not a file that torch.save wrote ({error})") from error
    if compressed := [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]:
        raise CorruptCheckpointError(f"it is not a file that torch.save wrote ({compressed[0]} is compressed)")
    file.seek(0)
    return sorted(records, key=lambda record: record.header_offset)


def _before(file: BinaryIO, record: zipfile.ZipInfo) -> bytes:
    """Read on, up to where the bytes of a record begin."""
    num_bytes = record.header_offset + _LOCAL.size - file.tell()
    before = file.read(num_bytes) if _LOCAL.size <= num_bytes <= _MOST_BETWEEN else b""
    header = before[-_LOCAL.size :]
    if len(header) < _LOCAL.size or len(before) < num_bytes or not header.startswith(_LOCAL_MAGIC):
        raise CorruptCheckpointError(f"{record.filename} is not where its directory says")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    name, extra = file.read(name_bytes), file.read(extra_bytes)
    if name.decode("utf-8" if record.flag_bits & _UTF8 else "cp437", "replace") != record.orig_filename:
        raise CorruptCheckpointError(f"{record.filename} has another name where it begins")
    return before + name + extra


def _pieces(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Read on; less if the file ends before."""
    while num_bytes and (piece := file.read(min(_READ_BYTES, num_bytes))):
        num_bytes -= len(piece)
        yield piece


def _records(view: memoryview) -> Iterator[tuple[int, tuple[int, int]]]:
    """For each record, in the order of the file: where its line in the directory is, where its bytes are, how many."""
    count, at = _directory(view)
    for _ in range(count):
        fields = _CENTRAL.unpack_from(view, at)
        size, name, extra, header = fields[9], fields[10], fields[11], fields[16]
        wide = at + _CENTRAL.size + name + 4
        if size == _MOST_32:
            (size,) = struct.unpack_from("<Q", view, wide)
            wide += 16
        if header == _MOST_32:
            (header,) = struct.unpack_from("<Q", view, wide)
        local_name, local_extra = struct.unpack_from("<2H", view, header + 26)
        yield at, (header + _LOCAL.size + local_name + local_extra, size)
        at += _CENTRAL.size + name + extra


def _directory(view: memoryview) -> tuple[int, int]:
    """How many records there are, and where the directory begins."""
    end = len(view) - _END.size
    *_, count, _, at, _ = _END.unpack_from(view, end)
    if count == _MOST_16 or at == _MOST_32:
        (where,) = struct.unpack_from("<Q", view, end - _LOCATOR_64.size + 8)
        *_, count, _, at = _END_64.unpack_from(view, where)
    return count, at
