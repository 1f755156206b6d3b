"""The run directory: which files say what a run is, and which run is meant by `resume=`."""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError, ResumeError
from cairn.store import disk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What `run.json` holds."""

    id: str
    task_name: str
    overrides: tuple[str, ...] = ()
    """The overrides of the command line that made the run, and of those that changed it later."""
    status: str = "running"
    """running (or killed), finished, stopped, failed."""
    why: str = ""
    """What stopped it."""
    result: float | None = None
    """The value of `optimized_metric` at the end."""
    created: str = ""
    """UTC, ISO 8601."""


class RunDirectory:
    """One run's directory and the files in it that belong to the run as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.started = False
        """By this process."""

    @property
    def config_file(self) -> Path:
        """The resolved configuration that the run goes by, also when the YAML files have changed since."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """Its id, its overrides and how it ended."""
        return self.path / "run.json"

    @property
    def progress_file(self) -> Path:
        """How far it is, see `checkpoint.progress`."""
        return self.path / "progress.json"

    @property
    def starts_file(self) -> Path:
        """A line for each time that it was started, see `attempts`."""
        return self.path / "starts.jsonl"

    def config(self) -> DictConfig:
        """The resolved configuration that the run goes by.

        Raises:
            ResumeError: it cannot be read.
        """
        try:
            found = OmegaConf.load(self.config_file)
            if not isinstance(found, DictConfig) or "checkpoint" not in found:
                raise ValueError("it is no configuration of a run")
        except Exception as error:  # what YAML may say to a damaged file is of many kinds
            raise ResumeError(f"{self.config_file} cannot be read: {str(error).splitlines()[0]}.") from error
        return found

    def checkpoints(self) -> Path:
        """Where its checkpoints lie today: with the run, wherever it was moved, if they lay in it when it began.

        Raises:
            ResumeError: its configuration cannot be read.
        """
        cfg = self.config()
        path, then = Path(cfg.checkpoint.dirpath), Path(cfg.paths.output_dir)
        return self.path / path.relative_to(then) if path.is_relative_to(then) else path

    def record(self) -> Record | None:
        """What is known of the run; None if there was none here yet.

        Raises:
            ResumeError: the file is no record.
        """
        if not self.record_file.is_file():
            return None
        try:
            fields = json.loads(self.record_file.read_text())
            return Record(**{**fields, "overrides": tuple(fields["overrides"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ResumeError(f"{self.record_file} is no record of a run ({error}).") from error

    def lock(self, patience_s: float = 0.0) -> None:
        """Let no other process train here as long as this one lives.

        Args:
            patience_s: how long to wait for one that does: of a job that was requeued, the old processes may be dying.

        Raises:
            ResumeError: one does.
            ConfigError: the directory cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held until the process ends, however it ends
        except OSError as error:
            raise ConfigError(f"The run directory {self.path} cannot be written: {error.strerror}.") from error
        until = time.monotonic() + patience_s
        while not _is_ours(self._lock):
            if time.monotonic() >= until:
                self._lock.close()
                raise ResumeError(f"Another process trains in {self.path}: wait for it, or stop it.")
            time.sleep(0.2)

    def unlock(self) -> None:
        """Let others train here again."""
        self._lock.close()

    def start(self, task_name: str, overrides: tuple[str, ...], config: str) -> Record:
        """Note that the run starts (or goes on) now, with this configuration.

        Raises:
            ConfigError: the directory cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        old = self.record() or Record(secrets.token_hex(4), task_name, created=now)
        record = replace(old, overrides=overrides, status="running", why="")
        try:
            disk.make_directory(self.path)
            disk.sync_path(self.path)  # Hydra has made it
            _replace(self.config_file, config)
            self._write(record)
        except OSError as error:
            raise ConfigError(f"The run directory {self.path} cannot be written: {error.strerror}.") from error
        self.started = True
        return record

    def end(self, status: str, why: str = "", result: float | None = None) -> None:
        """Note how the run ended, if it was this process that has started it."""
        if not self.started or (record := self.record()) is None:
            return
        try:
            self._write(replace(record, status=status, why=why, result=result))
        except OSError as error:
            log.error("How the run ended could not be written to %s: %s.", self.record_file, error.strerror)

    def _write(self, record: Record) -> None:
        fields: dict[str, Any] = asdict(record)
        _replace(self.record_file, json.dumps(fields, indent=2) + "\n")


def find(named: str, log_dir: Path, task_name: str) -> RunDirectory:
    """The run that `resume=` means: a directory, or `latest`, the newest run of the task.

    Raises:
        ResumeError: there is none.
    """
    if named != "latest":
        return _existing(Path(named))
    run = newest(log_dir / task_name)
    if run is None:
        raise ResumeError(f"resume=latest: there is no run of the task {task_name!r} in {log_dir / task_name}.")
    return run


def newest(folder: Path) -> RunDirectory | None:
    """The run below `folder` that was started or ended last."""
    return max(below(folder), key=lambda run: run.record_file.stat().st_mtime, default=None)


def below(folder: Path, pattern: str = "**/run.json") -> list[RunDirectory]:
    """The runs whose records match. (What W&B calls a run has a file of this name in a run's folder `wandb`.)"""
    return [RunDirectory(path.parent) for path in folder.glob(pattern) if path.parent.name != "wandb"]


def _existing(path: Path) -> RunDirectory:
    if path.is_file():
        raise ResumeError(f"resume={path} is a file: give its run directory, or ckpt_path= it into a new run.")
    if not path.is_dir():
        raise ResumeError(f"resume={path}: there is no such directory. (resume=latest is the newest run.)")
    run = RunDirectory(path)
    if run.record() is None:
        hint = f": did you mean {path.parent}?" if (path.parent / "run.json").is_file() else ""
        raise ResumeError(f"resume={path} is not the directory of a run, it has no run.json{hint or '.'}")
    return run


def _is_ours(file: IO[str]) -> bool:
    """Try to lock it, until this process ends."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows both
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _replace(path: Path, text: str) -> None:
    disk.put(path, text.encode())
