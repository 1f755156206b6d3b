"""What was measured in the runs of a sweep: their saves, interruptions and costs. A single run is a sweep of one.

Nothing is judged here. What is missing or damaged in a run's directory is None, or missing in a tuple.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Literal

from cairn.account.meter import Meter
from cairn.run.goodput import Span, TimeSpent
from cairn.types import Saved

InterruptionKind = Literal["killed", "failed", "hung", "announced", "planned"]

INTERVAL = "checkpoint.save_interval"
"""Key of the interval in a run's configuration."""


@dataclass(frozen=True)
class Save:
    """Measurements of one save. All times in seconds."""

    step: int
    """Optimizer steps of the run at the saved state."""
    stall_s: float
    """Time that training stood still."""
    write_s: float
    """Time from the first byte to the commit."""
    num_bytes: int
    overhead: float | None = None
    """Cost of all saves up to here, as a share of the time that the run would have taken without them."""
    skipped: int = 0
    """Interval saves that were dropped up to here because both buffers were busy."""
    at_s: float | None = None
    """Training time of the run at the saved state; from its manifest, or interpolated by the number of steps."""

    @property
    def whole_s(self) -> float | None:
        """Training time of the run at the commit."""
        return None if self.at_s is None else self.at_s + self.stall_s + self.write_s


@dataclass(frozen=True)
class Interruption:
    """How an attempt ended, and where the next attempt resumed. Training times count over all attempts."""

    kind: InterruptionKind
    """killed (no end was recorded), failed (an error), hung (ended by the watchdog), announced (a signal that asks to
    stop: preemption, the end of a time slot), planned (Ctrl-C, max_time, or the run was finished)."""
    why: str
    reached_s: float
    """Training time of the run at the end of the attempt."""
    resumed_s: float
    """Training time of the run at the state that the next attempt resumed from."""
    reached_batches: int
    resumed_batches: int
    at: str = ""
    """Start of the next attempt; UTC, ISO 8601."""

    @property
    def lost_s(self) -> float:
        """Seconds of work that had to be repeated."""
        return max(0.0, self.reached_s - self.resumed_s)

    @property
    def lost_batches(self) -> int:
        """Batches that had to be repeated."""
        return max(0, self.reached_batches - self.resumed_batches)

    @property
    def is_failure(self) -> bool:
        """Whether only earlier saves helped: it came without notice, or its last save did not finish in time."""
        return self.kind in ("killed", "failed", "hung") or (self.kind == "announced" and self.lost_batches > 0)


