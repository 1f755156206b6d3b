"""The mirrors that a start of a run looks into before it decides where to begin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from cairn.errors import ConfigError, RemoteError, ResumeError, named
from cairn.hydra.command import mirrored_run
from cairn.hydra.parse import mirror_address
from cairn.hydra.parse.settings import Settings
from cairn.remote import start
from cairn.remote.address import Address
from cairn.remote.fetch import Target
from cairn.remote.start import Found
from cairn.runs.directory import RunDirectory
from cairn.testing import proof_run
from cairn.types import Saved

log = logging.getLogger(__name__)

_KEY = "checkpoint.mirror"


@dataclass(frozen=True)
class Mirrors:
    """What a start has found in the mirrors of its run: that of `resume=ADDRESS`, and its own."""

    found: Sequence[Found] = ()
    target: Target | None = None

    @property
    def run(self) -> str:
        """Id of the run that they belong to; empty if no run has used them yet."""
        return next((item.run for item in self.found if item.run), "")

    def bring(self, local: Saved | None) -> Saved | None:
        """Bring the newest intact checkpoint into the run directory, if it is newer than the local one.

        Args:
            local: The newest intact checkpoint on the disk.

        Returns:
            What was brought; None: nothing.

        Raises:
            ResumeError: A store cannot be used, and the disk holds no checkpoint.
        """
        brought = None
        for item in self.found:
            assert self.target is not None
            try:
                brought = item.bring(self.target, brought or local) or brought
            except ResumeError as error:
                raise ResumeError(named(error, _KEY)) from error
        return brought


def join(config: DictConfig, directory: RunDirectory) -> None:
    """Bring the files of a run from its mirror into a directory in which no run has started yet.

    Args:
        config: The configuration that Hydra has composed.
        directory: The run directory.

    Raises:
        ConfigError: The mirror cannot be used.
        ResumeError: Its run files cannot be brought.
    """
    where = _own(config, directory.path)
    if where is None or directory.record() is not None:
        return
    found = _look(where)
    try:
        if start.bring_files(found, directory.path):
            log.info("%s holds this run: continuing it.", where)
    except (RemoteError, ResumeError) as error:
        raise ResumeError(f"The run in {where} cannot be continued: {error}") from error


def look(settings: Settings, directory: RunDirectory, run: str) -> Mirrors:
    """Look into the mirrors of a run.

    Args:
        settings: Settings of the run.
        directory: The run directory.
        run: Id of the run; empty: it is new.

    Raises:
        ConfigError: A mirror cannot be used, or belongs to another run.
    """
    given = [mirrored_run.resumed_address(), _own(settings.config, directory.path)]
    found = [_look(where) for where in dict.fromkeys(given) if where is not None]
    for item in found:
        item.check_run(run)
    checkpoints = settings.checkpoint
    mode = checkpoints.mode if checkpoints.monitor else None
    rules = list(checkpoints.rules.values())
    return Mirrors(found, Target(checkpoints.directory, directory.path, (rules, mode)))


def keep(config: DictConfig, directory: RunDirectory) -> None:
    """Keep the address of the mirror in the run directory, which may be moved later.

    Raises:
        ConfigError: The file cannot be written.
    """
    if proof_run.current() is None:
        mirror_address.keep(config, directory.path, mirrored_run.resumed_address())


def _own(config: DictConfig, run: Path) -> Address | None:
    if proof_run.current() is not None:  # a proof writes to its own directories only
        return None
    return mirror_address.of_run(config, run)


def _look(where: Address) -> Found:
    try:
        return start.look(where)
    except ConfigError as error:
        raise ConfigError(f"{_KEY}: {error}") from error
