"""Which checkpoints of a run its mirror should hold, checked."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.errors import ConfigError
from cairn.store import names
from cairn.store.listener import Links
from cairn.types import Saved

ALL = -1
QUEUE_BYTES = 50 * 10**9
WAIT_S, GRACE_S = 600.0, 10.0


@dataclass(frozen=True)
class MirrorSettings:
    """Which checkpoints of a run its mirror should hold.

    Raises:
        ConfigError: A value is not one of those below.
    """

    every: int = 1
    """Mirror one in this many of the checkpoints that are neither the best nor the final one."""
    keep: int | None = None
    """How many of the newest the mirror keeps, with the best and the final one; None: those that the local disk keeps;
    -1: all."""
    queue_bytes: int | None = QUEUE_BYTES
    """Maximum size of what waits for its upload; None: no limit."""
    wait_s: float = WAIT_S
    """Maximum time that the end of a run waits for uploads, in seconds."""

    grace_s: float = GRACE_S
    """The same for a run that was stopped, which may be killed soon, in seconds."""

    def __post_init__(self) -> None:
        if not _is_count(self.every) or self.every < 1:
            raise ConfigError(f"every={self.every!r} must be an integer from 1.", parameter="every")
        if self.keep is not None and (not _is_count(self.keep) or (self.keep < 1 and self.keep != ALL)):
            raise ConfigError(
                f"keep={self.keep!r} must be an integer from 1, -1 for all, or None for what the local disk keeps.",
                parameter="keep",
            )
        if self.queue_bytes is not None and not _is_amount(self.queue_bytes):
            raise ConfigError(
                f"queue_bytes={self.queue_bytes!r} must be a size in bytes, or None for no limit.",
                parameter="queue_bytes",
            )
        for name in ("wait_s", "grace_s"):
            if not _is_amount(getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be a time in seconds.", parameter=name)

    def selects(self, saved: Saved, links: Links, ends: bool = False) -> bool:
        """Whether a checkpoint is one of those that are mirrored at all.

        Args:
            saved: The checkpoint.
            links: Where `last.ckpt` and `best.ckpt` point to.
            ends: The run ends or stops here: its newest checkpoint is always mirrored.
        """
        if saved.number % self.every == 0 or links.get(names.BEST) == saved.name:
            return True
        return ends and links.get(names.LAST) == saved.name


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
