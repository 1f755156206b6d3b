"""Which checkpoints of a run a tracker should have, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cairn.errors import ConfigError
from cairn.store import names
from cairn.store.listener import Links
from cairn.types import Saved

Which = Literal["all", "best", "final", "none"]
WhenDeleted = Literal["delete", "untag", "keep"]


@dataclass(frozen=True)
class ArtifactSettings:
    """Which checkpoints of a run a tracker should have.

    Raises:
        ConfigError: A value is not one of those below.
    """

    which: Which = "all"
    every: int = 1
    """Upload one in this many of the checkpoints that are neither the best nor the final one."""
    deleted: WhenDeleted = "delete"
    """What happens to the version of a checkpoint that retention deletes; `untag` removes its aliases."""
    queue_bytes: int | None = None
    """Maximum size of what waits for its upload; a checkpoint beyond it is uploaded at the end of the run."""
    wait_s: float = 600.0
    """Maximum time that the end of a run waits for uploads, in seconds."""

    def __post_init__(self) -> None:
        for key, kind in (("which", Which), ("deleted", WhenDeleted)):
            *others, last = get_args(kind)
            if getattr(self, key) not in (*others, last):
                raise ConfigError(f"{key}={getattr(self, key)!r} must be {', '.join(others)} or {last}.")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"every={self.every!r} must be an integer from 1.")
        if self.queue_bytes is not None and self.queue_bytes < 0:
            raise ConfigError(f"queue_bytes={self.queue_bytes!r} must be a size in bytes, or None for no limit.")
        if not self.wait_s >= 0:
            raise ConfigError(f"wait_s={self.wait_s!r} must be a time in seconds.")

    def wants(self, saved: Saved, links: Links, finished: bool = False) -> bool:
        """Whether the tracker should have this checkpoint.

        Args:
            saved: The checkpoint.
            links: Where `last.ckpt` and `best.ckpt` point to.
            finished: The run has reached its end.

        Returns:
            True for a checkpoint to upload.
        """
        if finished and links.get(names.LAST) == saved.name and self.which in ("all", "final"):
            return True
        if links.get(names.BEST) == saved.name:
            return self.which in ("all", "best")
        return self.which == "all" and saved.number % self.every == 0


def stored(checkpoint: Mapping[str, Any]) -> ArtifactSettings:
    """Read the settings from a stored configuration. The limits of a live run (`queue`, `wait`) are left out.

    Args:
        checkpoint: Its group `checkpoint`.

    Raises:
        ConfigError: A value cannot work.
    """
    group = checkpoint.get("artifacts")
    if group is None:  # a run from before there was a choice: the tracker has all of its checkpoints
        return ArtifactSettings()
    # `pruned` is what `deleted` was called before.
    return ArtifactSettings(group["which"], group["every"], group.get("deleted") or group.get("pruned") or "delete")
