"""The layout of a checkpoint file: a zip file of uncompressed records, as `torch.save` writes it.

    offset 0     header | padding | bytes of storage 0 | descriptor (CRC-32, size)      archive/data/0
                 header | padding | bytes of storage 1 | descriptor                     archive/data/1
                 ...
    the tail     header | padding | pickle             | descriptor                     archive/data.pkl
                 header | padding | b"little"          | descriptor                     archive/byteorder
                 ... three more small records
                 central directory: one line per record (CRC-32, size, offset of its header)
                 end record: where the central directory is

The bytes of each record begin at a multiple of 64. All offsets follow from the sizes, which are known before a tensor
is copied. So the file is assembled in memory by copying tensors to their places, and the same buffer is used again for
the next checkpoint: only the bytes of the storages and the tail change. The checksums are filled in while the file is
written.

The format is PKWARE's (APPNOTE.TXT 6.3.10) with its 64-bit extension; alignment and names are those of `torch.save`.

Each byte is read once, for the CRC-32 of its record that a zip file needs anyway. The digest of a file is the SHA-256
of everything between the records, which includes these checksums. A SHA-256 of all bytes would take four times the
processor time of the whole write. The digest detects accidents, of which a CRC-32 misses one in 2**32. It does not
detect forgery: `weights_only=True` protects against that.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cairn import opening
from cairn.errors import CorruptCheckpointError
from cairn.store import zip_directory

try:
    from isal.isal_zlib import crc32  # the same result in a third of the time
except ImportError:
    from zlib import crc32

ALIGNMENT = 64
"""The bytes of every record begin at a multiple of this, so that they can be mapped as a tensor of any type."""
_DIGEST = "crc32-sha256:"
"""Prefix that says how a digest was computed; those in manifests of format 1 begin with `disk.PLAIN`."""
_READ_BYTES = 2**20
_MOST_BETWEEN = 2**16
"""Upper limit for the bytes between a record and the name of the next one; more means that a size is damaged."""
_FOLDER = "archive"
_FIXED = {
    "byteorder": sys.byteorder.encode(),
    ".format_version": b"1",
    ".storage_alignment": str(ALIGNMENT).encode(),
    "version": b"3\n",
}
"""The records that `torch.load` expects besides the pickle and the storages."""
_BEHIND = ("data.pkl", *_FIXED)
"""The records after the storages."""

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
_FLAGS = _CRC_FOLLOWS | _UTF8
_PADDING_HEAD = struct.Struct("<2H")
_DESCRIPTOR = (struct.Struct("<4s3I"), struct.Struct("<4sI2Q"))
"""What follows the bytes of a record: of a usual one, and of a large one."""
_ZEROS = bytes(ALIGNMENT)


class _Entry:
    """A record of the file, and what surrounds its bytes. A file may have very many, so that each is made quickly.

    Args:
        name: Its name.
        num_bytes: Its size.
        at: Offset of its header.

    Attributes:
        header: What precedes its bytes, padded so that they are aligned.
        descriptor: What follows its bytes; `sealed` fills in the checksum.
        central: Its line in the central directory; `sealed` fills in the checksum.
        data: Offset of its bytes.
        end: Offset of the next record.
    """

    __slots__ = ("at", "central", "data", "descriptor", "end", "header", "num_bytes")

    def __init__(self, name: bytes, num_bytes: int, at: int) -> None:
        self.num_bytes, self.at = num_bytes, at
        is_large, is_far = num_bytes >= _MOST_32, at >= _MOST_32
        version, shown = (45 if is_large or is_far else 20), (_MOST_32 if is_large else num_bytes)
        # A large record has its sizes in an extra field, and a far one its offset.
        large = struct.pack("<2H2Q", _ZIP64, 16, num_bytes, num_bytes) if is_large else b""
        padding = -(at + _LOCAL.size + len(name) + len(large) + 4) % ALIGNMENT
        extra_bytes = len(large) + 4 + padding
        common = (version, _FLAGS, 0, 0, _JANUARY_1980, 0, shown, shown, len(name))
        padded = large + _PADDING_HEAD.pack(_PADDING, padding) + _ZEROS[:padding]
        self.header = _LOCAL.pack(_LOCAL_MAGIC, *common, extra_bytes) + name + padded
        self.descriptor = _DESCRIPTOR[is_large].pack(b"PK\7\10", 0, num_bytes, num_bytes)
        wide = ([num_bytes] * 2 if is_large else []) + ([at] if is_far else [])
        extra = struct.pack(f"<2H{len(wide)}Q", _ZIP64, 8 * len(wide), *wide) if wide else b""
        fields = (b"PK\1\2", version, *common, len(extra), 0, 0, 0, 0, _MOST_32 if is_far else at)
        self.central = _CENTRAL.pack(*fields) + name + extra
        self.data = at + len(self.header)
        self.end = self.data + num_bytes + len(self.descriptor)


class Layout:
    """The offsets in a file with storages of given sizes.

    Args:
        sizes: Size of each storage, in bytes.

    Attributes:
        offsets: Offset of the bytes of each storage.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self._entries = list(_in_a_row([(f"data/{number}", size) for number, size in enumerate(sizes)], at=0))
        self.offsets = [entry.data for entry in self._entries]
        self._end = self._entries[-1].end if self._entries else 0
        self._directory = b"".join(entry.central for entry in self._entries)
        self._around_of, self._known_around = -1, (b"", b"")

    def num_bytes(self, pickle_bytes: int) -> int:
        """Size of the file with a pickle of `pickle_bytes`."""
        before, after = self._around(pickle_bytes)
        return self._end + len(before) + pickle_bytes + len(after)

    def write_frame(self, view: memoryview) -> None:
        """Write what lies between the storages: the same for every file of this layout."""
        for entry in self._entries:
            header, descriptor = entry.header, entry.descriptor
            view[entry.at : entry.at + len(header)] = header
            view[entry.end - len(descriptor) : entry.end] = descriptor

    def write_tail(self, view: memoryview, pickle: bytes) -> int:
        """Write the pickle and the central directory after the storages; return the size of the file, in bytes."""
        before, after = self._around(len(pickle))
        tail = b"".join((before, pickle, after))
        view[self._end : self._end + len(tail)] = tail
        return self._end + len(tail)

    def _around(self, pickle_bytes: int) -> tuple[bytes, bytes]:
        """What precedes a pickle, behind the storages, and all that follows it: its size seldom changes."""
        if pickle_bytes != self._around_of:
            sizes = {"data.pkl": pickle_bytes, **{name: len(data) for name, data in _FIXED.items()}}
            entries = list(_in_a_row(list(sizes.items()), self._end))
            directory = self._directory + b"".join(entry.central for entry in entries)
            closing = _end(len(self._entries) + len(entries), len(directory), entries[-1].end)
            first, *others = entries
            after = [first.descriptor]
            for entry, data in zip(others, _FIXED.values(), strict=True):
                after += [entry.header, data, entry.descriptor]
            self._around_of = pickle_bytes
            self._known_around = first.header, b"".join([*after, directory, closing])
        return self._known_around


