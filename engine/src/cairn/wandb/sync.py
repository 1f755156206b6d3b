"""`cairn sync`: send W&B what it lacks of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cairn import bounded_yaml, opening, records
from cairn.errors import CheckpointError, ResumeError, first_line
from cairn.store import planning
from cairn.store.catalog import Catalog, verify
from cairn.trackers.lines import read
from cairn.types import Saved
from cairn.wandb import client, notes
from cairn.wandb.artifacts import Artifacts
from cairn.wandb.environment import prepare
from cairn.wandb.logger import WandbLogger
from cairn.wandb.run import abandon_client, is_preempted
from cairn.wandb.settings import WandbSettings, stored


@dataclass(frozen=True)
class Synced:
    """What W&B has of a run after a `sync`."""

    run: str
    """`entity/project/id`."""
    num_rows: int
    """Rows of the history that were sent now."""
    has_history: bool
    """Whether W&B has accepted all of the history."""
    states: Sequence[tuple[Saved, str]]
    """Each kept checkpoint that W&B should have, and its version there; empty if there is none."""


@dataclass(frozen=True)
class StoredRun:
    """What a run directory says of its run."""

    path: Path
    id: str
    status: str
    """running (or killed), finished, paused, stopped, failed."""
    why: str
    """What stopped it."""
    config: Mapping[str, Any]
    """Resolved."""
    settings: WandbSettings

    @property
    def checkpoints(self) -> Path:
        """The checkpoint directory. One that was in the run directory has moved with it."""
        path, then = Path(self.config["checkpoint"]["dirpath"]), Path(self.config["paths"]["output_dir"])
        return self.path / path.relative_to(then) if path.is_relative_to(then) else path

    @property
    def exit_code(self) -> int:
        """The exit code of its last process; 1 if that was killed."""
        if self.status == "hung":
            return os.EX_TEMPFAIL
        if self.status == "stopped" and self.why != "max_time":
            return 128 + signal.Signals[self.why] if self.why in signal.Signals.__members__ else os.EX_TEMPFAIL
        return 0 if self.status in ("finished", "paused", "stopped") else 1


def sync(run: Path, limit_s: float) -> Synced:
    """Send W&B what it lacks of a run. Nothing is deleted there but what retention has deleted here.

    The history is that of the journal: pictures, console output and system metrics are only in W&B's own files.

    Args:
        run: The run directory.
        limit_s: Maximum time to wait for uploads, in seconds.

    Returns:
        What W&B has now.

    Raises:
        ResumeError: The run has no W&B logger, or W&B cannot be reached.
    """
    stored_run = read_run(run.absolute())
    os.environ.pop("WANDB_MODE", None)  # whatever runs do: this command uses the network
    prepare(stored_run.path, offline=False, finish_s=max(1.0, limit_s))  # 0 would be no limit
    logger = _logger(stored_run)
    num_rows = sum(logger.deliver(row) for row in list(read(logger.journal.path)))
    facts = _facts(stored_run.path)
    logger.log_hyperparams({**stored_run.config, "run": facts})
    try:
        return _sync_checkpoints(stored_run, logger, num_rows, facts, limit_s)
    finally:
        if not logger.has_ended:
            abandon_client()


def read_run(path: Path) -> StoredRun:
    """Read what a run directory says of its run.

    Args:
        path: The run directory.

    Returns:
        The run.

    Raises:
        ResumeError: It cannot be read, or the run has no W&B logger.
    """
    try:
        config = bounded_yaml.parse(opening.read_text(path / "config.yaml"))
        record = records.parse(opening.read_bytes(path / "run.json"))
        run_id, status, why = (str(record.get(name, "")) for name in ("id", "status", "why"))
        settings = stored(config)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ResumeError(f"{path} is not the directory of a run that can be read ({first_line(error)}).") from error
    if settings is None:
        raise ResumeError(f"{path} has no W&B logger in its configuration: there is nothing to send.")
    return StoredRun(path, run_id, status, why, config, settings)


def _facts(run: Path) -> Mapping[str, Any]:
    found = notes.read(run).get("facts")
    return found if isinstance(found, dict) else {}


def _logger(run: StoredRun) -> WandbLogger:
    settings, before = run.settings, notes.read(run.path)
    logger = WandbLogger(
        save_dir=run.path,
        offline=False,
        id=settings.id or run.id,
        project=settings.project,
        entity=settings.entity,
        name=settings.name or before.get("name"),
        group=settings.group or before.get("group"),
        tags=list(settings.tags),
        **settings.more,
    )
    try:
        _ = logger.experiment
    except Exception as error:
        raise ResumeError(f"W&B cannot be reached: {first_line(error)}.") from error
    return logger


def _sync_checkpoints(
    run: StoredRun, logger: WandbLogger, num_rows: int, facts: Mapping[str, Any], limit_s: float
) -> Synced:
    kept, group, experiment = Catalog(run.checkpoints).committed(), run.config["checkpoint"], logger.experiment
    mode = group.get("mode", "min")
    links = planning.links(kept, mode if group.get("monitor") and mode in ("min", "max") else None)
    settings, finished = replace(run.settings.artifacts, wait_s=limit_s), run.status == "finished"
    known = {key: facts[key] for key in ("git_commit", "started_from") if key in facts}
    listener = Artifacts(experiment, **asdict(settings), run_directory=run.path, facts=known)
    listener.opened(run.checkpoints, [saved for saved in kept if _is_intact(run.checkpoints, saved)], links, [])
    listener.close(finished, limit_s)
    project = f"{experiment.entity}/{experiment.project}"
    name, artifact = f"{project}/{experiment.id}", f"{project}/{client.collection(experiment.id)}"
    if run.status == "hung" or (run.status == "stopped" and is_preempted(run.why)):
        logger.preempt()
    has_history = logger.close(run.exit_code)
    wanted = [saved for saved in kept if settings.wants(saved, links, finished)]
    return Synced(name, num_rows, has_history, _states(artifact, wanted))


def _states(artifact: str, wanted: Sequence[Saved]) -> list[tuple[Saved, str]]:
    """Each checkpoint with the version that holds its bytes, looked up again: an upload proves nothing."""
    try:
        there = client.versions(artifact)
    except Exception as error:
        raise ResumeError(f"W&B does not answer what it has: {first_line(error)}.") from error
    return [(saved, next((v.version for v in there if _is_of(v, saved)), "")) for saved in wanted]


def _is_of(version: Any, saved: Saved) -> bool:
    return client.digest_of(version) == saved.digest and client.holds(version, saved)


def _is_intact(folder: Path, saved: Saved) -> bool:
    try:
        verify(folder / saved.name, saved)
    except CheckpointError:
        return False  # and so it is reported as missing
    return True
