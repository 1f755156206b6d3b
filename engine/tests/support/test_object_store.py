"""The object store that tests start, and the faults in front of it, do what other tests rely on."""

import sys
import time

import pytest
from tests.support.credentials_server import CredentialsServer
from tests.support.fault_proxy import Fault
from tests.support.object_store import READ_ONLY_KEY, ROOT_SECRET

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the object store needs Linux")]


def s3(bucket, max_retries=0, timeout="30s"):
    from obstore.store import S3Store

    options = {"timeout": timeout, "allow_http": True}
    return S3Store(bucket, client_options=options, retry_config={"max_retries": max_retries})


def test_a_real_store_creates_once_checks_rights_and_keeps_what_it_has_over_a_kill(store, bucket, monkeypatch):
    import obstore
    from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError

    obstore.put(s3(bucket), "a/1", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(s3(bucket), "a/1", b"second", mode="create")
    obstore.put(s3(bucket), "a/2", bytes(12 << 20), use_multipart=True, chunk_size=5 << 20)
    assert store.objects(bucket, "a/") == {"a/1": 5, "a/2": 12 << 20}
    with pytest.raises((GenericError, FileNotFoundError), match="NoSuchBucket"):
        obstore.put(s3("missing-bucket"), "a", b"1")
    store.kill()
    with pytest.raises(GenericError):
        obstore.get(s3(bucket), "a/1")
    store.start()
    assert bytes(obstore.get(s3(bucket), "a/1").bytes()) == b"first"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READ_ONLY_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ROOT_SECRET)
    assert bytes(obstore.get(s3(bucket), "a/1").bytes()) == b"first"
    with pytest.raises(PermissionDeniedError):
        obstore.put(s3(bucket), "a/3", b"1")


def test_the_proxy_delays_refuses_resets_and_swallows_only_what_it_is_asked_to(proxy, bucket):
    import obstore
    from obstore.exceptions import GenericError

    def put(key, num_bytes, **options):
        obstore.put(s3(bucket, **options), key, bytes(num_bytes), use_multipart=False)

    put("whole", 1 << 20)
    assert [each.status for each in proxy.seen("PUT", "whole")] == [200]

    refused = proxy.add(Fault({"PUT"}, "/busy", times=2, status=503))
    put("busy", 1 << 20, max_retries=3)
    assert (refused.num_hits, [each.status for each in proxy.seen("PUT", "busy")]) == (2, [503, 503, 200])

    proxy.add(Fault({"PUT"}, "/torn", after=1, reset_after_bytes=1 << 18))
    put("torn_not", 1 << 20)
    with pytest.raises(GenericError):
        put("torn", 1 << 20)
    proxy.add(Fault({"GET"}, "/whole", reset_after_bytes=1 << 18))
    with pytest.raises(GenericError):
        obstore.get(s3(bucket), "whole").bytes()

    proxy.add(Fault({"PUT"}, "/slow", bytes_per_s=4 << 20, latency_s=0.05))
    began = time.monotonic()
    put("slow", 1 << 20)
    assert time.monotonic() - began >= 0.25  # a lower bound: a slow machine only adds to it

    proxy.add(Fault(path="/silent", black_hole=True))
    with pytest.raises(GenericError):
        put("silent", 10, timeout="300ms")
    proxy.clear()
    put("silent", 10)
    assert {item["path"] for item in obstore.list(s3(bucket)).collect()} == {
        "whole",
        "busy",
        "torn_not",
        "slow",
        "silent",
    }


def test_keys_expire_and_a_client_that_asks_again_goes_on(proxy, bucket, tmp_path, monkeypatch):
    import obstore
    from obstore.exceptions import BaseError

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def only(key):
        proxy.valid_keys = {key}

    with CredentialsServer(tmp_path, valid_s=1, changed=only) as server:
        for name, said in server.environment.items():
            monkeypatch.setenv(name, said)
        client = s3(bucket)
        obstore.put(client, "a", b"1")
        server.rotate()
        obstore.put(client, "b", b"1")  # said to be valid for less than a client waits before it asks again
        server.rotate()
        proxy.valid_keys = set()
        with pytest.raises(BaseError):
            obstore.put(client, "c", b"1")
        assert server.num_requests >= 2


def test_the_emulator_of_azure_creates_once(container):
    import obstore
    from obstore.exceptions import AlreadyExistsError
    from obstore.store import AzureStore

    client = AzureStore(container, client_options={"allow_http": True})
    obstore.put(client, "a", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(client, "a", b"second", mode="create")
    assert bytes(obstore.get(client, "a").bytes()) == b"first"
