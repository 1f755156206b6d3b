"""Requeues a job that was stopped, unless something else does: a job must be requeued exactly once."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Callable

from cairn.jobs import slurm
from cairn.jobs.allocation import Allocation
from cairn.jobs.signals import Interrupts, ignore_signals

log = logging.getLogger(__name__)

HANG = "hang"
"""What has stopped a run that a watchdog has ended."""


def requeue_if_needed(reason: str, allocation: Allocation, signals: Interrupts) -> None:
    """Requeue the job of this process through submitit if SLURM does not; call this once all is saved and closed.

    SLURM requeues a job that it preempts, and sets its state before it sends the signal: the job is COMPLETING or
    PENDING then. A job in its grace time, or near its time limit, is RUNNING: without a requeue it would end for good.

    Args:
        reason: Name of the signal that stopped the run, or what else stopped it, such as `HANG`.
        allocation: Allocation of this process.
        signals: Holds the handler by which submitit requeues.

    Raises:
        SystemExit: Raised by submitit after it has requeued the job.
        submitit.core.utils.UncompletedJobError: The job has timed out too often.
    """
    if allocation.requeued_by != "submitit" or reason == "SIGINT":
        return
    if allocation.scheduler == "slurm" and not _needs_our_requeue(allocation, reason):
        return
    if allocation.scheduler == "submitit_local" and reason in ("SIGTERM", "SIGHUP"):
        return  # sent by a person: nothing preempts local jobs
    handler = signals.previous_handlers.get(signal.SIGUSR2)
    if callable(handler):
        _requeue_by_submitit(handler, allocation)


def _needs_our_requeue(allocation: Allocation, reason: str) -> bool:
    """Return True if SLURM does not requeue the job itself."""
    # Without an answer only SIGTERM is ambiguous, since it may mean a preemption: SLURM never requeues at a time limit.
    state = _state(allocation)
    if state is None and reason == "SIGTERM":
        log.error("SLURM does not answer, so job %s is not requeued from here; SLURM may do it.", allocation.job_id)
    elif state not in (None, "RUNNING"):
        log.info("SLURM job %s is %s: SLURM has already decided whether to requeue it.", allocation.job_id, state)
    return state == "RUNNING" or (state is None and reason != "SIGTERM")


def _requeue_by_submitit(handler: Callable[[int, None], None], allocation: Allocation) -> None:
    """Let submitit requeue the job; a refusal is not an error if SLURM has decided about the job in the meantime."""
    try:
        with ignore_signals():  # the requeue itself sends signals, also to the process that asks for it
            handler(signal.SIGUSR2, None)
    except subprocess.SubprocessError as error:
        state = _state(allocation)
        if state in (None, "RUNNING"):
            raise
        log.info("SLURM job %s is now %s, so it was not requeued from here: %s", allocation.job_id, state, error)


def _state(allocation: Allocation) -> str | None:
    """Return the state of the job; None if SLURM does not answer."""
    try:
        return slurm.job_state(allocation.job_id).state
    except slurm.SlurmError as error:
        log.warning("%s.", error)
        return None
