"""What the library asks of an object store, asked of real servers: SeaweedFS, and the emulator of Azure."""

import pytest

from cairn.errors import RemoteError
from cairn.remote import address, objects
from cairn.remote.objects import Objects

pytestmark = pytest.mark.slow


@pytest.fixture(params=["s3", "az"])
def where(request):
    """An address in an empty bucket of a real server."""
    name = request.getfixturevalue("bucket" if request.param == "s3" else "container")
    return address.parse(f"{request.param}://{name}/runs/x=1,y=0.5/é [a] %20")


def test_objects_are_written_once_listed_read_and_deleted(where, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 5 << 20)  # the least that S3 accepts
    found, other = Objects(where), Objects(where.parent.joined("other"))
    assert found.create("owner.json", b"first")
    assert found.create("owner.json", b"first")  # its answer was lost, and it is asked again
    assert not found.create("owner.json", b"second")
    (tmp_path / "large").write_bytes(bytes(range(256)) * (48 << 10))  # 12 MB: three pieces
    found.put_file("checkpoints/large", tmp_path / "large")
    found.put("checkpoints/last.json", b"1")
    found.put("checkpoints/last.json", b"22")
    other.put("checkpoints/last.json", b"1")
    assert sorted(found.list()) == [("checkpoints/large", 12 << 20), ("checkpoints/last.json", 2), ("owner.json", 5)]
    assert found.get_range("checkpoints/large", 255, 258) == b"\xff\x00\x01"
    found.delete(["checkpoints/large", "checkpoints/never", "owner.json"])
    assert found.list() == [("checkpoints/last.json", 2)]
    assert other.list() == [("checkpoints/last.json", 1)]


def test_a_missing_bucket_is_not_a_missing_object(where):
    with pytest.raises(RemoteError) as caught:
        Objects(where).get("owner.json")
    assert caught.value.kind == "missing"
    with pytest.raises(RemoteError) as caught:
        Objects(address.parse(f"{where.scheme}://not-there/runs/a")).check()
    assert caught.value.kind == "no_bucket"
