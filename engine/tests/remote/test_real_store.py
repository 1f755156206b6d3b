"""The objects of a real server: the calls and errors that a store in memory cannot show."""

import os

import pytest
from tests.support.mirrors import mirror_checkpoint
from tests.support.object_store import READ_ONLY_KEY, ROOT_SECRET, client_environment

from cairn.errors import ConfigError, RemoteError, ResumeError
from cairn.remote import address, start
from cairn.remote.fetch import Target
from cairn.remote.objects import Objects

pytestmark = pytest.mark.slow


def kind_of(call, *arguments):
    with pytest.raises(RemoteError) as caught:
        call(*arguments)
    assert str(caught.value).endswith(".")
    assert ROOT_SECRET not in str(caught.value)
    return caught.value.kind


def test_objects_with_any_names_and_sizes(store, bucket, tmp_path):
    objects = Objects(address.parse(f"s3://{bucket}/a=1,b=0.5/é +%20#'&/run"))
    data = os.urandom(20_000_001)
    (tmp_path / "big").write_bytes(data)
    objects.put_file("checkpoints/x.ckpt/rank_00000.ckpt", tmp_path / "big")
    objects.put("empty", b"")
    assert sorted(objects.list()) == [("checkpoints/x.ckpt/rank_00000.ckpt", len(data)), ("empty", 0)]
    assert objects.get_range("checkpoints/x.ckpt/rank_00000.ckpt", 19_000_000, len(data)) == data[19_000_000:]
    assert objects.get("empty") == b""
    assert objects.create("owner.json", b"mine")
    assert objects.create("owner.json", b"mine")
    assert not objects.create("owner.json", b"yours")
    objects.delete(["empty", "missing", "owner.json"])
    assert [name for name, _ in objects.list()] == ["checkpoints/x.ckpt/rank_00000.ckpt"]
    assert kind_of(objects.get, "missing") == "missing"
    assert store.dangling(bucket) == []


def test_refusals_have_their_kind(store, bucket, tmp_path, monkeypatch):
    mirror_checkpoint(Objects(address.parse(f"s3://{bucket}/run")), tmp_path, 0)
    assert kind_of(Objects(address.parse("s3://no-such-bucket/run")).check) == "no_bucket"
    with pytest.raises(ConfigError, match="The bucket of s3://no-such-bucket/run does not exist"):
        start.look(address.parse("s3://no-such-bucket/run"))
    for name, value in client_environment(store.url, READ_ONLY_KEY).items():
        monkeypatch.setenv(name, value)
    reader = Objects(address.parse(f"s3://{bucket}/run"))
    assert kind_of(reader.put, "x", b"1") == "refused"
    assert kind_of(reader.create, "x", b"1") == "refused"
    target = Target(tmp_path / "run" / "checkpoints")
    assert start.look(reader.address).bring(target, None)[0] is not None  # to read needs no right to write
    with pytest.raises(ConfigError, match="none can be written"):
        start.claimed(start.look(reader.address), "toy", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert kind_of(Objects(reader.address).check) == "refused"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    found = start.look(reader.address)
    assert "cannot be reached (no connection)" in found.trouble
    with pytest.raises(ResumeError, match="set mirror=null"):
        found.bring(target, None)
