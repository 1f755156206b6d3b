"""Whether a metric can rank the checkpoints of a directory: scores of two metrics cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cairn.errors import ConfigError
from cairn.types import Draft


def check(directory: Path, saved: Iterable[Draft], monitor: str | None) -> None:
    """Check that all scores are values of one metric.

    Args:
        directory: Where the checkpoints are, for the message.
        saved: The checkpoints.
        monitor: The metric that ranks them; None: checkpoints are not ranked.

    Raises:
        ConfigError: A score is a value of another metric.
    """
    if monitor is None:
        return
    for item in saved:
        if (ranked_by := metrics_of(item)) and monitor not in ranked_by:
            raise ConfigError(
                f"monitor={monitor!r} cannot rank the checkpoints in {directory}: the score of {item.name} is a value "
                f"of {ranked_by[0]!r}. Keep {ranked_by[0]!r}, or start a new run in another directory, from one of the "
                f"checkpoints with ckpt_path=FILE.",
                parameter="monitor",
            )


def metrics_of(saved: Draft) -> list[str]:
    """Return the names of the metrics that the score of a checkpoint can belong to; empty if it has no score."""
    if saved.score is None:
        return []
    if saved.monitor is not None:
        return [saved.monitor]
    # Earlier manifests do not name the metric. The score equals one of the logged values, or the metric is unknown.
    return [name for name, value in saved.metrics.items() if value == saved.score]
