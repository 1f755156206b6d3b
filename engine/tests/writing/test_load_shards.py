"""A directory of shards is loaded like the single file: whole, its weights alone, through a link, on another device."""

import pytest
import torch
from tests.support.shards import bytes_of, commit_shards, with_ranks, write_shards
from tests.support.values import commit, flip_byte
from tests.writing.test_decode import equal

from cairn.errors import CheckpointError, SaveError
from cairn.store import disk, names
from cairn.writing import export
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.load import load, load_weights

SHARD = names.shard_name(1)
WEIGHT = torch.arange(1000.0).reshape(100, 10)
WHOLE = {"state_dict": {"net.weight": WEIGHT}, "epoch": 3, "cairn": {"format": 1, "ranks": []}}
STATES = [{"rng": torch.ones(rank + 1)} for rank in range(3)]


@pytest.fixture
def directory(tmp_path):
    """A directory of three shards without a manifest, such as one that was copied."""
    write_shards(tmp_path / "a.ckpt", WHOLE, [WEIGHT], STATES)
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize("location", [None, "cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, _: storage])
def test_the_contents_are_those_of_the_single_file(directory, location):
    assert equal(load(directory, map_location=location), with_ranks(WHOLE, STATES))


def test_tensors_go_where_map_location_says(directory):
    assert load(directory, map_location="meta")["state_dict"]["net.weight"].device.type == "meta"


def test_the_weights_alone(directory):
    found = load_weights(directory)
    assert found.values["net.weight"].equal(WEIGHT)
    assert found.contents["epoch"] == 3


def test_through_a_link(tmp_path):
    saved = commit_shards(tmp_path, 5)
    (tmp_path / names.LAST).symlink_to(saved.name)
    found = load(tmp_path / names.LAST)
    assert (found["number"], found["cairn"]["ranks"]) == (5, [{"n": 0}, {"n": 1}, {"n": 2}])
    (tmp_path / names.LAST).unlink()
    (tmp_path / names.LAST).write_text(f"Cairn link to {saved.name}\n")
    assert load(tmp_path / names.LAST)["number"] == load_weights(tmp_path / names.LAST).contents["number"] == 5


@pytest.mark.parametrize("read", [load, load_weights])
def test_a_damaged_shard_is_named(tmp_path, read):
    saved = commit_shards(tmp_path)
    flip_byte(tmp_path / saved.name, SHARD)
    with pytest.raises(CheckpointError, match=r"cannot be used: its shard rank_00001\.ckpt is damaged"):
        read(tmp_path / saved.name)
    (tmp_path / saved.name / names.shard_name(0)).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be used: its shard rank_00000\.ckpt is missing"):
        read(tmp_path / saved.name)


def test_a_single_shard_is_refused_with_its_directory(directory):
    with pytest.raises(CheckpointError, match=r"is one shard of a checkpoint: name its directory .*a\.ckpt\."):
        load(directory / SHARD)


# Export


def test_an_export_is_the_single_file_bit_for_bit(directory, tmp_path):
    (tmp_path / "best.ckpt").symlink_to("a.ckpt")
    num_bytes = export.export(tmp_path / "best.ckpt", tmp_path / "one.ckpt")
    assert (tmp_path / "one.ckpt").read_bytes() == bytes_of(FormEncoder().encode(with_ranks(WHOLE, STATES)))
    assert num_bytes == (tmp_path / "one.ckpt").stat().st_size
    assert equal(torch.load(tmp_path / "one.ckpt", weights_only=True), with_ranks(WHOLE, STATES))


def test_an_export_replaces_nothing(directory, tmp_path):
    (tmp_path / "one.ckpt").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"one\.ckpt exists already: name a new file"):
        export.export(directory, tmp_path / "one.ckpt")
    assert (tmp_path / "one.ckpt").read_bytes() == b"mine"


def test_a_single_file_is_not_exported(tmp_path):
    saved = commit(tmp_path)
    with pytest.raises(CheckpointError, match="is a single file already"):
        export.export(tmp_path / saved.name, tmp_path / "one.ckpt")


def test_a_damaged_directory_is_not_exported(directory, tmp_path):
    flip_byte(directory, SHARD)
    with pytest.raises(CheckpointError, match=r"rank_00001\.ckpt is damaged"):
        export.export(directory, tmp_path / "one.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]


def test_an_export_to_a_full_disk_leaves_nothing(directory, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "posix_fallocate", full)
    with pytest.raises(SaveError, match=r"one\.ckpt could not be written: No space left on device"):
        export.export(directory, tmp_path / "one.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]
    disk.remove(directory)
