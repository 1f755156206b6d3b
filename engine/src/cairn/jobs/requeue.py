"""Decides whether a job that was stopped is started again, and sees to it that exactly one party does that."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Callable

from cairn.jobs import slurm
from cairn.jobs.allocation import Allocation
from cairn.jobs.signals import Interrupts, ignore_signals

log = logging.getLogger(__name__)


def requeue_if_needed(reason: str, allocation: Allocation, signals: Interrupts) -> None:
    """Have the job of this process run again if nobody else does; called when everything is saved and closed.

    SLURM itself requeues a job that it has preempted, and says so before its signal arrives: the job is COMPLETING or
    PENDING then. One that has a time of grace, or is near its limit, is RUNNING, and would be over for good.

    Args:
        reason: the name of the signal that has stopped the run, or what else did.
        allocation: of this process.
        signals: knows the handler by which submitit requeues.

    Raises:
        SystemExit: by submitit, which has requeued the job.
        submitit.core.utils.UncompletedJobError: it has timed out too often.
    """
    if allocation.requeued_by != "submitit" or reason == "SIGINT":
        return
    if allocation.scheduler == "slurm" and not _is_left_to_us(allocation, reason):
        return
    if allocation.scheduler == "submitit_local" and reason == "SIGTERM":
        return  # somebody has stopped it: nothing preempts jobs here
    handler = signals.previous_handlers.get(signal.SIGUSR2)
    if callable(handler):
        _call(handler, allocation)


def _is_left_to_us(allocation: Allocation, reason: str) -> bool:
    """Without an answer only SIGTERM is open to doubt: SLURM requeues nothing of its own at a time limit."""
    state = _state(allocation)
    if state is None and reason == "SIGTERM":
        log.error("Whether SLURM requeues job %s is not known: it is left to SLURM.", allocation.job_id)
    elif state not in (None, "RUNNING"):
        log.info("SLURM job %s is %s: whether it runs again is decided already.", allocation.job_id, state)
    return state == "RUNNING" or (state is None and reason != "SIGTERM")


def _call(handler: Callable[[int, None], None], allocation: Allocation) -> None:
    """Let submitit requeue. SLURM refuses if it has decided since it was asked; the job is nobody's failure then."""
    try:
        with ignore_signals():  # the requeue itself sends signals, to its own caller too
            handler(signal.SIGUSR2, None)
    except subprocess.SubprocessError as error:
        state = _state(allocation)
        if state in (None, "RUNNING"):
            raise
        log.info("SLURM job %s is %s by now: %s", allocation.job_id, state, error)


def _state(allocation: Allocation) -> str | None:
    """None if SLURM does not answer."""
    try:
        return slurm.job_state(allocation.job_id).state
    except slurm.SlurmError as error:
        log.warning("%s.", error)
        return None