def _in_a_row(records: Sequence[tuple[str, int]], at: int) -> Iterator[_Entry]:
    for name, size in records:
        entry = _Entry(f"{_FOLDER}/{name}".encode(), size, at)
        yield entry
        at = entry.end


def _end(count: int, num_bytes: int, at: int) -> bytes:
    """The end of a zip file, which says where the central directory is."""
    end_64 = b""
    if count >= _MOST_16 or at + num_bytes >= _MOST_32:
        end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, num_bytes, at)
        end_64 += _LOCATOR_64.pack(b"PK\6\7", 0, at + num_bytes, 1)
    few = min(count, _MOST_16)
    return end_64 + _END.pack(b"PK\5\6", 0, 0, few, few, min(num_bytes, _MOST_32), min(at, _MOST_32), 0)


def sealed(view: memoryview, chunk_bytes: int) -> Iterator[memoryview]:
    """Fill in the checksums of a file in memory, and yield its chunks in order as soon as they are final.

    Args:
        view: The whole file.
        chunk_bytes: Size of a chunk; the last may be shorter.

    Yields:
        The chunks.
    """
    given = 0
    for final in _final(view, chunk_bytes):
        while final - given >= chunk_bytes:
            yield view[given : given + chunk_bytes]
            given += chunk_bytes
    if given < len(view):
        yield view[given:]


def _final(view: memoryview, step_bytes: int) -> Iterator[int]:
    """Fill in the checksums; yield repeatedly the offset up to which the file is final."""
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
    """Digest of a file in memory with all checksums filled in: what `read` returns when the file is on the disk."""
    frame, at = hashlib.sha256(), 0
    for _, (data, size) in _records(view):
        frame.update(view[at:data])
        at = data + size
    frame.update(view[at:])
    return _DIGEST + frame.hexdigest()


