"""Measures uploads, trainings and restarts in front of one private object store."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import children
from benchmarks.ranks import figures, floors
from benchmarks.ranks.training import BYTES_PER_LAYER, Blocks, train
from benchmarks.remote.transfers import DOWNLOADS, FILE, UPLOADS, Transfer
from benchmarks.remote.ways import WAIT_S, WAYS, make

_PROBE_BATCHES, _FLOOR_REPEATS = 4, 3
_SLOW_SHARE = 0.8
"""Part of a block that an upload takes with a slow store."""


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        work: Folder on the measured disk.
        rounds: Number of rounds, in alternating order.
        pairs: Pairs of blocks in a training.
        factor: Length of a block, in times of the longer of a write and an upload.
        s3fs: Folder with s3fs and its dependencies, which exclude a current boto3; None: it is not measured.
        timeout_s: Of one transfer.
    """

    work: Path
    rounds: int
    pairs: int
    factor: float
    s3fs: Path | None
    timeout_s: float


class Measurement:
    """All measurements at one size.

    Args:
        settings: What to measure.
        store: The store, of `tests.support.object_store`.
        state_bytes: Size of the state.
        keep: Called after each measurement, with the part and its figures.
    """

    def __init__(
        self, settings: Settings, store: Any, state_bytes: int, keep: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._settings, self._store, self._keep = settings, store, keep
        self._num_layers = max(1, round(state_bytes / BYTES_PER_LAYER))
        self._bytes = self._num_layers * BYTES_PER_LAYER

    def run(self) -> None:
        """Measure everything."""
        folder, bucket = self._settings.work / "transfers", self._store.bucket()
        folder.mkdir(parents=True)
        try:
            self._store.client().put_object(Bucket=bucket, Key="first", Body=b"")  # the server makes room for a bucket
            torch.save({"state": torch.rand(self._bytes // 4)}, folder / FILE)
            for number in range(self._settings.rounds):
                self._transfers("upload", UPLOADS, f"s3://{bucket}/transfers", folder, number)
            self._trainings()
            self._mirror_one(f"s3://{bucket}/transfers/run")
            for number in range(self._settings.rounds):
                self._transfers("download", DOWNLOADS, f"s3://{bucket}/transfers", folder, number)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _transfers(self, kind: str, ways: Mapping[str, Transfer], address: str, folder: Path, number: int) -> None:
        names = list(ways)[:: -1 if number % 2 else 1]
        for name in names:
            found = self._transfer(kind, name, ways[name], address, folder)
            self._keep(kind, {"way": name, "state_bytes": self._bytes, "round": number, **found})

    def _transfer(self, kind: str, name: str, way: Transfer, address: str, folder: Path) -> dict[str, Any]:
        environment = _client_environment(self._store.url)
        if "s3fs" in way.needs:
            if self._settings.s3fs is None:
                return {"error": "s3fs is not installed; see --s3fs"}
            environment["PYTHONPATH"] = os.pathsep.join([str(self._settings.s3fs), *filter(None, sys.path)])
        elif missing := [package for package in way.needs if find_spec(package) is None]:
            return {"error": f"{missing[0]} is not installed"}
        command = [sys.executable, "-m", "benchmarks.remote.transfers", kind, name, address, str(folder)]
        log = self._settings.work / "transfer.log"
        ended = children.run(command, 1, self._settings.timeout_s, log, env=environment)
        shutil.rmtree(folder / "restart", ignore_errors=True)
        return {"error": ended.error} if ended.error else json.loads(ended.output.splitlines()[-1])

    def _trainings(self) -> None:
        settings = self._settings
        written = floors.measure(self._bytes, 1, settings.work, _FLOOR_REPEATS)
        upload_s = self._probe_upload_s()
        probe = Blocks(_PROBE_BATCHES, 1)
        alone = self._train("none", probe, 0.0)
        least_s = settings.factor * max(statistics.median(written["write_s"]), upload_s)
        blocks = Blocks(max(_PROBE_BATCHES, math.ceil(least_s / alone.batch_s)), settings.pairs)
        slow = self._bytes / (_SLOW_SHARE * blocks.length * alone.batch_s)
        self._keep("floor", {"state_bytes": self._bytes, "slow_bytes_per_s": slow, "blocks": asdict(blocks), **written})
        for number in range(settings.rounds):
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                self._train(way, blocks, slow, number)

    def _probe_upload_s(self) -> float:
        folder = self._settings.work / "transfers"
        address = f"s3://{self._store.bucket()}/probe"
        return float(self._transfer("upload", "ours", UPLOADS["ours"], address, folder).get("wall_s", 0))

    def _train(self, name: str, blocks: Blocks, slow: float, number: int | None = None) -> figures.Figures:
        way, address = WAYS[name], f"s3://{self._store.bucket()}/run"
        with _endpoint(self._store, way.fault and way.fault(slow)) as url, _variables(_client_environment(url)):
            wait_s = WAIT_S if way.fault else 60.0
            times = train(self._settings.work / "run", make(way, address, wait_s), 1, self._num_layers, blocks)
        if number is not None:
            facts = {"way": name, "state_bytes": self._bytes, "round": number}
            self._keep("training", {**facts, "blocks": asdict(blocks), "times": times})
        return figures.of_run(name, self._bytes, blocks, times)

    def _mirror_one(self, address: str) -> None:
        """Leave a run in the store, for the restarts."""
        blocks = Blocks(1, 1)
        with _variables(_client_environment(self._store.url)):
            train(
                self._settings.work / "run",
                make(WAYS["on"], address, 600.0),
                1,
                self._num_layers,
                blocks,
            )


def _client_environment(url: str) -> dict[str, str]:
    from tests.support.object_store import client_environment

    return client_environment(url)


@contextmanager
def _endpoint(store: Any, fault: dict[str, Any] | None) -> Iterator[str]:
    """Give the endpoint of the store, or of a proxy in front of it."""
    if fault is None:
        yield store.url
        return
    from tests.support.fault_proxy import Fault, FaultProxy

    with FaultProxy(store.port) as proxy:
        proxy.add(Fault(**fault))
        yield proxy.url


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
