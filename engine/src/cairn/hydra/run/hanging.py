"""What a run directory and a launcher learn when a run hangs."""

from __future__ import annotations

import logging
from pathlib import Path

from cairn.hydra.run.start import Start
from cairn.jobs.requeue import HANG, requeue_if_needed
from cairn.store.hangs import Hang


class RecordAndRequeue:
    """Records a hang in `run.json`, and lets submitit requeue the job if SLURM does not; see `AtHang`.

    Args:
        start: Decisions of this start.
    """

    setting = "checkpoint.watchdog"

    def __init__(self, start: Start) -> None:
        self._start = start
        files = [item for item in logging.getLogger().handlers if isinstance(item, logging.FileHandler)]
        self.log_file = Path(files[0].baseFilename) if files else None

    def end(self, hang: Hang, requeues: bool) -> None:
        """Record the hang, and requeue the job."""
        self._start.directory.end("hung", str(hang) if requeues else f"{hang}; not requeued")
        if requeues:
            requeue_if_needed(HANG, self._start.context.allocation, self._start.context.signals)
