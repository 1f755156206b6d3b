"""The objects of a store in memory and of a directory: the same calls, results and errors."""

import errno
import os

import pytest
from tests.support.mirrors import objects_at

from cairn.errors import RemoteError
from cairn.remote import address, objects, opened
from cairn.remote.connection import Connection
from cairn.remote.objects import Objects


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return objects_at(request.param, tmp_path)


def test_objects_are_written_read_listed_and_deleted(store):
    store.check()
    assert store.list() == []
    store.put("owner.json", b"one")
    store.put("owner.json", b"two")
    store.put("files/a b+%20#é", b"")
    assert store.get("owner.json") == b"two"
    assert store.get("files/a b+%20#é") == b""
    assert sorted(store.list()) == [("files/a b+%20#é", 0), ("owner.json", 3)]
    assert store.list("files") == [("files/a b+%20#é", 0)]
    assert store.list("none") == []
    store.delete(["missing", "owner.json"])
    store.delete([])
    assert [name for name, _ in store.list()] == ["files/a b+%20#é"]


def test_only_the_first_creates_an_object(store):
    assert store.create("owner.json", b"mine")
    assert store.create("owner.json", b"mine")  # the answer to the first request may have been lost
    assert not store.create("owner.json", b"yours")
    assert not store.create("owner.json", b"mine and more")
    assert store.get("owner.json") == b"mine"


def test_a_file_is_uploaded_in_pieces_and_read_in_ranges(store, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 1000)
    data, beats = bytes(range(256)) * 20, []
    (tmp_path / "big").write_bytes(data)
    store.put_file("big", tmp_path / "big", beats.append)
    assert store.get("big") == data
    assert store.get_range("big", 3, 2000) == data[3:2000]
    assert beats[-1] == len(data)
    assert len(store.get("big", 10)) == 11


def test_an_empty_file_is_an_empty_object(store, tmp_path):
    (tmp_path / "empty").touch()
    store.put_file("empty", tmp_path / "empty")
    assert store.list() == [("empty", 0)]


def test_what_is_missing_is_a_missing_object(store, tmp_path):
    with pytest.raises(RemoteError) as caught:
        store.get("none")
    assert caught.value.kind == "missing"
    with pytest.raises(RemoteError):
        store.get_range("none", 0, 1)
    store.put("short", b"abc")
    with pytest.raises(RemoteError, match="shorter than expected"):
        store.get_range("short", 1, 9)
    with pytest.raises(OSError, match="No such file"):
        store.put_file("x", tmp_path / "none")


def test_an_error_of_the_reader_ends_an_upload_and_leaves_nothing(store, tmp_path):
    def stop(num_bytes):
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(KeyboardInterrupt):
        store.put_file("x", tmp_path / "file", stop)
    assert store.list() == []


def test_a_disk_that_is_full_when_it_is_synced_is_an_error_of_the_store(tmp_path, monkeypatch):
    """And not one of the checkpoint, which would not be tried again."""
    store = objects_at("file", tmp_path)
    (tmp_path / "file").write_bytes(b"abc")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: store.put("a", b"1"),
        lambda: store.create("b", b"2"),
        lambda: store.create("b", b"2"),  # it is there now, but not on the disk
        lambda: store.put_file("c", tmp_path / "file"),
    ):
        with pytest.raises(RemoteError, match="has no space left") as caught:
            write()
        assert caught.value.kind == "full"


def test_names_are_relative_to_the_address(tmp_path):
    above, below = objects_at("memory", tmp_path, "run"), objects_at("memory", tmp_path, "run/a")
    other = objects_at("memory", tmp_path, "run/ab")
    below.put("x", b"1")
    other.put("x", b"22")
    assert below.list() == [("x", 1)]
    assert sorted(above.list()) == [("a/x", 1), ("ab/x", 2)]


def test_a_directory_that_cannot_be_written_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    store = Objects(address.parse(f"file://{tmp_path}/file/run"))
    with pytest.raises(RemoteError, match="check the"):
        store.put("x", b"1")


def test_refused_credentials_are_read_again_once(monkeypatch):
    stores = ["old", "new", "newer"]
    monkeypatch.setattr(opened, "store", lambda where: stores.pop(0))
    connection = Connection(address.parse("s3://bucket/run"))
    refusal = connection.client.exceptions.PermissionDeniedError("status code: 403 Forbidden <Code>ExpiredToken</Code>")

    def request(store):
        if store != "new":
            raise refusal
        return "done"

    assert connection.call(request) == "done"
    assert connection.call(request) == "done"  # without opening it again
    assert stores == ["newer"]
    connection._store = "old"
    with pytest.raises(RemoteError, match="have expired"):
        connection.call(request)


def test_the_client_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ValueError, match="need obstore: pip install"):
        Objects(address.parse("memory://x/y"))


@pytest.mark.parametrize(
    ("where", "name", "value", "expected"),
    [
        ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:1", True),
        ("s3://b", "AWS_ENDPOINT_URL_S3", "https://host", False),
        ("s3://b", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1", False),
        ("s3://b", "AWS_ALLOW_HTTP", "true", True),
        ("az://b", "AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1", True),
        ("gs://b", "GOOGLE_SERVICE_ACCOUNT_KEY", '{"gcs_base_url": "http://127.0.0.1"}', True),
        ("gs://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:1", False),
    ],
)
def test_only_an_endpoint_that_is_named_may_have_no_tls(where, name, value, expected, monkeypatch):
    for known in [known for known in os.environ if known.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(known)
    monkeypatch.setenv(name, value)
    assert opened._names_plain_http(address.parse(where)) is expected
