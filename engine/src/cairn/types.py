"""The values that the engine passes around: where a run is, what just happened there, what was saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["min", "max"]


@dataclass(frozen=True, order=True)
class Position:
    """Where a run is. Ordered by epoch, then batch."""

    epoch: int
    """Epochs completed."""
    batch: int
    """Batches done in the epoch that is under way."""
    total_batches: int = 0
    """Batches done over the whole run."""
    step: int = 0
    """Optimizer steps over the whole run."""
    samples: int = 0
    """Samples seen over the whole run, on all ranks."""


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint, as its manifest describes it."""

    name: str
    position: Position
    number: int
    """Lasting saves of the run before this one."""
    reasons: tuple[str, ...]
    score: float | None
    """The monitored metric, if a validation since the previous moment produced it. With gradient accumulation that may
    have been inside the window that this position closes, one optimizer step before."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lasting: bool = True
    """False if it is only there because the run was stopped or ended here: the next save takes its place."""
    run: str = ""
    """Id of the run that owns the file."""
    elapsed_s: float = 0.0
    """Training time of the run up to here, in seconds, over all its restarts."""
    num_bytes: int = 0
    """Size of the file; before it is written, what it will need."""
    digest: str = ""
    """What its bytes are compared with; see `archive.digest`."""
    stall_s: float = 0.0
    """Seconds that training stood still for this save."""
    write_s: float = 0.0
    """Seconds from the first byte to the commit."""
    created: str = ""
    """UTC time of the commit, ISO 8601."""
    interval_batches: int | None = None
    """The interval that `save_interval=auto` had chosen when this was saved."""
    overhead: float | None = None
    """What saving has cost the run up to here, as a share of the time that it would have taken without."""
    skipped: int = 0
    """Interval saves that were left out up to here, because the writer was busy."""
    wait_s: float = 0.0
    """The part of `stall_s` that was spent waiting for a free buffer."""


@dataclass(frozen=True)
class Cost:
    """What a save costs, as it was measured lately; all in seconds."""

    batch_s: float
    """A training batch while nothing is being written; validations are left out."""
    stall_s: float
    """Training stands still, per save."""
    slowdown_s: float
    """What training loses besides, per save: batches are slower than usual while the writer works."""
    write_s: float
    """From the start of a save to its commit."""
    num_saves: int = 0
    """Over how many saves this was measured; 0: an estimate, made before the first one."""

    @property
    def save_s(self) -> float:
        """What a save costs the training in all."""
        return self.stall_s + self.slowdown_s

    @property
    def whole_s(self) -> float:
        """From the start of a save until it is whole."""
        return self.stall_s + self.write_s


@dataclass(frozen=True)
class Moment:
    """What a policy may know when it is asked whether a checkpoint is due: a batch is complete, nothing is open."""

    position: Position
    previous: Position
    """The moment before this one; what lies between them was inside an accumulation window."""
    batches_per_epoch: int | None
    """None when the training data has no length."""
    elapsed_s: float
    since_save_s: float
    """Training time since the last save, or since the start of the run, in seconds."""
    score: float | None
    """The monitored metric, if a validation since `previous` produced it."""
    ends: bool
    """This is the last batch of the run."""
    stop: str | None
    """Why the run must stop here (a signal, a time limit), or None."""
    mode: Mode = "min"
    cost: Cost | None = None
    """What a save costs; None: nothing is known yet."""
    busy: bool = False
    """A save is still being written."""


def ranked(saved: Sequence[Saved], mode: Mode) -> list[Saved]:
    """The checkpoints that have a finite score, best first; of equals the earlier one is better."""
    sign = 1 if mode == "min" else -1
    scored = [(sign * item.score, item.position, item) for item in saved if _is_finite(item.score)]  # type: ignore[operator]
    return [item for *_, item in sorted(scored, key=lambda entry: entry[:2])]


def beats(score: float | None, rivals: Sequence[Saved], count: int, mode: Mode) -> bool:
    """Is `score` among the best `count` of the rivals and itself? NaN and infinity never are; -1 means all."""
    if not _is_finite(score) or count == 0:
        return False
    best = ranked(rivals, mode)
    if count < 0 or len(best) < count:
        return True
    worst: float = best[count - 1].score  # type: ignore[assignment]
    return score < worst if mode == "min" else score > worst  # type: ignore[operator]


def _is_finite(score: Any) -> bool:
    return score is not None and math.isfinite(score)
