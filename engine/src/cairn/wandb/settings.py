"""What a run says about W&B, checked: which run it is there, and which of its checkpoints W&B should have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn.errors import ConfigError
from cairn.trackers import settings
from cairn.trackers.settings import ArtifactSettings

MAX_NAME_LENGTH = 128
"""Of a W&B project, run or group, in characters."""
MAX_TAG_LENGTH = 64
NOT_IN_A_PROJECT = "/\\#?%:"
"""Characters that W&B refuses in the name of a project."""


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
        artifacts=settings.stored(config.get("checkpoint") or {}),
    )
