"""Requeues a SLURM job that a signal has stopped, where Lightning or submitit would have done so without us."""

from __future__ import annotations

import logging

from lightning.pytorch import Trainer

from cairn.jobs import allocation, slurm
from cairn.jobs.allocation import Allocation
from cairn.jobs.requeue import HANG, requeue_if_needed
from cairn.jobs.signals import Interrupts
from cairn.lightning.loops import boundary

log = logging.getLogger(__name__)


def as_before(trainer: Trainer, reason: str, signals: Interrupts) -> None:
    """Requeue the job, on rank 0, once the run is saved: our handlers took the place of those that do it otherwise.

    Lightning requeues a job at its requeue signal (SIGUSR1 by default) unless its user wants none
    (`SLURMEnvironment(auto_requeue=False)`); submitit does so at SIGUSR2, in the jobs that it has started.

    Args:
        trainer: The trainer of the fit.
        reason: Name of the signal.
        signals: The handlers of the fit, still installed.

    Raises:
        SystemExit: Raised by submitit after it has requeued the job.
    """
    job = allocation.current()
    if reason != boundary.requeue_signal(trainer):
        requeue_if_needed(reason, job, signals)
        return
    _by_us(job)


def after_hang(trainer: Trainer, signals: Interrupts) -> None:
    """Requeue the job of a run that hangs, where Lightning or submitit would have done so after a signal.

    Args:
        trainer: The trainer of the fit.
        signals: The handlers of the fit, still installed.

    Raises:
        SystemExit: Raised by submitit after it has requeued the job.
    """
    job = allocation.current()
    if job.scheduler == "slurm" and boundary.requeue_signal(trainer):
        _by_us(job)
    else:
        requeue_if_needed(HANG, job, signals)


def _by_us(job: Allocation) -> None:
    try:
        slurm.requeue(job.job_id)
        log.info("SLURM job %s is requeued.", job.job_id)
    except slurm.SlurmError as error:
        log.error("SLURM job %s is not requeued: %s.", job.job_id, error)
