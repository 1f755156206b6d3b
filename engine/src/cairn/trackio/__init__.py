"""Trackio: metrics and checkpoints of a run, once each. In here, `import trackio` is Trackio's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.trackio.artifacts import Artifacts
    from cairn.trackio.logger import TrackioLogger

__all__ = ["Artifacts", "TrackioLogger"]


def __getattr__(name: str) -> Any:
    # On demand: the logger imports Lightning.
    if name == "Artifacts":
        from cairn.trackio.artifacts import Artifacts

        return Artifacts
    if name == "TrackioLogger":
        from cairn.trackio.logger import TrackioLogger

        return TrackioLogger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
