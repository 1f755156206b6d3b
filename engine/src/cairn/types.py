"""The values that travel between the rooms of the library: positions, moments, checkpoints and what a save costs.

    Moment --policy--> Draft --commit--> Saved

Times are in seconds, sizes in bytes, and positions count what is completed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

Mode = Literal["min", "max"]
"""Whether a lower or a higher score is better."""

AuditMode = Literal["warn", "error", "off"]
"""What to do about plain attributes that training changes and no checkpoint holds."""

PAUSE = "pause"
"""The `stop` of a moment at which the run pauses, because it has come to its `pause_at`."""

ElasticLevel = Literal["samples", "bits"]
"""What stays the same on another number of processes."""


@dataclass(frozen=True, order=True)
class Position:
    """A point in a run, between two batches. Ordered by epoch, then batch."""

    epoch: int
    """Completed epochs."""
    batch: int
    """Completed batches of the current epoch."""
    total_batches: int = 0
    """Completed batches of the run."""
    step: int = 0
    """Optimizer steps of the run."""
    samples: int = 0
    """Samples of the run, over all ranks."""


@dataclass(frozen=True)
class SaveCost:
    """What a save costs, as measured recently; in seconds per save unless stated otherwise."""

    batch_s: float
    """A training batch while nothing is being written, without validation; in seconds per batch."""
    stall_s: float
    """How long training pauses."""
    slowdown_s: float
    """How much longer the batches take, in total, while the writer works."""
    write_s: float
    """From the first byte to the commit."""
    num_saves: int = 0
    """How many saves were measured; 0: an estimate before the first one."""

    @property
    def save_s(self) -> float:
        """Training time that one save costs."""
        return self.stall_s + self.slowdown_s

    @property
    def until_committed_s(self) -> float:
        """Time from the start of a save to its commit."""
        return self.stall_s + self.write_s


@dataclass(frozen=True)
class Moment:
    """What a policy knows at a boundary, where it decides whether to save."""

    position: Position
    previous: Position
    """The boundary before this one; the batches between them were inside an accumulation window."""
    batches_per_epoch: int | None
    """None if the training data has no length."""
    elapsed_s: float
    """Training time of the run, over all attempts."""
    since_save_s: float
    """Training time since the last save, or since the start of the run."""
    score: float | None
    """The monitored metric, if a validation since `previous` produced it."""
    ends: bool
    """True at the last batch of the run."""
    stop: str | None
    """Why the run must stop here, such as the name of a signal; None if it continues."""
    mode: Mode = "min"
    cost: SaveCost | None = None
    """What a save costs; None before anything is known."""
    busy: bool = False
    """True while a save is being written."""


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is not committed yet: all that is known about it before its file is written."""

    name: str
    position: Position
    number: int
    """Lasting saves of the run before this one."""
    reasons: tuple[str, ...]
    """Names of the triggers that asked for it."""
    score: float | None
    """The monitored metric, if a validation since the previous moment produced it. With gradient accumulation, that
    validation may lie inside the window that this position closes, one optimizer step earlier."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lasting: bool = True
    """False if it exists only because the run stopped or ended here: the next save replaces it."""
    run: str = ""
    """Id of the run that owns the file."""
    elapsed_s: float = 0.0
    """Training time of the run up to here, in seconds, over all attempts."""
    num_bytes: int = 0
    """Size of the file, in bytes; an estimate until it is written."""
    stall_s: float = 0.0
    """How long training paused for this save, in seconds."""
    interval_batches: int | None = None
    """The interval that `Every("auto")` was using at this save, in batches."""
    overhead: float | None = None
    """Cost of all saves so far, as a share of the time that the run would have taken without them."""
    skipped: int = 0
    """Interval saves that were skipped so far because the writer was busy."""
    wait_s: float = 0.0
    """The part of `stall_s` spent waiting for a free buffer, in seconds."""
    monitor: str | None = None
    """Name of the metric that `score` is a value of; None without a score, and in manifests of earlier versions."""


@dataclass(frozen=True)
class ShardFile:
    """One file of a checkpoint that is a directory of shards."""

    name: str
    num_bytes: int
    digest: str
    """See `file_format.digest`."""


@dataclass(frozen=True)
class Saved(Draft):
    """A committed checkpoint, as its manifest describes it."""

    digest: str = ""
    """Digest of the file, which a verification compares, see `file_format.digest`; with shards, that of their list."""
    write_s: float = 0.0
    """Time from the first byte to the commit, in seconds."""
    created: str = ""
    """UTC time of the commit, ISO 8601."""
    shards: tuple[ShardFile, ...] = ()
    """Files of a directory, in the order of ranks; empty if the checkpoint is a single file."""

    @classmethod
    def of(cls, draft: Draft, **facts: Any) -> Saved:
        """The committed form of `draft`; `facts` are the fields that only the write knows."""
        return cls(**{item.name: getattr(draft, item.name) for item in fields(Draft)} | facts)


AnyDraft = TypeVar("AnyDraft", bound=Draft)
"""A checkpoint that may or may not be committed; a function that takes committed ones returns committed ones."""


def ranked(saved: Sequence[AnyDraft], mode: Mode, count: int | None = None) -> list[AnyDraft]:
    """Sort the checkpoints that have a finite score, best first; of equal scores the earlier one is better.

    Args:
        saved: The checkpoints.
        mode: Whether a lower or a higher score is better.
        count: How many to return; None: all. A few of thousands are found much faster than all.

    Returns:
        The best checkpoints.
    """
    scored = [item for item in saved if item.score is not None and math.isfinite(item.score)]
    if count is not None and count < len(scored):
        scores: list[Any] = [item.score for item in scored]
        best = heapq.nsmallest(count, scores) if mode == "min" else heapq.nlargest(count, scores)
        if not best:
            return []
        worst = best[-1]
        scored = [item for item in scored if (item.score <= worst if mode == "min" else item.score >= worst)]
    sign = 1 if mode == "min" else -1
    return sorted(scored, key=lambda item: (sign * item.score, item.position))[:count]  # type: ignore[operator]


def beats(score: float | None, rivals: Sequence[Draft], count: int, mode: Mode) -> bool:
    """Decide whether a score belongs to the best.

    Args:
        score: The score; NaN, infinity and None never belong to the best.
        rivals: The checkpoints to compare with.
        count: How many are best; -1: all.
        mode: Whether a lower or a higher score is better.

    Returns:
        True if `score` is among the best `count` of the rivals and itself.
    """
    if not _is_finite(score) or count == 0:
        return False
    if count < 0:
        return True
    best = ranked(rivals, mode, count)
    if len(best) < count:
        return True
    worst: float = best[-1].score  # type: ignore[assignment]
    return score < worst if mode == "min" else score > worst  # type: ignore[operator]


def _is_finite(score: Any) -> bool:
    return score is not None and math.isfinite(score)