def read(path: Path) -> str:
    """Read a file, and compare each record with its checksum.

    Args:
        path: The file.

    Returns:
        The digest of the file.

    Raises:
        CorruptCheckpointError: A record differs from its checksum, or this is not a zip file of uncompressed records.
        OSError: The file cannot be read.
    """
    with opening.for_reading(path) as file:
        frame = hashlib.sha256()
        records = _listed(file)
        for record in records:
            frame.update(_before(file, record))
            crc = 0
            for piece in _pieces(file, record.file_size):
                crc = crc32(piece, crc)
            if crc != record.CRC:
                raise CorruptCheckpointError(f"the checksum of its record {record.filename} does not fit")
        for piece in _pieces(file, sys.maxsize):
            frame.update(piece)
        zip_directory.check(file, records)
    return _DIGEST + frame.hexdigest()


def located(view: memoryview) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Find the storages and the pickle in a file of this format.

    Args:
        view: The whole file.

    Returns:
        Offset and size of each storage, in bytes, in the order of their numbers; and those of the pickle.

    Raises:
        CorruptCheckpointError: It has other records than a `Layout`, or they are elsewhere.
    """
    count, start = _directory(view)
    storages: list[tuple[int, int]] = []
    line, end = start, 0
    behind: list[tuple[int, int]] = []
    for number in range(count):
        name = f"{_FOLDER}/data/{number}" if number < count - len(_BEHIND) else f"{_FOLDER}/{_BEHIND[number - count]}"
        entry = _Entry(name.encode(), _size_in(view, line), end)
        if not _same_but_for_crc(view[line : line + len(entry.central)], entry.central, 16):
            raise CorruptCheckpointError(f"{name} is not where it should be")
        if view[end : end + len(entry.header)] != entry.header:
            raise CorruptCheckpointError(f"{name} has another header")
        (behind if number >= count - len(_BEHIND) else storages).append((entry.data, entry.num_bytes))
        line, end = line + len(entry.central), entry.end
    if end != start or view[line:] != _end(count, line - start, start) or len(behind) != len(_BEHIND):
        raise CorruptCheckpointError("it has other records than a checkpoint of Cairn")
    if [bytes(view[first : first + size]) for first, size in behind[1:]] != [*_FIXED.values()]:
        raise CorruptCheckpointError("it was written in another byte order or version of the format")
    return storages, behind[0]


def _size_in(view: memoryview, line: int) -> int:
    """Size of the record that a line of the central directory is about."""
    size, name_bytes = struct.unpack_from("<I", view, line + 24)[0], struct.unpack_from("<H", view, line + 28)[0]
    return struct.unpack_from("<Q", view, line + _CENTRAL.size + name_bytes + 4)[0] if size == _MOST_32 else size


def _same_but_for_crc(one: memoryview, other: bytes, at: int) -> bool:
    return one[:at] == other[:at] and one[at + 4 :] == other[at + 4 :]


def _listed(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The records in the order of the file, which is positioned at its beginning."""
    try:
        records = zipfile.ZipFile(file).infolist()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises many types for a damaged file
        raise CorruptCheckpointError(f"it is not a file that torch.save wrote ({error})") from error
    if compressed := [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]:
        raise CorruptCheckpointError(f"it is not a file that torch.save wrote ({compressed[0]} is compressed)")
    file.seek(0)
    return sorted(records, key=lambda record: record.header_offset)


def _before(file: BinaryIO, record: zipfile.ZipInfo) -> bytes:
    """Read from the current position up to the bytes of a record."""
    num_bytes = record.header_offset + _LOCAL.size - file.tell()
    before = file.read(num_bytes) if _LOCAL.size <= num_bytes <= _MOST_BETWEEN else b""
    header = before[-_LOCAL.size :]
    if len(header) < _LOCAL.size or len(before) < num_bytes or not header.startswith(_LOCAL_MAGIC):
        raise CorruptCheckpointError(f"{record.filename} is not where the central directory says")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    name, extra = file.read(name_bytes), file.read(extra_bytes)
    if name.decode("utf-8" if record.flag_bits & _UTF8 else "cp437", "replace") != record.orig_filename:
        raise CorruptCheckpointError(f"{record.filename} has another name in its own header")
    return before + name + extra


def _pieces(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Read the next `num_bytes` in pieces; less if the file ends before."""
    while num_bytes and (piece := file.read(min(_READ_BYTES, num_bytes))):
        num_bytes -= len(piece)
        yield piece


def _records(view: memoryview) -> Iterator[tuple[int, tuple[int, int]]]:
    """For each record: the offset of its line in the central directory, and the offset and number of its bytes."""
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
    """Number of records, and offset of the central directory."""
    end = len(view) - _END.size
    *_, count, _, at, _ = _END.unpack_from(view, end)
    if count == _MOST_16 or at == _MOST_32:
        (where,) = struct.unpack_from("<Q", view, end - _LOCATOR_64.size + 8)
        *_, count, _, at = _END_64.unpack_from(view, where)
    return count, at
