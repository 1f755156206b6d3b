"""Pieces of large uploads that a killed process has left in the store."""

import sys

import pytest

from cairn.remote import address, dangling


@pytest.mark.slow
def test_only_open_uploads_of_this_mirror_are_aborted(store, bucket):
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
