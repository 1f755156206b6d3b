"""Arguments that several commands share, and the functions that resolve them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cairn import extras
from cairn.errors import ConfigError, ResumeError
from cairn.runs.directory import RunDirectory, newest
from cairn.store import earlier, shards
from cairn.store.catalog import Catalog
from cairn.types import Mode
from cairn.units import parse_duration_s

LOGS = Path("logs")
"""Where `latest` looks for runs."""


@dataclass(frozen=True)
class CheckpointDirectory:
    """A directory of checkpoints, and the run that it belongs to, if it is known."""

    path: Path
    run: RunDirectory | None = None
    monitor: str | None = None
    mode: Mode | None = None


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN."""
    text = "run directory, checkpoint directory, or latest for the newest run below logs/"
    parser.add_argument("named", metavar="RUN", help=text)


def find_checkpoints(named: str) -> CheckpointDirectory:
    """Return the checkpoint directory that a user names.

    Args:
        named: A run directory, a checkpoint directory with or without a run, or `latest`.

    Raises:
        ResumeError: The directory does not exist, or holds neither a run nor checkpoints.
    """
    if named == "latest":
        run = newest(LOGS)
        if run is None:
            raise ResumeError(f"There is no run below {LOGS}/: pass a run directory or a checkpoint directory.")
        named = str(run.path)
    path = Path(named).absolute()
    if shards.is_sharded(path):
        raise ResumeError(f"{named} is a single checkpoint, a directory of shards: name the directory that holds it.")
    if not path.is_dir():
        raise ResumeError(f"There is no directory {named}: pass a run, or latest for the newest run below {LOGS}/.")
    for run in (RunDirectory(path), RunDirectory(path.parent)):
        if run.record_file.is_file() and (run.path == path or run.checkpoints().resolve() == path.resolve()):
            group = run.config()["checkpoint"]
            monitor = str(group["monitor"]) if group.get("monitor") else None
            mode: Mode = "max" if group.get("mode") == "max" else "min"
            return CheckpointDirectory(run.checkpoints(), run, monitor, mode if monitor else None)
    if any(Catalog(path).all()) or earlier.waiting(path):  # committed checkpoints, or rejected files
        return CheckpointDirectory(path)
    raise ResumeError(f"{named} is neither a run (it has no run.json) nor a directory with checkpoints.")


def find_run(named: str, why: str) -> tuple[CheckpointDirectory, RunDirectory]:
    """Return the run that a user names, with its checkpoints.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        why: Clause for the error message, such as `sync needs the W&B settings of the run`.

    Raises:
        ResumeError: The directory does not belong to a run.
    """
    directory = find_checkpoints(named)
    if directory.run is None:
        raise ResumeError(f"{named} does not belong to a run, but {why}: pass a run directory.")
    return directory, directory.run


def duration_s(text: str, name: str) -> float:
    """Return a duration from the command line, in seconds.

    Args:
        text: The duration as the user wrote it, such as '90s' or '8h'.
        name: Name of the option.

    Raises:
        ConfigError: `text` is not a duration.
    """
    try:
        return parse_duration_s(text, name=name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require(module: str, command: str, extra: str) -> None:
    """Check that an optional dependency of a command is installed.

    Args:
        module: Name under which the package is imported.
        command: Command that needs the package.
        extra: Extra of cairn-checkpoint that installs the package.

    Raises:
        ConfigError: The package is not installed.
    """
    if find_spec(module) is None:
        raise ConfigError(f"cairn {command} needs {module}, which is not installed: {extras.how_to_install(extra)}")
