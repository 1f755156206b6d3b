"""What a run says about W&B, checked: which run it is there, and which of its checkpoints W&B should have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cairn.errors import ConfigError
from cairn.store import names
from cairn.store.listener import Links
from cairn.types import Saved

MAX_NAME_LENGTH = 128
"""Of a W&B project, run or group, in characters."""
MAX_TAG_LENGTH = 64
NOT_IN_A_PROJECT = "/\\#?%:"
"""Characters that W&B refuses in the name of a project."""

Which = Literal["all", "best", "final", "none"]
WhenDeleted = Literal["delete", "untag", "keep"]


@dataclass(frozen=True)
class ArtifactSettings:
    """Which checkpoints of a run W&B should have.

    Raises:
        ConfigError: A value is not one of those below.
    """

    which: Which = "all"
    every: int = 1
    """Upload one in this many of the checkpoints that are neither the best nor the final one."""
    deleted: WhenDeleted = "delete"
    """What happens in W&B to the version of a checkpoint that retention deletes; `untag` removes its aliases."""
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
        """Whether W&B should have this checkpoint.

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


@dataclass(frozen=True)
class WandbSettings:
    """Which W&B run a run is logged to.

    Raises:
        ConfigError: W&B would refuse a value after the run has started.
    """

    project: str | None = None
    entity: str | None = None
    id: str | None = None
    name: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    offline: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the logger."""
    artifacts: ArtifactSettings = field(default_factory=ArtifactSettings)

    def __post_init__(self) -> None:
        project = self.project or ""
        if len(project) > MAX_NAME_LENGTH or set(NOT_IN_A_PROJECT) & set(project):
            raise ConfigError(
                f"project={project!r} must have at most {MAX_NAME_LENGTH} characters, and none of "
                f"{' '.join(NOT_IN_A_PROJECT)}: W&B refuses them."
            )
        for tag in self.tags:
            if not 0 < len(tag) <= MAX_TAG_LENGTH:
                raise ConfigError(
                    f"tags: {tag!r} must have from 1 to {MAX_TAG_LENGTH} characters: W&B refuses others.",
                    parameter="tags",
                )


def project_name(text: str) -> str:
    """A name that W&B accepts for a project: a task name such as `digits/cnn` becomes `digits-cnn`."""
    return shortened(re.sub(f"[{re.escape(NOT_IN_A_PROJECT)}]", "-", text))


def shortened(name: str) -> str:
    """A name that W&B accepts for a run or a group: with a longer one, the run would not be logged at all."""
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 3]}..."


_TARGETS = {"cairn.wandb.WandbLogger", "cairn.wandb.logger.WandbLogger", "cairn.logging.wandb.WandbLogger"}
"""Our logger, by its public name, by that of its module, and by the one before the library had rooms."""
_MORE = ("job_type", "notes", "prefix")
"""Further arguments that are read back. A run directory may come from other people: `settings` could name their server,
which W&B's client would send the API key to.
"""


def logger_key(config: Mapping[str, Any]) -> str | None:
    """The name of our W&B logger among `config["logger"]`; None if the configuration has none.

    Args:
        config: A resolved configuration, as a run directory or a checkpoint stores it.

    Returns:
        The key of its node.
    """
    nodes: Mapping[str, Any] = config.get("logger") or {}
    return next((key for key, node in nodes.items() if node and node.get("_target_") in _TARGETS), None)


def stored(config: Mapping[str, Any]) -> WandbSettings | None:
    """Read the settings from a stored configuration. The limits of a live run (`queue`, `wait`) are left out.

    Args:
        config: A resolved configuration, as a run directory or a checkpoint stores it.

    Returns:
        The settings, None if the configuration has no W&B logger of ours.

    Raises:
        ConfigError: A value cannot work.
    """
    key = logger_key(config)
    if key is None:
        return None
    node = config["logger"][key]
    tags = node.get("tags") or ()
    project = node.get("project")
    return WandbSettings(
        project=None if project is None else project_name(str(project)),
        entity=node.get("entity"),
        id=node.get("id"),
        name=node.get("name"),
        group=node.get("group"),
        tags=(tags,) if isinstance(tags, str) else tuple(map(str, tags)),
        offline=bool(node.get("offline", True)),
        more={name: node[name] for name in _MORE if isinstance(node.get(name), str)},
        artifacts=_artifacts(config.get("checkpoint") or {}),
    )


def _artifacts(checkpoint: Mapping[str, Any]) -> ArtifactSettings:
    group = checkpoint.get("artifacts")
    if group is None:  # a run from before there was a choice: W&B has all of its checkpoints
        return ArtifactSettings()
    # `pruned` is what `deleted` was called before.
    return ArtifactSettings(group["which"], group["every"], group.get("deleted") or group.get("pruned") or "delete")
