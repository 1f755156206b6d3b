"""Remembers which job of a scheduler trains in which directory of a sweep, and asks which of them are alive."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cairn.jobs import slurm

Scheduler = Literal["slurm", "local"]
_CONTROLLER = "submitit.local._local"
"""The module that watches over a local job."""


@dataclass(frozen=True)
class Entry:
    """A job that was submitted."""

    directory: str
    """Of its run, relative to the sweep."""
    scheduler: Scheduler
    job: str
    """SLURM's id, `12` or `12_3`; for a local job the id of the process that watches over it."""
    folder: str = ""
    """Of submitit, as that process's command line has it."""


class Ledger:
    """The jobs of a sweep: a file in its directory, to which each submission adds lines.

    Args:
        sweep: its directory.
    """

    def __init__(self, sweep: Path) -> None:
        self.path = sweep / ".submitit" / "jobs.jsonl"

    def add(self, entries: Iterable[Entry]) -> None:
        """Note jobs that were submitted just now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write("\n")  # what comes now is readable though a kill may have cut off the line before
            file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[Entry]:
        """All jobs, in the order of their submission; a line that was cut off is left out."""
        lines = self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []
        return [entry for line in lines if (entry := _parse(line)) is not None]

    def newest(self) -> dict[str, Entry]:
        """The last job of each directory."""
        return {entry.directory: entry for entry in self.entries()}


def _parse(line: str) -> Entry | None:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def states(entries: Iterable[Entry]) -> Mapping[str, str]:
    """What those jobs do that have not ended, by their ids: RUNNING, PENDING, ...

    Raises:
        SlurmError: some are SLURM's, and it does not answer.
    """
    entries = list(entries)
    queued = slurm.queued() if any(entry.scheduler == "slurm" for entry in entries) else {}
    local = {entry.job: "RUNNING" for entry in entries if entry.scheduler == "local" and _is_alive(entry)}
    return {entry.job: state for entry in entries if (state := {**queued, **local}.get(entry.job))}


def _is_alive(entry: Entry) -> bool:
    """Is its process submitit's, and of this sweep? The number may be another one's by now."""
    command = _command(int(entry.job))
    return _CONTROLLER in command and entry.folder in command


def _command(pid: int) -> str:
    """The command line of a process; empty if there is none, or it has ended and nobody has asked for its code."""
    if Path("/proc/self").exists():
        try:
            return " ".join(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0"))
        except OSError:
            return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
