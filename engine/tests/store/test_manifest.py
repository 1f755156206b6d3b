"""A manifest reads back as written, and other content is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import saved

from cairn.errors import CairnError, CorruptCheckpointError
from cairn.store import manifest
from cairn.types import Position, Saved, ShardFile

COUNTS = st.integers(min_value=0, max_value=2**53)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SAVED = st.builds(
    Saved,
    name=st.text(max_size=20),
    position=st.builds(Position, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    number=COUNTS,
    reasons=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    score=st.none() | FINITE,
    metrics=st.dictionaries(st.text(max_size=8), FINITE, max_size=3),
    run=st.text(max_size=8),
    elapsed_s=FINITE,
    num_bytes=COUNTS,
    digest=st.text(max_size=8),
    stall_s=FINITE,
    write_s=st.just(0.0) | st.floats(min_value=1e-9, max_value=1e9),
    created=st.text(max_size=8),
    interval_batches=st.none() | COUNTS,
    overhead=st.none() | FINITE,
    skipped=COUNTS,
    wait_s=FINITE,
    monitor=st.none() | st.text(max_size=8),
)
SHARDS = (ShardFile("rank_00000.ckpt", 100, "crc32-sha256:a"), ShardFile("rank_00001.ckpt", 50, "crc32-sha256:b"))
PROVENANCE = {"world_size": 1, "seed": 0, "git": "abc+", "torch": "2.13.0"}


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


MISSING = object()


def edited(**fields):
    """A valid manifest with changed or missing fields."""
    content = {**json.loads(manifest.dump(saved(), PROVENANCE)), **fields}
    del content["checksum"]
    content = {key: value for key, value in content.items() if value is not MISSING}
    return json.dumps({**content, "checksum": manifest._checksum(content)})


def of_format_1(item):
    """A manifest of format 1, whose digest is a SHA-256 of all bytes."""
    content = json.loads(manifest.dump(item, PROVENANCE))
    del content["digest"], content["checksum"]
    return {**content, "format": 1, "sha256": item.digest.removeprefix("sha256:")}


def test_format_1_is_read():
    item = saved(score=0.5, digest="sha256:abc")
    content = of_format_1(item)
    assert manifest.load(json.dumps({**content, "checksum": manifest._checksum(content)})) == item


def test_a_manifest_without_a_checksum_is_read():
    item = saved(score=0.5, digest="sha256:abc")
    assert manifest.load(json.dumps(of_format_1(item))) == item


@pytest.mark.parametrize("field", ["score", "number", "num_bytes"])
def test_a_changed_field_is_detected(field):
    content = json.loads(manifest.dump(saved(score=0.5), PROVENANCE))
    with pytest.raises(CorruptCheckpointError, match="was changed after it was written: its checksum differs"):
        manifest.load(json.dumps({**content, field: 7}))


@given(SAVED)
def test_a_manifest_reads_back_as_written(item):
    assert manifest.load(manifest.dump(item, PROVENANCE)) == item


@given(SAVED)
def test_a_manifest_is_strict_json(item):
    fields = json.loads(manifest.dump(item, PROVENANCE), parse_constant=refuse)
    assert fields["format"] == 2, "earlier versions read single files"
    assert "shards" not in fields
    assert fields["position"]["total_batches"] == item.position.total_batches
    assert fields["provenance"] == PROVENANCE
    assert (fields["bytes_per_s"] is None) == (item.write_s == 0)


def sharded(shards=SHARDS, **fields):
    """The manifest of a directory of shards."""
    facts = {"num_bytes": sum(item.num_bytes for item in shards), "digest": manifest.digest_of(shards)}
    return saved(shards=shards, **{**facts, **fields})


def test_a_manifest_of_shards_has_format_3_and_reads_back_as_written():
    text = manifest.dump(sharded(), PROVENANCE)
    assert json.loads(text)["format"] == 3
    assert manifest.load(text) == sharded()


@pytest.mark.parametrize(
    "item",
    [
        sharded(num_bytes=151),
        sharded(digest="shards-sha256:0"),
        sharded(SHARDS[1:]),
        sharded(SHARDS[::-1]),
        sharded((SHARDS[0], SHARDS[0])),
        sharded((SHARDS[0], ShardFile("../rank_00001.ckpt", 50, "b"))),
        sharded((ShardFile("rank_00000.ckpt", -1, "a"),)),
    ],
    ids=str,
)
def test_a_list_of_shards_that_is_not_complete_is_refused(item):
    with pytest.raises(CorruptCheckpointError, match="manifest cannot be read"):
        manifest.load(manifest.dump(item, PROVENANCE))


@pytest.mark.parametrize("fields", [{"format": 3}, {"shards": [], "format": 3}, {"shards": [{"name": "a"}]}], ids=str)
def test_a_format_that_does_not_fit_the_shards_is_refused(fields):
    with pytest.raises(CorruptCheckpointError, match="manifest cannot be read"):
        manifest.load(edited(**fields))


def test_a_manifest_has_the_write_speed():
    fields = json.loads(manifest.dump(saved(num_bytes=3_000_000, write_s=0.5), PROVENANCE))
    assert fields["bytes_per_s"] == 6_000_000


def test_a_manifest_is_indented():
    lines = manifest.dump(saved(), PROVENANCE).splitlines()
    assert len(lines) > 10
    assert '  "name": "epoch_000_batch_000001.ckpt",' in lines


@pytest.mark.parametrize("text", [edited(format=4), '{"format": 4, "all": "new"}'])
def test_a_later_format_is_refused_by_its_number(text):
    with pytest.raises(CairnError, match=r"format 4, and this version of Cairn reads up to 3"):
        manifest.load(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "no json",
        "\0\0\0\0",
        "[]",
        "null",
        "3",
        '"text"',
        "{}",
        '{"format": 1}',
        '{"format": 2}',
        edited(format=1),
        edited(digest=MISSING, sha256="abc"),
        edited(format=MISSING),
        edited(format="new"),
        edited(provenance=MISSING),
        edited(position=MISSING),
        edited(position={"epoch": 0}),
        edited(position=[0, 1]),
        edited(position={"epoch": 0, "batch": 1, "parsecs": 2}),
        edited(name=MISSING),
        edited(reasons=3),
        edited(surprise=1),
        manifest.dump(saved(), PROVENANCE)[:-20],
    ],
)
def test_other_content_is_refused(text):
    with pytest.raises(CorruptCheckpointError, match="manifest cannot be read"):
        manifest.load(text)


def test_a_manifest_from_before_telemetry_is_read():
    item = saved(digest="sha256:abc")
    content = of_format_1(item)
    for name in ("interval_batches", "overhead", "skipped", "wait_s"):
        del content[name]
    assert manifest.load(json.dumps(content)) == item
