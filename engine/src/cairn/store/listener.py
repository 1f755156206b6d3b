"""Listeners: what else is informed when checkpoints are committed or deleted, for example an upload."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cairn.errors import CairnError, first_line
from cairn.policy.keep import Rule
from cairn.types import Mode, Saved

log = logging.getLogger(__name__)

_WAIT_S, _GRACE_S = 600.0, 10.0
Links = Mapping[str, str | None]
"""Target of `last.ckpt` and `best.ckpt` by link name; None: the link does not exist."""


class Listener(Protocol):
    """Informed about the checkpoints of one run, on rank 0. Subclass it and override what you need.

    `committed`, `deleting` and `deleted` are called on the thread that commits: they must return at once. What takes
    time (an upload, for example) belongs on a thread of the listener's own, and `close` waits for it.
    """

    wait_s: float = 0.0
    """Maximum time that `close` may take, in seconds, if that is more than the usual one (10 minutes)."""
    grace_s: float = 0.0
    """The same after a signal (usually 10 s)."""
    run_elsewhere: str = ""
    """Id of the run that `bring` has found elsewhere; a start in an empty directory continues it. Empty: none."""

    def begin(self, directory: Path, run: str, has_checkpoint: bool) -> None:
        """Called before training begins, and before anything is saved or deleted.

        Args:
            directory: The checkpoint directory.
            run: Id of the run.
            has_checkpoint: Whether the run goes on from a checkpoint.

        Raises:
            CairnError: The run must not begin.
        """
        return

    def opened(self, directory: Path, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """Called once, when training has begun: before the first save.

        Args:
            directory: The checkpoint directory.
            kept: The checkpoints in it, oldest first.
            links: Where `last.ckpt` and `best.ckpt` point to.
            deleted: Checkpoints that retention deleted at this start.
        """

    def committed(self, saved: Saved, links: Links) -> None:
        """Called when a checkpoint is committed and the links are in place. Retention may delete it at any time.

        Args:
            saved: The new checkpoint.
            links: Where `last.ckpt` and `best.ckpt` point to now.
        """

    def deleting(self, names: Sequence[str]) -> None:
        """Called before checkpoints are deleted. A save that fails may still keep them.

        Args:
            names: File names of the checkpoints.
        """
        return

    def deleted(self, names: Sequence[str]) -> None:
        """Called after checkpoints were deleted.

        Args:
            names: File names of the checkpoints.
        """

    def assist(self, directory: Path, rank: int) -> None:
        """Called on the other ranks, instead of all others, if each rank writes a shard of a checkpoint.

        Args:
            directory: The checkpoint directory.
            rank: This rank.
        """
        return

    def bring(self, directory: Path, local: Saved | None, rules: Sequence[Rule], mode: Mode | None) -> Saved | None:
        """Called by `Checkpointer.resume`, in each process of the run: bring a newer checkpoint from elsewhere.

        Args:
            directory: The checkpoint directory.
            local: The newest intact checkpoint in it.
            rules: What the run keeps: older checkpoints that they keep may come as well.
            mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

        Returns:
            The checkpoint that is in the directory now, verified and committed; None: there is no newer one.

        Raises:
            CairnError: The run must not go on without it.
        """
        return None

    def close(self, finished: bool, limit_s: float) -> None:
        """Called at the end of the run: return when everything is done, or when the time is over.

        Args:
            finished: The run has reached its end: its newest checkpoint is the final one.
            limit_s: Maximum time to take, in seconds.
        """


class Listeners:
    """Informs several listeners. An error of one is logged and affects neither the others nor the run.

    Args:
        listeners: Informed in this order.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = tuple(listeners)
        self._logged: set[tuple[int, str, type]] = set()

    @property
    def wait_s(self) -> float:
        """Maximum time that the end of a run waits for all of them, in seconds."""
        return max((_WAIT_S, *(getattr(listener, "wait_s", 0.0) for listener in self._listeners)))

    @property
    def grace_s(self) -> float:
        """The same after a signal: SIGKILL may come next."""
        return max((_GRACE_S, *(getattr(listener, "grace_s", 0.0) for listener in self._listeners)))

    @property
    def run_elsewhere(self) -> str:
        """Id of the run that one of them has found elsewhere; empty: none has."""
        return next(filter(None, (getattr(listener, "run_elsewhere", "") for listener in self._listeners)), "")

    def begin(self, directory: Path, run: str, has_checkpoint: bool) -> None:
        """See `Listener`. An error that the user can fix refuses the run.

        Raises:
            CairnError: That of a listener.
        """
        for listener in self._listeners:
            self._call(listener, "begin", directory, run, has_checkpoint)

    def bring(self, directory: Path, local: Saved | None, rules: Sequence[Rule], mode: Mode | None) -> Saved | None:
        """See `Listener`. Each listener gets what those before it have brought.

        Raises:
            CairnError: That of a listener.
        """
        brought = None
        for listener in self._listeners:
            if (ask := getattr(listener, "bring", None)) is not None:  # see `_call`
                brought = ask(directory, brought or local, rules, mode) or brought
        return brought

    def assist(self, directory: Path, rank: int) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            self._call(listener, "assist", directory, rank)

    def opened(self, directory: Path, kept: Sequence[Saved], links: Links, deleted: Sequence[Saved]) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            self._call(listener, "opened", directory, tuple(kept), dict(links), tuple(deleted))

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            self._call(listener, "committed", saved, dict(links))

    def deleting(self, names: Sequence[str]) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            self._call(listener, "deleting", tuple(names))

    def deleted(self, names: Sequence[str]) -> None:
        """See `Listener`."""
        for listener in self._listeners:
            self._call(listener, "deleted", tuple(names))

    def close(self, finished: bool, limit_s: float) -> None:
        """See `Listener`. The listeners share the time."""
        until = time.monotonic() + limit_s
        for listener in self._listeners:
            self._call(listener, "close", finished, max(0.0, until - time.monotonic()))

    def _call(self, listener: Listener, method: str, *arguments: Any) -> None:
        function = getattr(listener, method, None)
        if function is None:  # a class that does not inherit, from before there was this method
            return
        try:
            function(*arguments)
        except Exception as error:
            if method == "begin" and isinstance(error, CairnError):
                raise
            kind = (id(listener), method, type(error))
            if kind not in self._logged:
                self._logged.add(kind)
                log.error(
                    "%s.%s failed: %s: %s. Training continues; this message is logged once.",
                    type(listener).__name__,
                    method,
                    type(error).__name__,
                    first_line(error),
                    exc_info=log.isEnabledFor(logging.DEBUG),
                )