@dataclass(frozen=True)
class Run:
    """Measurements of one run, over all its attempts."""

    path: Path
    overrides: Mapping[str, str]
    """Values of the command line and of the sweeper, by key."""
    status: str
    """Status in run.json: running (or killed), finished, stopped, failed; empty if it cannot be read."""
    interval: str
    """`checkpoint.save_interval`; without one the names of the triggers, or `none`."""
    monitor: str
    """Metric that `best` is the best value of."""
    best: float | None
    source: Literal["checkpoints.csv", "manifests", ""]
    """Where `saves` come from. Manifests know the kept checkpoints only."""
    saves: tuple[Save, ...]
    """Saves in the order of their writing; after a resume, a step may come twice."""
    kept: tuple[Saved, ...]
    """Checkpoints on disk, oldest first."""
    elapsed_s: float | None
    """Training time of the run so far, without work that was lost."""
    total_batches: int | None
    ends: tuple[Interruption, ...] | None
    """Ends of all attempts but the last, oldest first; None if the run has no record of its attempts."""
    spent: TimeSpent | None = None
    """What its time was spent on, over all attempts; None if that is unknown."""
    spans: tuple[Span, ...] = ()
    """Its attempts on the clock; empty if their times are unknown."""

    @cached_property
    def once(self) -> tuple[Save, ...]:
        """Saves of the work that counts: those that were lost and repeated come once."""
        return tuple(save for _, save in sorted({save.step: save for save in self.saves}.items()))

    @property
    def num_saves(self) -> int:
        """Number of saves of the work that counts."""
        if self.source == "manifests":
            return self.kept[-1].number + 1
        return len(self.once)

    @property
    def skipped(self) -> int:
        """Interval saves that were dropped because both buffers were busy."""
        return self.once[-1].skipped if self.once else 0

    @property
    def overhead(self) -> float | None:
        """Cost of saving up to the last save, as a share of the time that the run would have taken without it."""
        return self.once[-1].overhead if self.once else None

    @property
    def cost_s(self) -> float | None:
        """Training time that `num_measured` saves cost together: o / (1 + o) of the time, with the overhead o."""
        last = self.once[-1] if self.once else None
        if last is None or last.overhead is None or last.at_s is None or last.whole_s is None:
            return None
        until_s = last.at_s if self.source == "manifests" else last.whole_s
        return until_s * last.overhead / (1 + last.overhead)

    @property
    def num_measured(self) -> int:
        """Number of saves that `overhead` covers."""
        # A manifest is written by its own save, so that it knows the cost of the saves before that one.
        return self.num_saves - 1 if self.source == "manifests" else self.num_saves

    @property
    def save_s(self) -> float | None:
        """Training time that a save costs on average."""
        return self.cost_s / self.num_measured if self.cost_s is not None and self.num_measured else None

    @property
    def stall_s(self) -> float | None:
        """Median time that training stood still for a save."""
        return median(save.stall_s for save in self.saves) if self.saves else None

    @property
    def stalled_s(self) -> float:
        """Total time that training stood still for the known saves of the work that counts."""
        return math.fsum(save.stall_s for save in self.once)

    @property
    def write_s(self) -> float | None:
        """Median time from the first byte to the commit."""
        return median(save.write_s for save in self.saves) if self.saves else None

    @property
    def written_bytes(self) -> int | None:
        """Size of all checkpoints that were ever written; None if only the kept ones are known."""
        return None if self.source == "manifests" else sum(save.num_bytes for save in self.saves)

    @property
    def held_bytes(self) -> int:
        """Size of the checkpoints on disk."""
        return sum(saved.num_bytes for saved in self.kept)

    @property
    def work_s(self) -> float | None:
        """Training time without the cost of saving."""
        return None if self.elapsed_s is None else self.elapsed_s - (self.cost_s or 0.0)

    @property
    def batch_s(self) -> float | None:
        """Training time per batch, without saves but with validations and all else that comes between batches.

        With it, an interval in seconds is converted to batches.
        """
        return self.work_s / self.total_batches if self.work_s and self.total_batches else None

    @property
    def spacing_s(self) -> float | None:
        """Average work between two saves, whatever triggered them."""
        return self.work_s / self.num_saves if self.work_s and self.num_saves else None

    @property
    def spacing_batches(self) -> float | None:
        """Average number of batches between two saves."""
        return self.total_batches / self.num_saves if self.total_batches and self.num_saves else None

    @cached_property
    def at_risk_s(self) -> float | None:
        """Work that a failure would have lost, on average over the run; None if not all saves are known."""
        times = [(save.at_s, save.whole_s, save.write_s) for save in self.once]
        if not self.elapsed_s or self.source == "manifests" or any(at_s is None for at_s, *_ in times):
            return None
        meter = Meter()
        for at_s, whole_s, write_s in times:
            meter.record_commit(write_s, at_s=whole_s or 0.0, position_s=at_s or 0.0)
        return meter.at_risk_s(max(self.elapsed_s, times[-1][1] or 0.0) if times else self.elapsed_s)

    @property
    def lost_s(self) -> float | None:
        """Work that was lost at all interruptions together; None if the run has no record of its attempts."""
        return None if self.ends is None else math.fsum(end.lost_s for end in self.ends)

    @property
    def trained_s(self) -> float:
        """All training, lost work included: the time in which failures could come."""
        return (self.elapsed_s or 0.0) + (self.lost_s or 0.0)

    @property
    def unsaved_s(self) -> float | None:
        """Work that is not in any checkpoint now."""
        if self.elapsed_s is None:
            return None
        return max(0.0, self.elapsed_s - (self.kept[-1].elapsed_s if self.kept else 0.0))


@dataclass(frozen=True)
class Sweep:
    """Runs to compare, those with the shortest interval first."""

    path: Path
    runs: tuple[Run, ...]

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """Keys of the overrides in which the runs differ."""
        keys = dict.fromkeys(name for run in self.runs for name in run.overrides)
        return tuple(name for name in keys if len({run.overrides.get(name) for run in self.runs}) > 1)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A short name for each run: its interval, with whatever else was varied."""
        others = [name for name in self.varied if name != INTERVAL]
        labels = [", ".join([run.interval, *_settings(run, others)]) for run in self.runs]
        times = Counter(labels)
        return tuple(
            label if times[label] == 1 else f"{label} ({run.path.name})"
            for label, run in zip(labels, self.runs, strict=True)
        )


def _settings(run: Run, names: Sequence[str]) -> list[str]:
    return [f"{name.rpartition('.')[2]}={run.overrides[name]}" for name in names if name in run.overrides]
