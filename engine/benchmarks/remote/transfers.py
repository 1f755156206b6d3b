"""Uploads and downloads of one checkpoint by several programs, each in a process of its own.

`python -m benchmarks.remote.transfers KIND WAY ADDRESS FOLDER` prints the seconds of wall and processor time. An upload
begins with a state in memory where the program saves states, and with a file where it uploads files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FILE = "state.ckpt"
"""The file to upload, in the folder; it holds one tensor."""


@dataclass(frozen=True)
class Transfer:
    """One way to move a checkpoint.

    Attributes:
        label: Name in tables.
        run: Given the address of the folder and the local folder, returns what is measured.
        needs: Packages that it needs.
        is_ours: Whether it is Cairn's.
        note: What is different from the others.
    """

    label: str
    run: Callable[[str, Path], Callable[[], Any]]
    needs: Sequence[str] = ()
    is_ours: bool = False
    note: str = ""


def _objects_upload(address: str, folder: Path) -> Callable[[], Any]:
    from cairn.remote.address import parse
    from cairn.remote.objects import Objects

    objects = Objects(parse(address))
    return lambda: objects.put_file("ours.ckpt", folder / FILE)


def _boto3(address: str) -> tuple[Any, str, str]:
    import boto3

    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return boto3.client("s3"), bucket, prefix


def _boto3_upload(address: str, folder: Path) -> Callable[[], Any]:
    client, bucket, prefix = _boto3(address)

    def upload() -> None:
        client.upload_file(str(folder / FILE), bucket, f"{prefix}/boto3.ckpt")

    return upload


def _lightning_save(address: str, folder: Path) -> Callable[[], Any]:
    import torch
    from lightning.fabric.plugins.io import TorchCheckpointIO

    import_module("s3fs")  # before the clock starts, as the other programs
    state = torch.load(folder / FILE, weights_only=True)
    return lambda: TorchCheckpointIO().save_checkpoint(state, f"{address}/lightning.ckpt")


def _restart(address: str, folder: Path) -> Callable[[], Any]:
    from cairn import Checkpointer
    from cairn.remote import Mirror

    mirror = Mirror(f"{address}/run")  # imports the client

    def restart() -> None:
        found = Checkpointer(folder / "restart" / "checkpoints", every=1, listeners=[mirror]).resume()
        assert found is not None, "the mirror is empty"

    return restart


def _boto3_download(address: str, folder: Path) -> Callable[[], Any]:
    client, bucket, prefix = _boto3(address)

    def download() -> None:
        client.download_file(bucket, f"{prefix}/boto3.ckpt", str(folder / "boto3.ckpt"))
        _sync(folder / "boto3.ckpt")

    return download


def _stream_download(address: str, folder: Path) -> Callable[[], Any]:
    client, bucket, prefix = _boto3(address)

    def download() -> None:
        body = client.get_object(Bucket=bucket, Key=f"{prefix}/boto3.ckpt")["Body"]
        with (folder / "stream.ckpt").open("wb") as file:
            while data := body.read(1 << 20):
                file.write(data)
        _sync(folder / "stream.ckpt")

    return download


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


UPLOADS = {
    "ours": Transfer("Cairn", _objects_upload, is_ours=True),
    "boto3": Transfer("boto3, upload_file", _boto3_upload, ["boto3"]),
    "lightning": Transfer(
        "Lightning, TorchCheckpointIO with s3fs", _lightning_save, ["s3fs"], note="from memory; training waits for it"
    ),
}
DOWNLOADS = {
    "ours": Transfer("Cairn, restart from an empty disk", _restart, is_ours=True, note="verified, and committed"),
    "boto3": Transfer("boto3, download_file", _boto3_download, ["boto3"], note="with a sync"),
    "stream": Transfer("boto3, one stream", _stream_download, ["boto3"], note="with a sync"),
}


def main(argv: Sequence[str]) -> int:
    """Measure `KIND WAY ADDRESS FOLDER`, and print JSON."""
    kind, way, address, folder = argv
    act = {"upload": UPLOADS, "download": DOWNLOADS}[kind][way].run(address, Path(folder))
    wall, cpu = time.perf_counter(), _cpu_s()
    act()
    print("\n" + json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": _cpu_s() - cpu}))
    sys.stdout.flush()
    with suppress(OSError):
        os._exit(0)  # the end of the process is not measured, and threads of clients may take long
    return 0


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
