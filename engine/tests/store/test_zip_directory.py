"""What `cairn verify` calls intact without a manifest is what plain `torch.load` reads."""

import struct
import zipfile

import pytest
import torch

from cairn.errors import CorruptCheckpointError
from cairn.store import audit, file_format


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {"w": torch.arange(5.0)}}, path)
    return path


def entries(data):
    """Offsets of the entries of the directory."""
    at = data.index(b"PK\1\2")
    while data[at : at + 4] == b"PK\1\2":
        yield at
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))


def changed(path, at, form, value):
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("field", "form", "value", "why"),
    [
        (38, "<I", 0x10, "it is marked as a directory"),
        (38, "<I", 0xFFFFFFFF, "it is marked as a directory"),
        (8, "<H", 1, "flags 0x1|encrypted"),
        (8, "<H", 0x2000, "flags|encrypted"),
        (20, "<I", 7, "sizes"),
        (34, "<H", 1, "another kind of zip file"),
        (6, "<H", 99, "another kind of zip file|not a file that torch.save wrote"),
    ],
)
def test_a_changed_entry_is_found(file, field, form, value, why):
    changed(file, [*entries(file.read_bytes())][3] + field, form, value)
    finding = audit.check_file(file)
    assert finding.state == "broken"
    with pytest.raises(CorruptCheckpointError, match=why):
        file_format.read(file)


def test_every_bit_of_the_directory_is_checked_or_does_not_matter(file):
    data, expected = file.read_bytes(), torch.load(file, weights_only=True)["state_dict"]["w"]
    *_, last = entries(data)
    num_accepted = 0
    for at in [*range(8 * last, 8 * (last + 46)), *range(8 * (len(data) - 98), 8 * len(data))]:
        bits = bytearray(data)
        bits[at // 8] ^= 1 << at % 8
        file.write_bytes(bits)
        try:
            file_format.read(file)
        except CorruptCheckpointError:
            continue
        num_accepted += 1
        assert torch.equal(torch.load(file, weights_only=True)["state_dict"]["w"], expected)
    assert 0 < num_accepted < 500, "dates and versions do not matter"


def test_a_file_that_another_program_packed_again_is_intact(file, tmp_path):
    again = tmp_path / "again.pt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(again, "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert audit.check_file(again).state == "whole"


def test_something_behind_the_end_is_found(file):
    file.write_bytes(file.read_bytes() + b"more")
    assert audit.check_file(file).state == "broken"
