"""Arguments that several commands share, and the functions that resolve them."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cairn import extras
from cairn.errors import ConfigError, ResumeError
from cairn.remote import origin, view
from cairn.remote.address import is_address
from cairn.remote.view import View
from cairn.run import summary
from cairn.run.directory import RunDirectory, newest
from cairn.store import earlier, shards
from cairn.store.catalog import Catalog
from cairn.types import Mode
from cairn.units import parse_duration_s

CHECKPOINTS = "checkpoints"
LOGS = Path("logs")
"""Where `latest` looks for runs."""


@dataclass(frozen=True)
class CheckpointDirectory:
    """A directory of checkpoints, and the run that it belongs to, if it is known."""

    path: Path
    run: RunDirectory | None = None
    monitor: str | None = None
    mode: Mode | None = None
    mirror: View | None = None
    """The mirror that the directory stands for; None: it holds the checkpoints themselves."""

    @property
    def shown(self) -> str:
        """The directory as a user would name it."""
        return f"{self.mirror.address}/{CHECKPOINTS}" if self.mirror else summary.relative(self.path)

    @property
    def shown_run(self) -> str:
        """The run as a user would name it; empty if it is not known."""
        if self.run is None:
            return ""
        return str(self.mirror.address) if self.mirror else summary.relative(self.run.path)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN."""
    text = "run directory, checkpoint directory, address of a run, or latest for the newest run below logs/"
    parser.add_argument("named", metavar="RUN", help=text)


def find_checkpoints(named: str) -> CheckpointDirectory:
    """Return the checkpoint directory that a user names.

    Args:
        named: A run directory, a checkpoint directory with or without a run, the address of a run in an object store,
            or `latest`.

    Raises:
        ConfigError: It is not an address, or the store refuses access.
        ResumeError: The directory does not exist, or holds neither a run nor checkpoints.
    """
    if is_address(named):
        return _mirrored(named)
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
            return CheckpointDirectory(run.checkpoints(), run, *ranking(run))
    if any(Catalog(path).all()) or earlier.waiting(path):  # committed checkpoints, or rejected files
        return CheckpointDirectory(path)
    raise ResumeError(f"{named} is neither a run (it has no run.json) nor a directory with checkpoints.")


def refuse_address(named: str, command: str) -> None:
    """Refuse an address where only a directory can be read.

    Args:
        named: What the user has named.
        command: The command, for the message.

    Raises:
        ConfigError: It is an address.
    """
    if is_address(named):
        raise ConfigError(
            f"{named} is an address, and cairn {command} reads the disk: copy its run first, with cairn pull."
        )


def load_dotenv() -> None:
    """Read `.env` of the current directory, which may hold credentials, if the package for that is installed."""
    with suppress(ModuleNotFoundError):
        from dotenv import load_dotenv

        load_dotenv(Path(".env"))


def _mirrored(named: str) -> CheckpointDirectory:
    load_dotenv()
    wanted = origin.parse(named)
    if not wanted.is_newest:
        raise ResumeError(f"{named} is a single checkpoint: name the address of its run, {wanted.run}.")
    found = view.of(wanted.run)
    run = RunDirectory(found.run)
    if not run.record_file.is_file():
        return CheckpointDirectory(found.checkpoints, mirror=found)
    return CheckpointDirectory(found.checkpoints, run, *ranking(run), mirror=found)


def ranking(run: RunDirectory) -> tuple[str | None, Mode | None]:
    """Return the metric that ranks the checkpoints of a run, and whether a lower or a higher score is better."""
    group = run.config()["checkpoint"]
    monitor = str(group["monitor"]) if group.get("monitor") else None
    mode: Mode = "max" if group.get("mode") == "max" else "min"
    return monitor, mode if monitor else None


def find_run(named: str, why: str) -> tuple[CheckpointDirectory, RunDirectory]:
    """Return the run that a user names, with its checkpoints.

    Args:
        named: A run directory, its checkpoint directory, or `latest`.
        why: Clause for the error message, such as `sync needs the W&B settings of the run`.

    Raises:
        ResumeError: The directory does not belong to a run.
    """
    if is_address(named):
        raise ResumeError(f"{named} is not on this machine, but {why}: bring it with cairn pull.")
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
