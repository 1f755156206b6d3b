"""WHO ELSE HEARS of checkpoints, as soon as they are committed or deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cairn.types import Saved

Links = Mapping[str, str | None]
"""Where `last.ckpt` and `best.ckpt` point to; None: there is no such link."""


class Tracker(Protocol):
    """Called by whoever commits, so that nothing may take time, and nothing may raise."""

    def opened(self, kept: Sequence[Saved], links: Links, dropped: Sequence[Saved] = ()) -> None:
        """The run begins, or goes on, with these checkpoints; others were deleted at this start."""
        ...

    def committed(self, saved: Saved, links: Links) -> None:
        """A checkpoint is whole, and the links point where they should. It may be deleted as soon as this returns."""
        ...

    def pruning(self, names: Sequence[str]) -> None:
        """Checkpoints are about to be deleted."""
        ...

    def pruned(self, names: Sequence[str]) -> None:
        """They were deleted."""
        ...

    def close(self, finished: bool, limit_s: float) -> None:
        """Nothing more will come; return when everything has arrived, or after so many seconds.

        Args:
            finished: the run has come to its end, so that its newest checkpoint is its final one.
            limit_s: the longest that this may take.
        """
        ...


class Untracked:
    """Nobody hears of them."""

    def opened(self, kept: Sequence[Saved], links: Links, dropped: Sequence[Saved] = ()) -> None:
        """See `Tracker`."""

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Tracker`."""

    def pruning(self, names: Sequence[str]) -> None:
        """See `Tracker`."""

    def pruned(self, names: Sequence[str]) -> None:
        """See `Tracker`."""

    def close(self, finished: bool, limit_s: float) -> None:
        """See `Tracker`."""


UNTRACKED = Untracked()
