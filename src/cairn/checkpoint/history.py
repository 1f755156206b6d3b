"""What this run has committed and keeps: after each commit the links move first, and only then is something deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cairn.checkpoint import layout, retention
from cairn.checkpoint.catalog import Catalog
from cairn.checkpoint.errors import ConfigError
from cairn.checkpoint.resume import Plan
from cairn.checkpoint.types import Mode, Saved
from cairn.checkpoint.writer import Writer


class History:
    """The kept checkpoints of one run, oldest first. Only rank 0 has any.

    Args:
        directory: where they are.
        rules: what to keep.
        mode: whether a lower or a higher score is better; None: there is no best.
        writer: moves the links and deletes.
    """

    def __init__(self, directory: Path, rules: Iterable[retention.Rule], mode: Mode | None, writer: Writer) -> None:
        self.directory, self.rules, self.mode, self.writer = directory, list(rules), mode, writer
        self.saved: list[Saved] = []
        self._rejected: list[str] = []

    @property
    def newest(self) -> Saved | None:
        """What `last.ckpt` is."""
        return self.saved[-1] if self.saved else None

    @property
    def best(self) -> Saved | None:
        """What `best.ckpt` is."""
        return retention.best_of(self.saved, self.mode) if self.mode else None

    @property
    def next_number(self) -> int:
        """The ordinal of the next save; one that is not lasting gives its number to the next."""
        return self.newest.number + self.newest.lasting if self.newest else 0

    def open(self, run: str, plan: Plan) -> None:
        """Take over what `run` had committed when it was where `plan` goes on; clear away what dead writers have left.

        Raises:
            ConfigError: the directory cannot be written, or holds checkpoints of another run, which are not ours to
            delete.
        """
        catalog = Catalog(self.directory)
        committed = catalog.committed()
        if others := {item.run for item in committed} - {run}:
            raise ConfigError(
                f"checkpoint.dirpath={self.directory} holds checkpoints of another run ({', '.join(others)}): give "
                f"each run a directory of its own."
            )
        self._check_writable()
        self.writer.sweep()
        # Gone when something better is there: nothing is deleted before its successor is committed.
        self._rejected = [item.path.name for item in (*catalog.rejected(), *plan.rejected)]
        here = plan.saved.position if plan.saved else None
        self.saved = [item for item in committed if here is not None and item.position <= here]
        if self.saved:
            self._tidy()

    def add(self, saved: Saved) -> None:
        """A checkpoint was committed."""
        self.saved = [item for item in self.saved if item.name != saved.name] + [saved]
        self._tidy()
        for name in self._rejected:
            if name not in {item.name for item in self.saved}:
                self.writer.remove(name)
        self._rejected = []

    def path(self, saved: Saved | None) -> str:
        """Where a checkpoint lies; empty for none."""
        return str(self.directory / saved.name) if saved else ""

    def _check_writable(self) -> None:
        there = next(path for path in (self.directory, *self.directory.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(f"checkpoint.dirpath={self.directory} cannot be written: see the permissions of {there}.")

    def _tidy(self) -> None:
        before, self.saved = self.saved, retention.survivors(self.rules, self.saved, self.mode)
        self.writer.link(layout.LAST, self.newest.name if self.newest else None)
        self.writer.link(layout.BEST, self.best.name if self.best else None)
        for item in before:
            if item not in self.saved:
                self.writer.remove(item.name)
