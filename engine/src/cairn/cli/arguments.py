"""Arguments that several commands take, and the values they stand for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cairn.errors import ConfigError, ResumeError
from cairn.runs.directory import RunDirectory, newest
from cairn.store.catalog import Catalog
from cairn.types import Mode
from cairn.units import parse_duration_s

LOGS = Path("logs")
"""Where `latest` looks for runs."""


@dataclass(frozen=True)
class CheckpointDirectory:
    """A directory of checkpoints, and the run that it belongs to if that is known."""

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
        named: A run directory, a checkpoint directory of a run or of a library user, or `latest`.

    Raises:
        ResumeError: There are no checkpoints and no run in it, or it is missing.
    """
    if named == "latest":
        run = newest(LOGS)
        if run is None:
            raise ResumeError(f"There is no run below {LOGS}/: name a run directory or a checkpoint directory.")
        named = str(run.path)
    path = Path(named).absolute()
    if not path.is_dir():
        raise ResumeError(f"There is no directory {named}: name a run, or latest for the newest run below {LOGS}/.")
    for run in (RunDirectory(path), RunDirectory(path.parent)):
        if run.record_file.is_file() and (run.path == path or run.checkpoints().resolve() == path.resolve()):
            group = run.config()["checkpoint"]
            monitor = group.get("monitor")
            return CheckpointDirectory(run.checkpoints(), run, monitor, group.get("mode", "min") if monitor else None)
    if any(Catalog(path).all()):  # committed checkpoints, or rejected files
        return CheckpointDirectory(path)
    raise ResumeError(f"{named} is neither a run (it has no run.json) nor a directory with checkpoints.")


def find_run(named: str, why: str) -> tuple[CheckpointDirectory, RunDirectory]:
    """Return the run that a user names, with its checkpoints.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        why: What the run is needed for, for the error message.

    Raises:
        ResumeError: It is not a run.
    """
    directory = find_checkpoints(named)
    if directory.run is None:
        raise ResumeError(f"{named} does not belong to a run directory, {why}: name the run.")
    return directory, directory.run


def duration_s(text: str, name: str) -> float:
    """Return the seconds in a duration of the command line.

    Args:
        text: What the user wrote, such as '90s' or '8h'.
        name: Name of the option.

    Raises:
        ConfigError: It is not a duration.
    """
    try:
        return parse_duration_s(text, name=name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require(module: str, command: str, extra: str) -> None:
    """Check that a package is installed which only some commands need.

    Args:
        module: Name that it is imported by.
        command: Command that needs it.
        extra: Extra of the distribution that installs it.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec(module) is None:
        raise ConfigError(
            f"cairn {command} needs {module}, which is not installed: pip install 'cairn-checkpoint[{extra}]'"
        )
