"""The mirrors that a start of a run looks into before it decides where to begin."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from cairn.errors import ConfigError, RemoteError, ResumeError, named
from cairn.hydra.command import mirrored_run
from cairn.hydra.parse import mirror_address, mirror_settings
from cairn.hydra.parse.settings import Settings
from cairn.remote import local_files, start
from cairn.remote.address import Address
from cairn.remote.fetch import Target
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.remote.start import Found
from cairn.run.directory import RunDirectory
from cairn.run.mirrored_run import is_behind
from cairn.testing import proof_run
from cairn.types import Saved

log = logging.getLogger(__name__)

_KEY = "checkpoint.mirror"


class Mirrors:
    """The mirrors of one start: that of `resume=ADDRESS`, and its own.

    Each is looked into once: a store that hangs is waited for once.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._found: dict[Address, Found] = {}
        self._claimed: set[Address] = set()
        self._own: Address | None = None
        self._target: Target | None = None

    @property
    def run(self) -> str:
        """Id of the run that they belong to; empty if no run has used them yet."""
        return next((item.run for item in self._found.values() if item.run), "")

    @property
    def trouble(self) -> str:
        """Why its own mirror could not be reached; empty: it was, or there is none."""
        return self._found[self._own].trouble if self._own is not None else ""

    def join(self, config: DictConfig) -> None:
        """Bring the files of a run from its mirror, if no run has started in the directory, or if it is not as far.

        Args:
            config: The configuration that Hydra has composed.

        Raises:
            ConfigError: The mirror cannot be used.
            ResumeError: Its run files cannot be brought.
        """
        where, record = _own(config, self._directory.path), self._directory.record()
        if record is not None:
            if where is not None and record.status != "finished":
                self._catch_up(where, config, record.id)
            return
        if where is None:
            return
        found = self._look(where)
        if found.run and mirror_settings.writes(config):
            found = self._claim(where, found.run)  # before the first file is written
        try:
            if start.bring_files(found, self._directory.path):
                log.info("%s holds this run: continuing it.", where)
        except (RemoteError, ResumeError) as error:
            raise ResumeError(f"The run in {where} cannot be continued: {error}") from error

    def _catch_up(self, where: Address, config: DictConfig, own: str) -> None:
        """Bring the files of a run that has gone on elsewhere: its configuration may have been changed there."""
        run = self._directory

        def use(objects: Objects, record: Record) -> bool:
            if not is_behind(run, record):
                return False
            return bool(local_files.bring(objects, record.files, run.path, replaces_own=True))

        try:
            known = (run.config("checkpoint").get("checkpoint") or {}).get("mirror")
            if known == config.checkpoint.mirror and self._look(where).run == own and self._look(where).first(use):
                log.info("The run has gone on elsewhere: its files come from %s.", where)
        except (RemoteError, ResumeError, ConfigError) as error:  # `look` decides what it means for this start
            log.debug("%s", error)

    def look(self, settings: Settings, run: str) -> None:
        """Look into the mirrors of a run.

        Args:
            settings: Settings of the run.
            run: Id of the run; empty: it is new.

        Raises:
            ConfigError: A mirror cannot be used, or belongs to another run.
        """
        own, resumed = _own(settings.config, self._directory.path), mirrored_run.resumed_address()
        # `join` has looked into the mirror of the composed configuration; the run may have another one.
        self._found = {where: self._look(where) for where in (resumed, own) if where is not None}
        for item in self._found.values():
            item.check_run(run)
        checkpoints = settings.checkpoint
        mode = checkpoints.mode if checkpoints.monitor else None
        rules = list(checkpoints.rules.values())
        self._own, self._target = own, Target(checkpoints.directory, self._directory.path, (rules, mode))

    def claim(self, config: DictConfig, run: str) -> None:
        """Make its own mirror that of the run, and check that it can be written, before the run directory is changed.

        Args:
            config: The configuration of the run.
            run: Id of the run.

        Raises:
            ConfigError: It belongs to another run, or cannot be written.
        """
        if self._own is not None and mirror_settings.writes(config):
            self._claim(self._own, run)
        _warn_if_idle(config, self._own)

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
        for where, item in list(self._found.items()):
            assert self._target is not None
            try:
                newer, trouble = item.bring(self._target, brought or local)
            except ResumeError as error:
                raise ResumeError(named(error, _KEY)) from error
            brought = newer or brought
            self._found[where] = replace(item, trouble=trouble)
        return brought

    def keep(self, config: DictConfig) -> None:
        """Keep the address of its own mirror in the run directory, which may be moved later.

        Raises:
            ConfigError: The file cannot be written.
        """
        if proof_run.current() is None:
            mirror_address.keep(config, self._directory.path, mirrored_run.resumed_address())

    def _look(self, where: Address) -> Found:
        if where not in self._found:
            try:
                self._found[where] = start.look(where)
            except ConfigError as error:
                raise ConfigError(f"{_KEY}: {error}") from error
        return self._found[where]

    def _claim(self, where: Address, run: str) -> Found:
        if where not in self._claimed:
            try:
                self._found[where] = start.claimed(self._found[where], run, self._directory.path.name)
            except ConfigError as error:
                raise ConfigError(f"{_KEY}: {error}") from error
            self._claimed.add(where)
        return self._found[where]


def _own(config: DictConfig, run: Path) -> Address | None:
    if proof_run.current() is not None:  # a proof writes to its own directories only
        return None
    return mirror_address.of_start(config, run, mirrored_run.resumed_address())


def _warn_if_idle(config: DictConfig, own: Address | None) -> None:
    if own is not None and config.get("train") and not config.checkpoint.get("triggers"):
        log.warning("%s: this run saves no checkpoints, so that none is uploaded to %s.", _KEY, own)
