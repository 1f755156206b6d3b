"""A record reads back as written, and any other content is refused."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import saved

from cairn.errors import CheckpointError, CorruptCheckpointError, NewerFormatError
from cairn.remote import layout, record
from cairn.remote.record import Part, RunFile
from cairn.store import manifest

SHA = hashlib.sha256(b"abc").hexdigest()
ITEM = saved(digest="crc32-sha256:0123456789abcdef", num_bytes=10)
TEXT = manifest.dump(ITEM, {"world_size": 1})
FILE = RunFile("csv/metrics.csv", 3, SHA, (Part("files/0123456789ab", 1), Part("files/ba9876543210", 2)))


def edited(**fields):
    """A valid record with other fields."""
    content = json.loads(record.dump(TEXT, [FILE]))
    del content["checksum"]
    content.update(fields)
    return json.dumps({**content, "checksum": record._checksum(content)}).encode()


def of_file(**fields):
    return edited(files=[{**json.loads(record.dump(TEXT, [FILE]))["files"][0], **fields}])


def test_a_record_reads_back_as_written():
    found = record.load(record.dump(TEXT, [FILE]), layout.stem_of(ITEM))
    assert (found.manifest, found.saved, found.files) == (TEXT, ITEM, (FILE,))
    assert found.objects() == {
        "checkpoints/epoch_000_batch_000001.0123456789ab.json",
        "checkpoints/epoch_000_batch_000001.0123456789ab.ckpt",
        "files/0123456789ab",
        "files/ba9876543210",
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b'{"format": 1}',
        record.dump(TEXT, [FILE]).replace(b"metrics.csv", b"metricz.csv"),
        edited(manifest=3),
        edited(manifest="{}"),
        edited(files=None),
        edited(more=1),
        of_file(path="/etc/passwd"),
        of_file(path="../../x"),
        of_file(path="a//b"),
        of_file(path=""),
        of_file(path="a\0b"),
        of_file(num_bytes=-1),
        of_file(num_bytes=4),
        of_file(digest="abc"),
        of_file(parts=[{"object": "../owner.json", "num_bytes": 3}]),
        of_file(parts=[{"object": "files/0123456789ab", "num_bytes": -3}]),
    ],
)
def test_another_content_is_refused(data):
    with pytest.raises(CorruptCheckpointError):
        record.load(data)


def test_a_record_of_a_later_version_is_named_as_such():
    with pytest.raises(NewerFormatError, match="update Cairn"):
        record.load(edited(format=2))


def test_a_record_under_another_name_is_refused():
    with pytest.raises(CorruptCheckpointError, match="belongs to"):
        record.load(record.dump(TEXT, []), layout.Stem(ITEM.name, "f" * 12))


@given(st.binary(max_size=200), st.integers(0, 500))
def test_damage_is_an_error_of_the_library_and_nothing_else(noise, at):
    good = record.dump(TEXT, [FILE])
    data = good[:at] + noise + good[at + len(noise) :]
    try:
        assert record.load(data).saved == ITEM
    except CheckpointError:
        pass
