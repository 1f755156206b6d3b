"""Which rank of a run that hangs the others wait for, and which rank ends the run if the main one cannot."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from cairn.jobs import stacks
from cairn.store import hang_reports
from cairn.store.hang_reports import Report
from cairn.types import Position

_CALL_S = 1.0
"""How long a look may wait for the disk, which may be why the run hangs."""
REPORTS_S = 12.0
"""How long to wait for the reports of other ranks, whose watchdogs look every few seconds."""


class RanksAtHang:
    """The ranks of a fit, as one of them sees them when it hangs.

    Args:
        trainer: The trainer.
        directory: Directory of the checkpoints, where the ranks report; None: they cannot.
    """

    def __init__(self, trainer: Trainer, directory: Path | None) -> None:
        self._trainer, self._parent = trainer, os.getppid()
        self._journal = directory
        self._directory = directory if trainer.world_size > 1 else None
        self.attempt = ""
        """Name of this attempt, which all its ranks know once training begins; empty before."""
        self._asking: threading.Thread | None = None
        self._is_called = False
        if self._directory is not None:
            hang_reports.remove(self._directory, trainer.global_rank)

    def report(self, position: Position) -> None:
        """Say where this rank is, and ask the others to do so."""
        if self._directory is not None:
            rank, host = self._trainer.global_rank, socket.gethostname()
            hang_reports.put(self._directory, Report(rank, host, position, stacks.own_place()))
            if self.attempt:
                hang_reports.call(self._directory, self.attempt)

    def is_called(self) -> bool:
        """Return whether another rank hangs, whose limit may be shorter. A disk that hangs does not hold this up."""
        directory, attempt = self._directory, self.attempt
        if directory is None or not attempt:
            return False
        if self._asking is None or not self._asking.is_alive():

            def ask() -> None:
                self._is_called = hang_reports.is_called(directory, attempt)

            self._asking = threading.Thread(target=ask, daemon=True)
            self._asking.start()
        self._asking.join(_CALL_S)
        return self._is_called

    def words(self, limit_s: float) -> str:
        """Return sentences about all ranks; empty for a single one."""
        if self._directory is None:
            return ""
        found = hang_reports.wait(self._directory, self._trainer.world_size, min(REPORTS_S, limit_s))
        return hang_reports.words(found, self._trainer.world_size)

    def follows(self) -> bool:
        """Return whether Lightning has started this process, which then leaves the end of the run to the main rank.

        Lightning kills the main process when such a process ends with an error, and its exit code would be lost.
        """
        environment = getattr(self._trainer.strategy, "cluster_environment", None)
        is_child = isinstance(environment, LightningEnvironment) and self._trainer.local_rank > 0
        return is_child and os.getppid() == self._parent

    def main_is_stopped(self) -> bool:
        """Return whether the process that this one follows is stopped (SIGSTOP), so that it cannot end the run."""
        return self.follows() and stacks.state(self._parent) in ("T", "t")

    def ends_the_run(self, limit_s: float) -> bool:
        """Return whether this process notes the hang: rank 0, or the first one that is left; once for an attempt."""
        rank = self._trainer.global_rank
        if rank > 0:
            if self._directory is None:
                return False
            found = hang_reports.wait(self._directory, self._trainer.world_size, min(REPORTS_S, limit_s))
            if min(found, default=0) != rank:
                return False
        # Rank 0 may answer late, and a sentinel may have been faster.
        return self._journal is None or not self.attempt or hang_reports.claim(self._journal, self.attempt)

    def local(self) -> dict[int, str]:
        """Return the other ranks on this machine and the data workers, with their names, by process id."""
        found = stacks.others()
        launcher = getattr(self._trainer.strategy, "launcher", None)
        for number, process in enumerate(getattr(launcher, "procs", ()), start=1):
            if process.pid in found:
                found[process.pid] = f"rank {self._trainer.global_rank + number}: {found[process.pid]}"
        return found

    def kill(self) -> None:
        """Kill the other ranks on this machine, and the data workers."""
        stacks.kill_others(stacks.others())
        if self.main_is_stopped():
            stacks.kill_others({self._parent, *stacks.others(self._parent)} - {os.getpid()})
        elif launcher := getattr(self._trainer.strategy, "launcher", None):
            with suppress(Exception):
                launcher.kill(9)
