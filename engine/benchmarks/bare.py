"""The floor of what a save costs a training: a separate process writes as many bytes as the state has.

Nothing is copied, laid out or hashed: the bytes exist before the training begins. They are written around the page
cache and synced.
"""

from __future__ import annotations

import mmap
import os
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.commits import Ledger
from benchmarks.job import Job

_CHUNK_BYTES = 1 << 22


class BareWrite(Callback):
    """Requests a write where a save is due, after the one before has ended."""

    def __init__(self, job: Job, ledger: Ledger, num_bytes: int) -> None:
        self.job, self.ledger = job, ledger
        ours, theirs = get_context("spawn").Pipe()
        self._pipe: Connection = ours
        self._process = get_context("spawn").Process(target=_work, args=(theirs, num_bytes), daemon=True)
        self._process.start()
        self._busy: threading.Thread | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.job.is_due(batch := trainer.global_step):
            if self._busy is not None:
                self._busy.join()
            path = self.job.checkpoint_dir / f"{batch:06d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._pipe.send(path)
            self._busy = threading.Thread(target=self._wait_for, args=(batch, path))
            self._busy.start()

    def _wait_for(self, batch: int, path: Path) -> None:
        self._pipe.recv()
        self.ledger.end(batch, path)
        path.unlink()


def _work(pipe: Connection, num_bytes: int) -> None:
    whole = mmap.mmap(-1, -(-num_bytes // _CHUNK_BYTES) * _CHUNK_BYTES)
    whole[:] = os.urandom(_CHUNK_BYTES) * (len(whole) // _CHUNK_BYTES)
    chunks = [memoryview(whole)[at : at + _CHUNK_BYTES] for at in range(0, len(whole), _CHUNK_BYTES)]
    while True:
        path = pipe.recv()
        _write(path, chunks)
        pipe.send(None)


def _write(path: Path, chunks: list[memoryview]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        handle = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    except OSError:
        handle = os.open(path, flags, 0o666)
    for chunk in chunks:
        os.write(handle, chunk)
    os.fsync(handle)
    os.close(handle)
