"""A logger whose rows go to a journal, and from there to a tracker: after a resume, each row is there once."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from cairn.errors import first_line
from cairn.store.listener import Listener
from cairn.trackers.identity import Identity
from cairn.trackers.lines import STEP, TIME, Lines, Row, number, plain
from cairn.trackers.secrets import hidden
from cairn.trackers.sender import Sender, Store
from cairn.trackers.settings import ArtifactSettings
from cairn.uploads.once import ErrorsOnce

log = logging.getLogger(__name__)

_MOST_EARLY = 100
"""Rows from which on training must have begun: without a `Checkpointer`, the logger is not informed of that."""
_FINALIZE_S = 10.0
"""Time that the end of a fit or a test waits for a tracker outside of a Hydra run, in seconds."""
_STATUSES = {"success": "finished", "finished": "finished", "failed": "failed", "interrupted": "stopped"}


class RowLogger(Logger):
    """Logs metrics to a journal, and sends its rows to a tracker. A subclass makes the store.

    Args:
        folder: Folder of the journal, in the run directory.
        store: The run in the tracker.
        identity: The id of the run, which a checkpoint holds as well.
        prefix: Put in front of each name, with a slash.
    """

    tracker = ""
    """Name of the tracker, for messages."""

    def __init__(self, folder: Path, store: Store, identity: Identity, prefix: str = "") -> None:
        super().__init__()
        self.folder, self._identity = folder, identity
        self._prefix = prefix
        self._errors = ErrorsOnce(self.tracker)
        self.journal = Lines(folder / "history.jsonl")
        self._sender = Sender(store, self.journal, self._errors, lambda error: hidden(first_line(error)))
        self._position: Mapping[str, Any] | None = None
        """The state to go back to; None: the run begins, or has gone back to it."""
        self._has_begun = False
        self._early: list[Row] = []
        """Rows from before training begins: until then, the journal may be that of an attempt to be resumed."""
        self._num_early_written = 0
        self.is_closed_by_run = False
        """Whether `close` is called at the end of the run, so that `finalize` does not end it."""

    @property
    def save_dir(self) -> str:
        return str(self.folder.parent)

    @property
    def version(self) -> str:
        return self._identity.id

    def listener(self, settings: ArtifactSettings, run: Path, facts: Mapping[str, Any]) -> Listener:
        """Return the listener that uploads the checkpoints of a run, with facts as their metadata."""
        raise NotImplementedError

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        named = {f"{self._prefix}/{name}" if self._prefix else name: number(value) for name, value in metrics.items()}
        row = plain({**named, TIME: time.time(), **({} if step is None else {STEP: step})})
        if not self._has_begun and self._position is None and len(self._early) < _MOST_EARLY:
            self._early.append(row)
            return
        self.training_begins()
        self._add(row)

    def _add(self, row: Row) -> None:
        try:
            self.journal.add(row)
        except OSError as error:
            self._errors.log("journal", f"could not write {self.journal.path} ({error.strerror or error})")
            return
        self._sender.wake()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._sender.configure(vars(params) if isinstance(params, Namespace) else dict(params))

    def state_dict(self) -> dict[str, Any]:
        """How many rows belong to this position. They are written, but survive a power cut only after `sync`."""
        self.training_begins()
        self.journal.notice_deletion()
        return {"rows": self.journal.count, "id": self._identity.id}

    def sync(self) -> None:
        """Make what `state_dict` counts survive a power cut. Called by another thread than everything else.

        Raises:
            OSError: This is not certain.
        """
        self.journal.sync()

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the rows of the checkpoint, when training begins or a row is logged."""
        self._identity.load(state)
        self._position = state

    @rank_zero_only
    def training_begins(self) -> None:
        """Cut the journal to the rows of the checkpoint. A run that begins has none."""
        if self._has_begun and self._position is None:
            return
        goes_on, self._has_begun = self._position is not None, True
        count = (self._position or {}).get("rows", 0)
        early, self._early, self._position = self._early, [], None
        rows = self._sender.rewind(lambda: self.journal.cut(count))
        if len(rows) < count:
            rank_zero_warn(f"{self.journal.path} has {len(rows)} rows, and the checkpoint had {count}.")
        for row in () if goes_on else early:
            self._add(row)
        self._sender.wake()

    def connected(self, limit_s: float) -> bool:
        """Wait for the tracker.

        Args:
            limit_s: Maximum time to wait, in seconds.

        Returns:
            Whether it was reached.
        """
        return self._sender.flush(limit_s)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left after a fit, a validation or a test; in a run of `train.py`, `close` does that."""
        if self.is_closed_by_run or self._is_unused:
            return
        self._write_early()
        self._sender.flush(_FINALIZE_S, _STATUSES.get(status, "") if self._has_begun else "")

    @property
    def _is_unused(self) -> bool:
        """Whether nothing was logged: a start that is refused makes no run in the tracker."""
        return not self._has_begun and not self._early

    def _write_early(self) -> None:
        """Add rows to whatever the journal holds, if nothing has been trained, so that no attempt was resumed."""
        if self._has_begun or self._position is not None:
            return
        new = self._early[self._num_early_written :]
        if new:
            self.journal.keep()
        for row in new:
            self._add(row)
        self._num_early_written = len(self._early)

    @rank_zero_only
    def close(self, status: str, limit_s: float) -> None:
        """Send what is left, and end the run in the tracker.

        Args:
            status: `finished`, `paused`, `failed` or `stopped`.
            limit_s: Maximum time to wait, in seconds.
        """
        if self._is_unused:
            return
        self._write_early()
        if not self._sender.end(limit_s, status):
            log.error(
                "%s does not have all rows of this run. They are in %s: resuming the run sends them.",
                self.tracker,
                self.journal.path,
            )
