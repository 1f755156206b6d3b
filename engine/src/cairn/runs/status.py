"""What the jobs of a sweep do: which run, wait, failed and are finished, how far they are, how often they began again.

Reads files, and asks the scheduler; imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cairn.account import progress
from cairn.account.progress import Progress
from cairn.errors import CairnError, ResumeError
from cairn.jobs import slurm
from cairn.runs import attempts
from cairn.runs.directory import Record, RunDirectory, below
from cairn.runs.ledger import Entry, Ledger, states
from cairn.store.catalog import Catalog
from cairn.types import Saved

SILENT_S = 600.0
"""A run that nobody watches over, and that was not heard of for so long, is taken for dead."""


_GONE = ""
"""The scheduler has answered, and does not run it."""


@dataclass(frozen=True)
class JobStatus:
    """One job."""

    name: str
    """Its directory in the sweep."""
    state: str
    """finished, failed, running, waiting, stopped (saved, and nobody runs it), dead (killed, and nobody runs it),
    unknown (it has not begun, and its scheduler does not answer)."""
    job: str
    """Of the scheduler; empty if it has none."""
    progress: Progress | None
    share: float | None
    """Of the training that is done; None if nobody can know."""
    last: Saved | None
    """The newest checkpoint."""
    num_starts: int
    num_lost_batches: int
    """Done again after kills."""
    why: str
    """What it failed by, or was stopped by."""

    @property
    def num_restarts(self) -> int:
        """How often it began again."""
        return max(0, self.num_starts - 1)


def look(sweep: Path) -> tuple[list[JobStatus], str]:
    """All jobs of a sweep by their names, and why the scheduler could not be asked, if so.

    A run directory is a sweep of one.

    Raises:
        ResumeError: there are no runs.
    """
    noted: dict[str, list[Entry]] = {}
    for entry in Ledger(sweep).entries():
        noted.setdefault(entry.directory, []).append(entry)
    runs = [run for pattern in ("run.json", "*/run.json") for run in below(sweep.absolute(), pattern)]
    names = sorted({run.path.relative_to(sweep.absolute()).as_posix() for run in runs} | set(noted))
    if not names:
        raise ResumeError(f"{sweep} holds no runs: name the directory of a sweep.")
    alive, trouble = _alive([entries[-1] for entries in noted.values()])
    return [_look(sweep, name, noted.get(name, ()), None if trouble else alive) for name in names], trouble


def _alive(entries: Sequence[Entry]) -> tuple[Mapping[str, str], str]:
    try:
        return states(entries), ""
    except slurm.SlurmError as error:
        return {}, str(error)


def _look(sweep: Path, name: str, noted: Sequence[Entry], alive: Mapping[str, str] | None) -> JobStatus:
    """`noted`: every job that was submitted for this directory, the last one last."""
    entry = noted[-1] if noted else None
    run = RunDirectory(sweep / name)
    reached = progress.read(run.progress_file)
    record, saved, cfg = _read(run)
    tried = _attempts(run)
    queued = alive.get(entry.job, _GONE) if entry and alive is not None else None
    if queued == _GONE and tried and tried[-1].job not in {item.job for item in noted}:
        queued = None  # somebody has started the run again by other means
    return JobStatus(
        name=name,
        state="unknown" if entry and alive is None and record is None else _state(record, queued, reached),
        job=entry.job if entry else "",
        progress=reached,
        share=_share(reached, cfg),
        last=saved,
        num_starts=attempts.num_starts(tried, {item.job for item in noted}),
        num_lost_batches=sum(item.lost_batches for item in tried),
        why=record.why if record else "",
    )


def _read(run: RunDirectory) -> tuple[Record | None, Saved | None, Any]:
    """What can be read of it: it may have died before it began, or while it was written."""
    try:
        record = run.record()
        cfg = run.config() if record else None
        saved = Catalog(run.checkpoints()).committed() if record else []
    except CairnError:
        return None, None, None
    return record, saved[-1] if saved else None, cfg


def _attempts(run: RunDirectory) -> list[attempts.Attempt]:
    try:
        return attempts.read(run)
    except OSError:
        return []


def _state(record: Record | None, queued: str | None, reached: Progress | None) -> str:
    """By the run's own files alone where no scheduler has anything to say (`queued` is None)."""
    if queued not in (None, _GONE):
        if queued == "RUNNING":
            return "running" if record is None or record.status != "finished" else "finished"
        return "waiting" if queued in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD") else queued.lower()
    if record is None:
        return "failed"  # before it began, or its record is damaged
    if record.status != "running":
        return record.status
    if queued == _GONE:
        return "dead"
    return "running" if reached and time.time() - reached.at < SILENT_S else "dead"


def _share(reached: Progress | None, cfg: DictConfig | None) -> float | None:
    if reached is None or cfg is None or "trainer" not in cfg:
        return None
    steps, epochs = cfg.trainer.get("max_steps") or -1, cfg.trainer.get("max_epochs") or -1
    shares = [reached.step / steps] if steps > 0 else []
    if epochs > 0 and reached.batches_per_epoch:
        shares.append(reached.total_batches / (epochs * reached.batches_per_epoch))
    return min(1.0, max(shares)) if shares else None
