"""Floors of a save by several ranks: all of them copy their parts in memory, and write them to the disk, at once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

from benchmarks.ranks.training import together

_CHUNK_BYTES = 16 * 2**20


def measure(num_bytes: int, ranks: int, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Measure both floors, for the slowest rank.

    Args:
        num_bytes: Size of the whole state, of which each rank has an equal part.
        ranks: Number of processes.
        folder: On the measured disk.
        repeats: Number of repetitions.

    Returns:
        Seconds of each repetition: `copy_s` into warm memory, and `write_s`, with a sync.
    """
    folder.mkdir(parents=True, exist_ok=True)
    together(ranks, lambda rank: _measure(num_bytes // ranks, folder, rank, repeats))
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {
        name: [max(of_ranks) for of_ranks in zip(*(item[name] for item in found), strict=True)] for name in found[0]
    }


def _measure(num_bytes: int, folder: Path, rank: int, repeats: int) -> None:
    torch.set_num_threads(1)
    source, target = torch.rand(num_bytes // 4), torch.zeros(num_bytes // 4)
    copies = []
    for _ in range(repeats + 1):  # the first one is not warm
        started = time.perf_counter()
        target.copy_(source)
        copies.append(time.perf_counter() - started)
    writes = []
    for _ in range(repeats):
        writes.append(_write_s(folder / f"floor_{rank}.bin", target.numpy().data.cast("B")))
    (folder / f"{rank}.json").write_text(json.dumps({"copy_s": copies[1:], "write_s": writes}))
    os._exit(0)


def _write_s(path: Path, content: memoryview) -> float:
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), _CHUNK_BYTES):
            file.write(content[start : start + _CHUNK_BYTES])
        os.fsync(file)
    took_s = time.perf_counter() - started
    path.unlink()
    return took_s
