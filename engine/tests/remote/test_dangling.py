"""Pieces of large uploads that a killed process has left in the store."""

import sys
from types import SimpleNamespace

import pytest

from cairn.errors import RemoteError
from cairn.remote import address, dangling


@pytest.mark.slow
def test_only_open_uploads_of_this_mirror_are_aborted(store, bucket, monkeypatch):
    with monkeypatch.context() as earlier:  # credentials of an earlier use, which are no longer valid
        earlier.setenv("AWS_ACCESS_KEY_ID", "expired")
        assert dangling.abort(address.parse(f"s3://{bucket}/runs/a")) == 0
    client, stem = store.client(), "checkpoints/epoch_000_batch_000001.0123456789ab.ckpt"
    others = ["runs/b/" + stem, "runs/a/checkpoints/mine.ckpt", "runs/a2/" + stem]
    for key in ("runs/a/" + stem, "runs/a/" + stem + "/rank_00001.ckpt", *others):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert dangling.abort(address.parse(f"s3://{bucket}/runs/a")) == 2
    assert sorted(store.dangling(bucket)) == sorted(others)


def test_without_boto3_or_in_another_store_nothing_happens(monkeypatch):
    assert dangling.abort(address.parse("memory://name/run")) == 0
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert dangling.abort(address.parse("s3://bucket/run")) == 0


@pytest.mark.slow
def test_a_store_that_refuses_the_question_does_no_harm(store, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    assert dangling.abort(address.parse("s3://bucket/run")) == 0


def test_a_store_that_cannot_be_reached_is_asked_again(monkeypatch):
    """The uploads that a killed attempt left would otherwise stay: the store was down when they were looked for."""
    pytest.importorskip("boto3", reason="the client that lists open uploads")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(RemoteError, match="s3://bucket/run cannot be reached"):
        dangling.abort(address.parse("s3://bucket/run"))


@pytest.mark.parametrize(("status", "is_asked_again"), [(403, False), (404, False), (500, True), (503, True)])
@pytest.mark.parametrize("call", ["list", "abort"])
def test_a_store_that_cannot_at_present_is_asked_again(monkeypatch, call, status, is_asked_again):
    boto3 = pytest.importorskip("boto3", reason="the client that lists open uploads")
    from botocore.exceptions import ClientError

    def fail(**given):
        raise ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, call)

    def pages(**given):
        fail() if call == "list" else None
        return [{"Uploads": [{"Key": "run/last.json", "UploadId": "1"}]}]

    client = SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=pages), abort_multipart_upload=fail)
    monkeypatch.setattr(boto3, "Session", lambda: SimpleNamespace(client=lambda *args, **kwargs: client))
    monkeypatch.setattr(dangling.layout, "is_of_mirror", lambda name: True)
    if is_asked_again:
        with pytest.raises(RemoteError, match="s3://bucket/run cannot be reached"):
            dangling.abort(address.parse("s3://bucket/run"))
    else:
        assert dangling.abort(address.parse("s3://bucket/run")) == 0


def test_files_that_were_never_completed_are_removed_from_a_directory(tmp_path):
    where = address.parse(f"file://{tmp_path}/run")
    stem = "run/checkpoints/epoch_000_batch_000001.0123456789ab.ckpt"
    ours = [f"{stem}#1", f"{stem}/rank_00001.ckpt#12", "run/files/0123456789ab#1"]
    others = ["run/notes#1", "run/checkpoints/mine.ckpt#1", "run2/files/0123456789ab#1", "run/files/0123456789ab"]
    for name in (*ours, *others):
        path = tmp_path / (name.replace("000001", "000002") if "rank" in name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert dangling.abort(where) == len(ours)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)
    assert not list((tmp_path / "run" / "checkpoints").glob("*000002*")), "the empty folder is gone"
