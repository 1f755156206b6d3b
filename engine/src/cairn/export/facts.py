"""What an exported model says about the run that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cairn.errors import CairnError
from cairn.export.redacted import redact
from cairn.run.named_checkpoint import NamedCheckpoint
from cairn.store import names
from cairn.types import Position

_KEY = "cairn"
"""Key of Cairn's state in a Lightning checkpoint; it belongs to the file format."""
_PACKAGES = ("cairn", "torch", "lightning", "python")


@dataclass(frozen=True)
class Facts:
    """Where an exported model comes from. What is not known is empty."""

    checkpoint: str
    """Name of its file."""
    run: str = ""
    task: str = ""
    position: Position | None = None
    training_s: float | None = None
    created: str = ""
    """UTC time of the checkpoint, ISO 8601."""
    is_best: bool = False
    monitor: str = ""
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Last values of the metrics at the checkpoint."""
    commit: str = ""
    """Commit of the project's code, with a + if files had changed since."""
    seed: int | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    data: Any = None
    """Configuration of the data, without secrets."""

    def texts(self) -> dict[str, str]:
        """Return the facts as texts by dotted names, for the metadata of a file."""
        position = self.position
        found = {
            "checkpoint": self.checkpoint,
            "run": self.run,
            "task": self.task,
            "created": self.created,
            "commit": self.commit,
            "seed": "" if self.seed is None else str(self.seed),
            **({} if position is None else {name: str(value) for name, value in vars(position).items()}),
            **{f"metrics.{name}": repr(value) for name, value in self.metrics.items()},
            **{f"packages.{name}": text for name, text in self.packages.items()},
        }
        return {f"{_KEY}.{name}": text for name, text in found.items() if text}


def of(found: NamedCheckpoint, contents: Mapping[str, Any]) -> Facts:
    """Return the facts about a checkpoint.

    Args:
        found: The checkpoint.
        contents: What its file holds.
    """
    ours = contents.get(_KEY)
    ours = ours if isinstance(ours, Mapping) else {}
    config = ours.get("config")
    config = config if isinstance(config, Mapping) else {}
    saved, provenance = found.saved, found.provenance or {}
    data, _ = redact(config.get("data"))
    return Facts(
        checkpoint=found.path.name,
        run=str(ours.get("run") or ""),
        task=str(config.get("task_name") or ""),
        position=_position(ours.get("position")),
        training_s=saved.elapsed_s if saved else None,
        created=saved.created if saved else "",
        is_best=_is_best(found),
        monitor=(saved.monitor or "") if saved else "",
        score=saved.score if saved else None,
        metrics=dict(saved.metrics) if saved else {},
        commit=str(provenance.get("git") or ""),
        seed=provenance["seed"] if isinstance(provenance.get("seed"), int) else None,
        packages={name: str(provenance[name]) for name in _PACKAGES if name in provenance},
        data=data,
    )


def _position(values: Any) -> Position | None:
    try:
        return Position(**{str(name): int(value) for name, value in values.items()})
    except (AttributeError, TypeError, ValueError):  # of another program, or damaged
        return None


def _is_best(found: NamedCheckpoint) -> bool:
    try:
        link = found.path.with_name(names.BEST)
        return link.exists() and link.resolve() == found.path.resolve()
    except (CairnError, OSError):
        return False
