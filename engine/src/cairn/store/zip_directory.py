"""Checks the central directory and the end of a zip file, where no checksum looks.

`zipfile` takes from it what it needs and ignores the rest. torch reads it with another library, which looks at other
fields: with the bit "is a directory" of a record set, `torch.load` reads uninitialised memory as weights.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

from cairn.errors import CorruptCheckpointError

_KNOWN_FLAGS = 0x0808
"""Sizes follow the bytes; names are UTF-8. Any other flag means encryption, or a form that torch does not read."""
_IS_DIRECTORY = 0x10
_NEWEST_VERSION = 45
_LENGTHS_AT, _ENTRY_BYTES = 28, 46
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_MOST_32, _MOST_16 = 0xFFFFFFFF, 0xFFFF


def check(file: BinaryIO, records: Sequence[zipfile.ZipInfo]) -> None:
    """Check what `zipfile` has read from a file, and what it has not.

    Args:
        file: The file; its position changes.
        records: Its records.

    Raises:
        CorruptCheckpointError: torch would read something else, or fail.
    """
    for record in records:
        if why := _why_odd(record):
            raise CorruptCheckpointError(f"the directory entry of its record {record.filename} is damaged ({why})")
    if why := _why_odd_end(file, len(records)):
        raise CorruptCheckpointError(f"the end of its directory is damaged ({why})")


def _why_odd(record: zipfile.ZipInfo) -> str:
    if record.external_attr & _IS_DIRECTORY or record.filename.endswith("/"):
        return "it is marked as a directory"
    if record.flag_bits & ~_KNOWN_FLAGS:
        return f"flags {record.flag_bits:#x}"
    if record.compress_size != record.file_size:
        return f"sizes {record.compress_size} and {record.file_size}"
    if record.volume or record.extract_version > _NEWEST_VERSION or record.comment:
        return "another kind of zip file"
    return ""


def _why_odd_end(file: BinaryIO, num_records: int) -> str:
    """Return what is wrong with the end record, which says where the directory is; empty if nothing is."""
    num_bytes = file.seek(0, os.SEEK_END)
    most = _END.size + _LOCATOR_64.size + _END_64.size
    start = max(0, num_bytes - most)
    file.seek(start)
    tail = file.read(most)
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        return "something follows it"
    _, disk, first_disk, on_disk, total, size, at, comment = _END.unpack(end)
    numbers = (total, size, at)
    here = num_bytes - _END.size
    locator = tail[: -_END.size][-_LOCATOR_64.size :]
    if locator.startswith(b"PK\6\7"):
        here = num_bytes - most
        _, locator_disk, where, disks = _LOCATOR_64.unpack(locator)
        if len(tail) < most or not tail.startswith(b"PK\6\6") or (locator_disk, where, disks) != (0, here, 1):
            return "its two parts do not fit"
        _, length, _, _, *disks_64, on_disk_64, total_64, size_64, at_64 = _END_64.unpack(tail[: _END_64.size])
        if length != _END_64.size - 12 or any(disks_64) or on_disk_64 != total_64:
            return "its long form is not that of one file"
        for short, long, sentinel in zip(numbers, (total_64, size_64, at_64), (_MOST_16, *[_MOST_32] * 2), strict=True):
            if short not in (sentinel, long):
                return "its two parts do not fit"
        numbers = (total_64, size_64, at_64)
    if disk or first_disk or comment or on_disk != total:
        return "it is not that of one file"
    if numbers[0] != num_records or numbers[1] + numbers[2] != here:
        return "it does not end where the directory ends"
    file.seek(numbers[2])
    return "" if _fills(file.read(numbers[1]), num_records) else "an entry is longer than the directory"


def _fills(directory: bytes, num_records: int) -> bool:
    """Return whether the entries, by the lengths of their parts, fill the directory."""
    at = 0
    for _ in range(num_records):
        if at + _ENTRY_BYTES > len(directory):
            return False
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + _LENGTHS_AT))
    return at == len(directory)
