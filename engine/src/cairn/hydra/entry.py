"""One job: signals are caught before torch is imported, then comes the run, and then who starts the job again."""

from __future__ import annotations

from omegaconf import DictConfig

from cairn.hydra import imports
from cairn.jobs import allocation, requeue
from cairn.jobs.signals import Leave, StopSignals


def train(cfg: DictConfig) -> float | None:
    """Train as `cfg` says; see `run.run`.

    Raises:
        SystemExit: 1 after an error that a sentence can tell; 130, 138, 140, 143 after a signal; 75 near the end of the
            job's time. A job that submitit requeues ends as it says.
    """
    given = allocation.current()
    with StopSignals() as signals:
        try:
            with imports.quick():  # torch is imported here: not for --help, not before signals are caught
                from cairn.hydra.session import Job, run

            return run(cfg, Job(signals, given))
        except KeyboardInterrupt as stop:  # where there was nothing to save
            if signals.name is None:
                raise
            leave = Leave(signals.name)
            leave.__cause__ = stop
        except Leave as stop:
            leave = stop
        signals.stopping = True
        requeue.after(leave.why, given, signals)
        raise leave
