"""Run directory: the files that say what a run is, and how a run is found by `resume=`."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cairn import opening, records
from cairn.errors import ConfigError, ResumeError, first_line
from cairn.known_directory import KnownDirectory
from cairn.records import RecordError
from cairn.run import config_file, lock
from cairn.run.files_before import FilesBefore
from cairn.store import disk, shards

log = logging.getLogger(__name__)

ADDRESS_FILE = "mirror.json"
"""Run file that keeps the address of the mirror of a run: `prefix` and `path`."""
EVALUATION_FILE = "evaluation.json"
"""Metrics of a test, in a directory that no run owns: `eval=CHECKPOINT`, or `train=false` with a new directory."""


@dataclass(frozen=True)
class RunRecord:
    """Contents of `run.json`."""

    id: str
    task_name: str
    overrides: tuple[str, ...] = ()
    """Overrides of the command that made the run, and of later commands that changed it."""
    status: str = "running"
    """running (or killed), finished, paused, stopped, failed, hung (ended by the watchdog)."""
    why: str = ""
    """What stopped it, where it paused, or the error that ended it."""
    result: float | None = None
    """Value of `optimized_metric` at its end, or where it paused."""
    created: str = ""
    """UTC, ISO 8601."""


class RunDirectory:
    """Directory of one run, with the files that belong to the run as a whole.

    Args:
        path: The directory; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.started = False
        """Whether this process called `start`."""
        self._known: KnownDirectory | None = None
        self._lock: IO[str] | None = None
        self.before: FilesBefore | None = None
        """What the start of this process has changed; None: nothing."""

    @property
    def config_file(self) -> Path:
        """Resolved configuration of the run. It stays valid when the YAML files in `configs/` change."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """Id, overrides and status of the run."""
        return self.path / "run.json"

    @property
    def progress_file(self) -> Path:
        """How far the run is; see `account.progress`."""
        return self.path / "progress.json"

    @property
    def starts_file(self) -> Path:
        """Journal of the run's attempts; see `attempts`."""
        return self.path / "starts.jsonl"

    def config(self, *keys: str) -> dict[str, Any]:
        """Return the resolved configuration of the run as plain values.

        Args:
            *keys: Read only these, such as `trainer`: that is fast. Do not change the values. Without any: all.

        Raises:
            ResumeError: It cannot be read.
        """
        try:
            return config_file.read_parts(self.config_file, keys) if keys else config_file.read(self.config_file)
        except OSError as error:
            raise ResumeError(f"{self.config_file} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ResumeError(f"{self.config_file} cannot be read: {first_line(error)}.") from error

    def checkpoints(self, config: Mapping[str, Any] | None = None) -> Path:
        """Return the checkpoint directory as it is today; it moves together with a run directory that contains it.

        Args:
            config: Configuration of the run, if it is read already, with at least `checkpoint` and `paths`.

        Raises:
            ResumeError: The run's configuration cannot be read.
        """
        config = self.config("checkpoint", "paths") if config is None else config
        try:
            path, then = Path(config["checkpoint"]["dirpath"]), Path(config["paths"]["output_dir"])
        except (KeyError, TypeError) as error:
            raise ResumeError(f"{self.config_file} does not name the checkpoint directory of the run.") from error
        return self.path / path.relative_to(then) if path.is_relative_to(then) else path

    def record(self) -> RunRecord | None:
        """Return the record of the run; None if no run has started here yet.

        Raises:
            ResumeError: The file is not the record of a run.
        """
        if not os.path.lexists(self.record_file):
            return None
        try:
            return records.read(RunRecord, records.parse(opening.read_bytes(self.record_file)))
        except FileNotFoundError:  # a link to nothing
            return None
        except OSError as error:
            raise ResumeError(f"{self.record_file} cannot be read: {error.strerror or error}.") from error
        except RecordError as error:
            raise ResumeError(f"{self.record_file} is not the record of a run ({error}).") from error

    def lock(self, patience_s: float = 0.0) -> None:
        """Keep other processes from training here until `unlock`, or until this process ends.

        Args:
            patience_s: Seconds to wait for a process that holds the lock: those of a requeued job may take a while.

        Raises:
            ResumeError: Another process holds the lock.
            ConfigError: The directory cannot be written.
        """
        self._lock = lock.take(self.path, patience_s)

    def unlock(self) -> None:
        """Allow other processes to train here; without `lock`, do nothing."""
        if self._lock is not None:
            self._lock.close()

    def start(self, task_name: str, overrides: tuple[str, ...], config: str, run: str = "") -> RunRecord:
        """Record that the run starts, or resumes, now.

        Args:
            task_name: Name of the task.
            overrides: Overrides of the run so far.
            config: Resolved configuration, as YAML.
            run: Id of a new run; empty: it gets one here.

        Returns:
            The record as written.

        Raises:
            ConfigError: The directory cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        old = self.record() or RunRecord(run or new_id(), task_name, created=now)
        record = replace(old, overrides=overrides, status="running", why="")
        try:
            disk.make_directory(self.path)
            disk.sync_path(self.path)  # it may have been made by others, without a sync
            disk.put(self.config_file, config.encode())
            self._write(record)
        except OSError as error:
            raise ConfigError(f"The run directory {self.path} cannot be written: {error.strerror}.") from error
        self.started, self._known = True, KnownDirectory.at_or_above(self.path)
        return record

    def end(self, status: str, why: str = "", result: float | None = None) -> None:
        """Record how the run ended. Does nothing in a process that did not start it.

        Args:
            status: Finished, paused, stopped, failed or hung.
            why: What stopped it, where it paused, or the error that ended it.
            result: Value of `optimized_metric` at this end.
        """
        if not self.started:
            return
        try:
            assert self._known is not None
            self._known.check()
            if (record := self.record()) is not None:
                self._write(replace(record, status=status, why=why, result=result))
        except OSError as error:
            log.error("Could not write to %s how the run ended: %s.", self.record_file, error.strerror)

    def _write(self, record: RunRecord) -> None:
        disk.put(self.record_file, (json.dumps(asdict(record), indent=2) + "\n").encode())


def new_id() -> str:
    """Return an id for a new run."""
    return secrets.token_hex(4)


def find(named: str, log_dir: Path, task_name: str) -> RunDirectory:
    """Return the run that `resume=` names.

    Args:
        named: A run directory, or `latest` for the newest run of the task.
        log_dir: Directory that holds the tasks.
        task_name: Task that `latest` refers to.

    Raises:
        ResumeError: There is no such run.
    """
    if named != "latest":
        return _existing(Path(named))
    run = newest(log_dir / task_name)
    if run is None:
        raise ResumeError(f"resume=latest: there is no run of the task {task_name!r} in {log_dir / task_name}.")
    return run


def newest(folder: Path) -> RunDirectory | None:
    """Return the run below `folder` that started or ended last; None if there is no run."""
    return max(below(folder), key=lambda run: run.record_file.stat().st_mtime, default=None)


def below(folder: Path, pattern: str = "**/run.json") -> list[RunDirectory]:
    """Return the runs below `folder` whose records match `pattern`."""
    # W&B has a file of the same name, in the folder `wandb` of a run.
    return [RunDirectory(path.parent) for path in folder.glob(pattern) if path.parent.name != "wandb"]


def _existing(path: Path) -> RunDirectory:
    if path.is_file():
        raise ResumeError(
            f"resume={path} is a file: give its run directory, or start a new run from it with ckpt_path={path}."
        )
    if not path.is_dir():
        raise ResumeError(f"resume={path}: there is no such directory. (resume=latest is the newest run.)")
    if shards.is_sharded(path):
        raise ResumeError(
            f"resume={path} is a checkpoint: give its run directory, or start a new run from it with ckpt_path={path}."
        )
    run = RunDirectory(path)
    if run.record() is None:
        hint = f": did you mean {path.parent}?" if (path.parent / "run.json").is_file() else ""
        raise ResumeError(f"resume={path} is not a run directory: it has no run.json{hint or '.'}")
    return run
