"""Makes checkpoint directories and runs of any size, as a training leaves them, in no time and without one."""

from __future__ import annotations

import functools
import json
import os
import pickle
from pathlib import Path

from cairn.store import file_format, manifest, names
from cairn.types import Draft, Position, Saved

RUN = "669d94e0"
_CONFIG = Path(__file__).with_name("config.yaml")
"""The resolved configuration of a run of the template; `{run}` and `{interval}` stand for what differs."""
_BATCH_S, _SAVE_S = 0.05, 0.04
_SAVES = 20
"""Saves of a run, most of which it does not keep."""


@functools.cache
def file_bytes() -> bytes:
    """Return the smallest checkpoint file that is intact."""
    content = pickle.dumps({"state_dict": {}}, protocol=2)
    layout = file_format.Layout(())
    data = bytearray(layout.num_bytes(len(content)))
    layout.write_tail(memoryview(data), content)
    return b"".join(file_format.sealed(memoryview(data), len(data)))


@functools.cache
def _digest() -> str:
    return file_format.digest(memoryview(file_bytes()))


def draft(number: int, every: int = 10) -> Draft:
    """Return the `number`-th checkpoint of a run, before it is committed."""
    batches = (number + 1) * every
    # The scores go up and down, so that the best is somewhere in the middle; two of three saves have none.
    score = 1.0 + (number * 7919) % 1000 / 1000 if number % 3 == 0 else None
    position = Position(0, batches, batches, batches, 16 * batches)
    return Draft(
        names.checkpoint_name(position), position, number, ("interval",), score, {"val/loss": score or 1.5},
        run=RUN, elapsed_s=batches * _BATCH_S, num_bytes=len(file_bytes()), stall_s=_SAVE_S,
        overhead=_SAVE_S / (every * _BATCH_S),
    )  # fmt: skip


def saved_of(coming: Draft) -> Saved:
    """Return what its manifest says once it is committed."""
    facts = {"digest": _digest(), "write_s": 0.01, "created": "2026-01-01T00:00:00+00:00"}
    return Saved.of(coming, **facts)


def store(directory: Path, count: int, first: int = 0, every: int = 10) -> None:
    """Make a directory with `count` committed checkpoints and its links.

    Args:
        directory: The directory; it is created.
        count: How many.
        first: Number of the first one in its run.
        every: Batches between two of them.
    """
    directory.mkdir(parents=True)
    provenance = {"world_size": 1, "python": "3.11.7", "torch": "2.13.0", "seed": 0, "git": "0" * 40}
    drafts = [draft(number, every) for number in range(first, first + count)]
    for item in drafts:
        (directory / item.name).write_bytes(file_bytes())
        text = manifest.dump(saved_of(item), provenance)
        (directory / names.manifest_name(item.name)).write_text(text)
    if drafts:
        best = min(drafts, key=lambda item: 9.0 if item.score is None else item.score)
        os.symlink(drafts[-1].name, directory / names.LAST)
        os.symlink(best.name, directory / names.BEST)


def run(path: Path, number: int, checkpoints: int = 2) -> Path:
    """Make the directory of a finished run of a sweep over the interval.

    Args:
        path: The directory; it is created.
        number: Number of the run in the sweep.
        checkpoints: How many it keeps.
    """
    every = 10 + 10 * (number % 25)
    num_saves = max(_SAVES, checkpoints)
    store(path / "checkpoints", checkpoints, first=num_saves - checkpoints, every=every)
    (path / "config.yaml").write_text(_CONFIG.read_text().replace("{run}", str(path)).replace("{interval}", str(every)))
    overrides = ["checkpoint=interval", f"checkpoint.save_interval={every}", f"seed={number}"]
    record = {"id": RUN, "task_name": "train", "overrides": overrides, "status": "finished", "why": "", "result": None}
    (path / "run.json").write_text(json.dumps({**record, "created": "2026-01-01T00:00:00+00:00"}, indent=2))
    batches = num_saves * every
    elapsed_s = batches * _BATCH_S + num_saves * _SAVE_S
    reached = {"epoch": 0, "batch": batches, "total_batches": batches, "step": batches, "elapsed_s": elapsed_s}
    (path / "progress.json").write_text(json.dumps({**reached, "at": 1.0e9, "batches_per_epoch": batches}))
    _write_starts(path, batches, elapsed_s, killed=number % 3 == 0)
    _write_rows(path / "csv", num_saves, every)
    return path


def _write_starts(path: Path, batches: int, elapsed_s: float, killed: bool) -> None:
    begins = {"total_batches": 0, "elapsed_s": 0.0, "name": ""}
    first = {"at": "2026-01-01T00:00:00+00:00", "host": "node", "job": "", "begins": begins, "before": None}
    lines = [{**first, "job_restarts": None}]
    if killed:
        before = {"status": "running", "why": "", "total_batches": batches // 2, "elapsed_s": elapsed_s / 2, "at": 0.0}
        begins = {"total_batches": batches // 3, "elapsed_s": elapsed_s / 3, "name": "x.ckpt"}
        lines.append({**lines[0], "begins": begins, "before": before})
    (path / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_rows(folder: Path, num_saves: int, every: int) -> None:
    folder.mkdir()
    rows = ["step,stall_s,wait_s,write_s,bytes,overhead,skipped"]
    rows += [f"{every * (number + 1)},{_SAVE_S},0.0,0.01,2000000,{0.8 / every},0" for number in range(num_saves)]
    (folder / "checkpoints.csv").write_text("\n".join(rows) + "\n")
    rows = ["epoch,step,train/loss,val/acc,val/loss"]
    rows += [f"0,{step},{1 / (step + 1):.6f},,{0.5 + 1 / (step + 2):.6f}" for step in range(0, num_saves * every, 10)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
