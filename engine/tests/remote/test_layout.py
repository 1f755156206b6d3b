"""Names of objects are built and parsed by one module, and nothing else counts as an object of a mirror."""

import pytest
from tests.support.values import saved

from cairn.remote import layout
from cairn.remote.layout import Stem
from cairn.types import ShardFile

DIGEST = "crc32-sha256:0123456789abcdef0123456789abcdef"
STEM = Stem("epoch_000_batch_000001.ckpt", "0123456789ab")
DATA = "checkpoints/epoch_000_batch_000001.0123456789ab.ckpt"
RECORD = "checkpoints/epoch_000_batch_000001.0123456789ab.json"


def test_the_objects_of_a_single_file():
    item = saved(digest=DIGEST, num_bytes=7)
    assert layout.stem_of(item) == STEM
    assert STEM.record == RECORD
    assert layout.data_of(item) == [(DATA, "epoch_000_batch_000001.ckpt", 7)]


def test_the_objects_of_shards():
    shards = (ShardFile("rank_00000.ckpt", 3, "a"), ShardFile("rank_00001.ckpt", 4, "b"))
    assert layout.data_of(saved(digest=DIGEST, num_bytes=7, shards=shards)) == [
        (f"{DATA}/rank_00000.ckpt", "epoch_000_batch_000001.ckpt/rank_00000.ckpt", 3),
        (f"{DATA}/rank_00001.ckpt", "epoch_000_batch_000001.ckpt/rank_00001.ckpt", 4),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (DATA, (STEM, False)),
        (f"{DATA}/rank_00012.ckpt", (STEM, False)),
        (RECORD, (STEM, True)),
        (f"{DATA}/notes.txt", None),
        (f"{RECORD}/rank_00000.ckpt", None),
        ("checkpoints/epoch_000_batch_000001.ckpt", None),
        ("checkpoints/epoch_0_batch_1.0123456789ab.ckpt", None),
        ("checkpoints/epoch_000_batch_000001.0123456789AB.ckpt", None),
        ("checkpoints/last.json", None),
        ("x/" + DATA, None),
    ],
)
def test_a_name_is_parsed(name, expected):
    assert layout.parse(name) == expected


@pytest.mark.parametrize("name", ["notes.txt", "files/abc", "files/0123456789ab.txt", "checkpoints/x.ckpt", "files/"])
def test_objects_of_other_programs_are_not_ours(name):
    assert not layout.is_of_mirror(name)


def test_all_names_that_are_built_are_ours():
    built = [layout.OWNER, layout.ATTEMPT, layout.LAST, layout.BEST, layout.part_name("ab" * 32), DATA, RECORD]
    assert all(map(layout.is_of_mirror, built))


def test_stems_are_ordered_by_position():
    later = Stem("epoch_1000_batch_000000.ckpt", "0" * 12)
    assert sorted([later, STEM, Stem("epoch_999_batch_999999.ckpt", "f" * 12)])[-1] == later
