"""Which checkpoints are committed, why others are not, and which is the newest intact one."""

import errno
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.values import DAMAGES, at, commit, flip_byte, names_of, saved

from cairn.errors import CorruptCheckpointError
from cairn.store import disk, file_format, manifest, names
from cairn.store.catalog import Catalog, describe, verify

VISIBLE = {
    name: damage for name, damage in DAMAGES.items() if name not in ("one flipped byte", "bytes that moved")
}  # without reading the file


@pytest.fixture
def three(tmp_path):
    """A directory with three checkpoints, and these checkpoints."""
    return tmp_path, [commit(tmp_path, number, score=0.5) for number in range(3)]


def whys(rejected):
    return {item.path.name: item.why for item in rejected}


def test_committed_checkpoints_are_listed_oldest_first(three):
    directory, items = three
    assert Catalog(directory).committed() == items
    assert Catalog(directory).rejected() == []


def test_the_order_is_that_of_positions_and_not_of_names_or_file_times(tmp_path):
    places = [at(2, epoch=1000, total=4), at(10**6, epoch=2, total=3), at(7, epoch=2, total=2), at(9, epoch=0)]
    for number, position in enumerate(places):
        commit(tmp_path, number, position=position)
    assert [item.position for item in Catalog(tmp_path).committed()] == sorted(places)


@pytest.mark.parametrize("missing", ["", "not/there"])
def test_an_empty_or_missing_directory_has_no_checkpoints(tmp_path, missing):
    catalog = Catalog(tmp_path / missing)
    assert (catalog.committed(), catalog.rejected(), catalog.newest_intact()) == ([], [], (None, []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", VISIBLE)
@pytest.mark.parametrize("index", range(3))
def test_a_damaged_checkpoint_is_rejected_with_the_reason(three, damage, index):
    directory, items = three
    broken = items[index].name
    VISIBLE[damage][0](directory, broken)
    (item,) = Catalog(directory).rejected()
    assert item.path == directory / broken
    assert VISIBLE[damage][1] in item.why
    assert names_of(Catalog(directory).committed()) == [name for name in names_of(items) if name != broken]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_the_newest_intact(three, damage):
    directory, items = three
    break_it, why = DAMAGES[damage]
    break_it(directory, items[2].name)
    found, rejected = Catalog(directory).newest_intact()
    assert found == items[1]
    assert [item.path.name for item in rejected] == [items[2].name]
    assert why in rejected[0].why


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_older_checkpoints_does_not_matter(three, damage):
    directory, items = three
    DAMAGES[damage][0](directory, items[0].name)
    DAMAGES[damage][0](directory, items[1].name)
    assert Catalog(directory).newest_intact() == (items[2], [])


@settings(max_examples=15)
@given(st.lists(st.sampled_from([None, *DAMAGES]), max_size=4))
def test_the_newest_intact_is_the_last_undamaged(damages):
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for number, damage in enumerate(damages):
            item = commit(directory, number)
            if damage is not None:
                DAMAGES[damage][0](directory, item.name)
        whole = [number for number, damage in enumerate(damages) if damage is None][-1:]
        found, rejected = Catalog(directory).newest_intact()
        assert (found.number if found else None) == (whole[0] if whole else None)
        newer = range(whole[0] + 1 if whole else 0, len(damages))
        assert sorted(whys(rejected)) == [saved(number).name for number in newer]
        assert all(DAMAGES[damages[number]][1] in whys(rejected)[saved(number).name] for number in newer)


def test_foreign_names_and_links_are_ignored(three):
    directory, items = three
    for name in ("epoch=0-step=9.ckpt", "epoch_9_batch_9.ckpt", "notes.txt", ".epoch_009_batch_000009.ckpt.tmp"):
        (directory / name).write_text("foreign")
    (directory / names.LAST).symlink_to(items[0].name)
    (directory / names.BEST).symlink_to("gone.ckpt")
    assert Catalog(directory).committed() == items
    assert Catalog(directory).rejected() == []
    assert Catalog(directory).newest_intact() == (items[2], [])


def test_a_checkpoint_that_is_a_dangling_link_is_rejected(three):
    directory, items = three
    (directory / items[2].name).unlink()
    (directory / items[2].name).symlink_to("gone.ckpt")
    assert whys(Catalog(directory).rejected())[items[2].name].startswith("it cannot be read (No such file")
    assert Catalog(directory).newest_intact()[0] == items[1]


def test_a_manifest_without_a_checkpoint_is_ignored(three):
    directory, items = three
    (directory / items[2].name).unlink()
    assert Catalog(directory).committed() == items[:2]
    assert Catalog(directory).rejected() == []


def test_the_directory_is_read_again_each_time(three):
    directory, items = three
    catalog = Catalog(directory)
    assert catalog.newest_intact()[0] == items[2]
    flip_byte(directory, items[2].name)
    assert catalog.newest_intact()[0] == items[1]
    flip_byte(directory, items[2].name)
    assert catalog.newest_intact()[0] == items[2]


def test_a_single_file_can_be_described_and_verified(three):
    directory, items = three
    path = directory / items[1].name
    assert describe(path) == items[1]
    verify(path, items[1])
    flip_byte(directory, items[1].name)
    with pytest.raises(CorruptCheckpointError, match=r"the checksum of its record archive/data\.pkl does not fit"):
        verify(path, items[1])


def test_a_changed_record_is_named(three):
    directory, items = three
    path = directory / items[1].name
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((3,), 1.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=r"^the checksum of its record archive/data/0 does not fit$"):
        verify(path, items[1])


def test_a_manifest_of_format_1_is_verified_by_its_sha256(three):
    directory, items = three
    path = directory / items[2].name
    old = replace(items[2], digest=disk.sha256(path))
    content = {**json.loads(manifest.dump(old, {})), "format": 1, "sha256": old.digest.removeprefix("sha256:")}
    del content["checksum"], content["digest"]
    (directory / names.manifest_name(path.name)).write_text(json.dumps(content))
    assert Catalog(directory).newest_intact() == (old, [])
    flip_byte(directory, path.name)
    found, rejected = Catalog(directory).newest_intact()
    assert found == items[1]
    assert "its checksum is sha256:" in rejected[0].why


def test_leftovers_are_hidden_files_and_manifests_without_a_checkpoint(three):
    directory, items = three
    others = [".keep", "notes.tmp", ".notes.txt.tmp", "epoch_0_batch_150.ckpt", "notes.json"]
    left = [names.temp_name(name) for name in (items[0].name, names.manifest_name(items[0].name), names.LAST)]
    for name in (*others, *left):
        (directory / name).write_text("half")
    (directory / items[1].name).unlink()
    orphan = names.manifest_name(items[1].name)
    assert {path.name for path in Catalog(directory).leftovers()} == {*left, orphan}


def test_a_missing_directory_has_no_leftovers(tmp_path):
    assert Catalog(tmp_path / "gone").leftovers() == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_rejected(three, error, monkeypatch):
    directory, items = three

    def broken(file, *args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(file_format, "_pieces", broken)
    found, rejected = Catalog(directory).newest_intact()
    assert found is None
    assert [item.why for item in rejected] == [f"it cannot be read ({os.strerror(error)})"] * len(items)
