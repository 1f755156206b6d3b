"""One run and W&B: which run it is there, what W&B is sent when it starts, and how it ends.

Imports wandb only when a run uses it: that takes a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import loggers

from cairn.trackers.logger import RowLogger
from cairn.trackers.settings import ArtifactSettings
from cairn.wandb import notes
from cairn.wandb.artifacts import Artifacts
from cairn.wandb.logger import WandbLogger, end_run, why_not_done
from cairn.wandb.settings import WandbSettings, shortened
from cairn.wandb.start import used_artifact

STOP_S = 10.0
"""Time that the end of a run may take after a signal: the next start, or `sync`, uploads the rest."""
_FINISH_S = 2.0
"""The part of `STOP_S` that is left to the history and the exit code."""
_TEARDOWN_S = 1.0
"""Additional time for what is left of a client whose process was killed; it takes milliseconds."""
_ROWS_S = 60.0
"""Maximum time that the end of a run waits for the rows of another tracker."""
_NOT_PREEMPTED = ("", "SIGINT", "max_time")


@dataclass(frozen=True)
class SweepJob:
    """A run as a job of a sweep."""

    sweep: Path
    """Directory of the sweep."""
    special: Sequence[str]
    """The overrides in which this job differs from the others."""


def logger_arguments(settings: WandbSettings, run: Path, run_id: str, job: SweepJob | None = None) -> dict[str, Any]:
    """What the configuration leaves to the run: its id and, in a sweep, a name that says what is special, and a group.

    Args:
        settings: From the configuration.
        run: The run directory; a run that resumes is called there what it was called before.
        run_id: Id of the run.
        job: Job of a sweep, if it is one.

    Returns:
        Arguments of `WandbLogger`.
    """
    before = notes.read(run)
    name, group = settings.name or before.get("name"), settings.group or before.get("group")
    if job is not None:
        group = group or shortened(f"{job.sweep.parent.name}-{job.sweep.name}")
        name = name or shortened(" ".join(job.special)) or run.name
    notes.add(run, name=name, group=group)
    return {"id": settings.id or run_id, "name": name, "group": group, "project": settings.project, "forget": _forget}


def log_run(run: Path, given: Sequence[Any], config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Send the loggers the configuration and the facts of a run.

    Args:
        run: The run directory, which keeps what a later start or `sync` cannot find out.
        given: The loggers of the trainer.
        config: The resolved configuration.
        facts: What else is known of the run: the command, the git commit, what it started from, ...
    """
    if "started_from" not in facts and (before := notes.read(run).get("facts", {}).get("started_from")):
        facts = {**facts, "started_from": before}
    if any(isinstance(logger, WandbLogger) for logger in given):
        notes.add(run, facts=facts)
    for logger in given:
        logger.log_hyperparams({**config, "run": facts})


def artifacts(
    settings: ArtifactSettings, given: Sequence[Any], run: Path, facts: Mapping[str, Any]
) -> Artifacts | None:
    """The listener that uploads the checkpoints of a run.

    Args:
        settings: Which checkpoints W&B should have.
        given: The loggers of the trainer.
        run: The run directory.
        facts: As for `log_run`.

    Returns:
        None if there is nothing to upload, or no logger of ours, or W&B has refused the run.
    """
    logger = next((item for item in given if isinstance(item, WandbLogger)), None)
    if logger is None or logger.mode == "disabled":
        return None
    started_from = facts.get("started_from")
    if settings.which == "none" and (started_from is None or logger.mode != "online"):
        return None
    experiment = logger.experiment
    if logger.mode == "disabled":  # W&B has just refused the run
        return None
    found = used_artifact(started_from, experiment.entity, experiment.project) if started_from else ""
    return Artifacts(
        experiment,
        **asdict(settings),
        run_directory=run,
        facts={key: facts[key] for key in ("git_commit", "started_from") if key in facts},
        uses=[found] if found else [],
    )


@dataclass(frozen=True)
class ExitStatus:
    """How a run has ended."""

    code: int = 1
    """Exit code of the process."""
    stopped_by: str = ""
    """What has stopped the run: a signal, or a time limit; empty if nothing did."""
    finished: bool = False
    """Whether the run has reached its end."""
    paused: bool = False
    """Whether it has paused at `pause_at`."""

    @property
    def word(self) -> str:
        """`finished` (also by its own time limit), `paused`, `stopped` or `failed`."""
        if self.paused:
            return "paused"
        is_planned = self.finished or self.code == 0
        return "finished" if is_planned else "stopped" if self.stopped_by else "failed"


def is_preempted(stopped_by: str) -> bool:
    """Whether a run was stopped by something else than its user.

    Args:
        stopped_by: A signal, a limit, or empty.

    Returns:
        True for a signal of a scheduler, for example.
    """
    return stopped_by not in _NOT_PREEMPTED


class Closing(Protocol):
    """Something that has to be closed at the end of a run, see `Listener`."""

    def close(self, finished: bool, limit_s: float) -> None:
        """See `Listener`."""
        ...


def end(
    listeners: Closing,
    given: Sequence[Any],
    status: ExitStatus,
    wait_s: float,
    now: Callable[[], float] = time.monotonic,
    stop_s: float = STOP_S,
) -> None:
    """Upload what is left of a run, and end it in W&B and other trackers.

    A run that was stopped has `stop_s` for all of it, even if everything hangs: the job is not requeued before, and
    SIGKILL may come first. When a process ends, it waits for W&B's client without a limit: a client that has used up
    its time is killed.

    Args:
        listeners: Listeners of the run.
        given: The loggers of the trainer.
        status: How the run has ended.
        wait_s: Maximum time to wait for uploads of a run that was not stopped, in seconds.
        now: A clock.
        stop_s: Time that the end of a run that was stopped may take, in seconds.
    """
    until = now() + stop_s
    stopped = bool(status.stopped_by)
    if is_preempted(status.stopped_by):  # before anything that may take all of the time
        for logger in given:
            if isinstance(logger, WandbLogger):
                logger.preempt()
    try:
        listeners.close(status.finished, stop_s - _FINISH_S if stopped else wait_s)
    finally:
        for logger in given:
            if isinstance(logger, RowLogger):
                logger.close(status.word, max(0.0, until - now()) if stopped else min(wait_s, _ROWS_S))
        ours = [logger for logger in given if isinstance(logger, loggers.WandbLogger)]
        have_ended = [end_run(logger, status.code, max(0.0, until - now()) if stopped else None) for logger in ours]
        if not all(have_ended) or (ours and stopped and now() >= until):
            abandon_client()


def abandon_client() -> None:
    """End a client that hangs. What it has written to its log stays, and `sync` sends it."""
    from cairn.wandb import client

    if client.kill():
        why_not_done(client.forget, _TEARDOWN_S)


def _forget() -> None:
    from cairn.wandb import client

    client.forget()
