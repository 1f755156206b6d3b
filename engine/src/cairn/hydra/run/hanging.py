"""What a run directory and a launcher learn when a run hangs, and the limit for the end of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cairn.account.watchdog import Alarm, Watchdog
from cairn.hydra.run.start import Start
from cairn.jobs import stacks
from cairn.jobs.requeue import HANG, requeue_if_needed
from cairn.policy.patience import Patience
from cairn.run import summary
from cairn.store.hangs import Hang
from cairn.units import format_duration


class RecordAndRequeue:
    """Records a hang in `run.json`, and lets submitit requeue the job if SLURM does not; see `AtHang`.

    Args:
        start: Decisions of this start.
    """

    setting = "checkpoint.watchdog"

    def __init__(self, start: Start) -> None:
        self._start = start
        self.record_file: Path | None = start.directory.record_file
        files = [Path(item.baseFilename) for item in logging.getLogger().handlers if hasattr(item, "baseFilename")]
        # The log that Hydra has opened; other handlers belong to the user.
        self.log_file = next((path for path in files if path.is_relative_to(start.directory.path)), None)

    def end(self, hang: Hang, requeues: bool) -> None:
        """Record the hang, and requeue the job."""
        self._start.directory.end("hung", str(hang) if requeues else f"{hang}; not requeued")
        if requeues:
            requeue_if_needed(HANG, self._start.context.allocation, self._start.context.signals)


_FINISH_S = 3600.0
"""How long W&B's client may take for files of its own, after the checkpoints are uploaded."""


@contextmanager
def uploads_limited(start: Start, wait_s: float, exit_code: int) -> Iterator[None]:
    """Context for the end of a run in W&B: if it hangs, the process writes its stack traces and exits.

    Args:
        start: Decisions of this start.
        wait_s: Time that the uploads may take, in seconds.
        exit_code: Exit code of the run, which has ended and is recorded.
    """

    def leave(alarm: Alarm) -> None:
        try:
            text = (
                f"The end of this run hangs: no answer from a tracker or a mirror for "
                f"{format_duration(alarm.silent_s)}. The run itself has ended and is recorded; its exit code is "
                f"{exit_code}. Send the rest to W&B with: python -m cairn sync "
                f"{summary.relative(start.directory.path)}\n{stacks.own_stacks()}"
            )
            os.write(2, text.encode(errors="replace"))
        finally:
            os._exit(exit_code)

    limit = start.settings.checkpoint.watchdog
    watchdog = Watchdog(Patience(limit.least_s, 0.0), {"uploads": lambda: 0}, leave)
    watchdog.starting, watchdog.more_s = False, wait_s + _FINISH_S
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
