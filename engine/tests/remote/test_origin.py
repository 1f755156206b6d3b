"""One checkpoint of a mirror: named by the address of its run, by its name, or as the best one."""

import json

import pytest
from tests.support.mirrors import damage, mirror_checkpoint, objects_at

from cairn.errors import CheckpointError, ConfigError, MissingFileError, RemoteError, ResumeError
from cairn.remote import layout, origin
from cairn.store import names
from cairn.store.catalog import describe, verify


@pytest.fixture
def store(tmp_path):
    return objects_at("memory", tmp_path)


@pytest.fixture
def made(store, tmp_path):
    """Three checkpoints, the second of them the best, the last one in shards."""
    found = [mirror_checkpoint(store, tmp_path, number, sharded=number == 2) for number in range(3)]
    store.put(layout.BEST, json.dumps({"name": found[1].name, "digest": found[1].digest}).encode())
    return found


@pytest.mark.parametrize(
    ("text", "run", "checkpoint"),
    [
        ("s3://b/x/run", "s3://b/x/run", "last.ckpt"),
        ("s3://b/x/run/checkpoints/", "s3://b/x/run", "last.ckpt"),
        ("s3://b/x/run/checkpoints/best.ckpt", "s3://b/x/run", "best.ckpt"),
        ("file:///x/run/checkpoints/epoch_000_batch_000001.ckpt", "file:///x/run", "epoch_000_batch_000001.ckpt"),
        ("s3://b/checkpoints/a.ckpt", "s3://b", "a.ckpt"),
        ("s3://b/x/run.ckpt", "s3://b/x/run.ckpt", "last.ckpt"),
    ],
)
def test_an_address_names_a_run_or_a_checkpoint_of_it(text, run, checkpoint):
    found = origin.parse(text)
    assert (str(found.run), found.checkpoint) == (run, checkpoint)


def test_each_name_fetches_its_checkpoint(store, made, tmp_path):
    below = f"{store.address}/checkpoints"
    digits = layout.stem_of(made[0]).data.rpartition("/")[2]
    named = {
        str(store.address): made[2],
        f"{below}/last.ckpt": made[2],
        f"{below}/best.ckpt": made[1],
        f"{below}/{made[0].name}": made[0],
        f"{below}/{digits}": made[0],
    }
    for text, saved in named.items():
        path = origin.fetched(text, tmp_path / "start")
        assert path.name == saved.name
        verify(path, describe(path))
        assert describe(path) == saved
    store.delete([name for name, _ in store.list()])
    assert origin.fetched(str(store.address), tmp_path / "start").name == made[2].name  # it is fetched once


def test_of_the_newest_a_damaged_one_is_skipped_and_a_named_one_is_an_error(store, made, tmp_path, caplog):
    damage(store, layout.stem_of(made[2]).shard(names.shard_name(0)))
    store.delete([layout.stem_of(made[0]).data])
    assert origin.fetched(str(store.address), tmp_path / "a").name == made[1].name
    assert f"Skipped in {store.address}: {made[2].name}: its shard rank_00000.ckpt is damaged" in caplog.text
    with pytest.raises(CheckpointError, match="is damaged"):
        origin.fetched(f"{store.address}/checkpoints/{made[2].name}", tmp_path / "b")
    with pytest.raises(CheckpointError, match="is missing, or has another size"):
        origin.fetched(f"{store.address}/checkpoints/{made[0].name}", tmp_path / "c")
    assert list(tmp_path.glob("[bc]/**/*.ckpt")) == []


def test_what_is_not_there_is_named(store, made, tmp_path):
    with pytest.raises(MissingFileError, match=rf"holds no epoch_009_.*The newest are: .*{made[2].name}\."):
        origin.fetched(f"{store.address}/checkpoints/epoch_009_batch_000001.ckpt", tmp_path)
    store.delete([layout.BEST])
    with pytest.raises(MissingFileError, match=r"holds no best\.ckpt"):
        origin.fetched(f"{store.address}/checkpoints/best.ckpt", tmp_path)
    store.put(layout.BEST, b"[]")
    with pytest.raises(MissingFileError, match=r"holds no best\.ckpt"):
        origin.fetched(f"{store.address}/checkpoints/best.ckpt", tmp_path)
    with pytest.raises(MissingFileError, match=r"There is no checkpoint of a run at .*/other\. Check the address"):
        origin.fetched(f"{store.address}/other", tmp_path)


@pytest.mark.parametrize(
    ("kind", "error"), [("refused", ConfigError), ("no_bucket", ConfigError), ("full", ResumeError)]
)
def test_a_store_that_fails_is_one_sentence(store, tmp_path, monkeypatch, kind, error):
    def fail(self):
        raise RemoteError("It fails.", kind=kind)

    monkeypatch.setattr(origin.Objects, "check", fail)
    with pytest.raises(error, match=r"^It fails\.$"):
        origin.fetched(str(store.address), tmp_path)


def test_a_fetch_that_was_killed_before_the_manifest_is_done_again(store, made, tmp_path):
    path = origin.fetched(str(store.address), tmp_path)
    path.with_name(names.manifest_name(path.name)).unlink()
    assert describe(origin.fetched(str(store.address), tmp_path)) == made[2]
