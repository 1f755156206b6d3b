"""Measure what saving costs a run, recently and over the whole run, and what a failure would cost.

training  |--batch--|--batch--|=stall=|--slower batch--|--slower batch--|--batch--|
writer                                |--------- write ---------|commit

cost of a save = stall + the time by which the batches during the write are slower than usual
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from cairn.types import SaveCost, Saved

_FEWEST = 3
_NUM_RECENT = {"batches": 128, "ratios": 128, "busies": 5, "stalls": 5, "writes": 5}
"""Number of samples that are kept of each kind; the names are keys of the state in a checkpoint."""
_TOTALS = ("total_stall_s", "total_wait_s", "total_slowdown_s", "num_saves", "num_skipped")
_NUM_BLOCKS = 8
_SHORTEST_S = 1e-9  # a clock may be too coarse for a batch
# Pessimistic estimate for the first save: a first interval that is too long costs less than one that is too short.
_COPY_BYTES_PER_S, _WRITE_BYTES_PER_S = 1e9, 2e8
_COPY_S, _WRITE_S = 0.01, 0.05  # for a small checkpoint: a few calls, a few fsyncs
_SLOWDOWN = 0.1  # as a share of the time of a write


class WorkAtRisk:
    """The work that a failure loses: the time average of t - p(t).

    p(t) is the training time of the newest state that is committed at time t.
    """

    def __init__(self) -> None:
        self._safe_s, self._until_s, self._risk = 0.0, 0.0, 0.0

    def record_commit(self, at_s: float, position_s: float) -> None:
        """Record a commit at training time `at_s`, of the state at training time `position_s`."""
        self._risk, self._until_s = self._integral_until(at_s), max(self._until_s, at_s)
        self._safe_s = max(self._safe_s, position_s)

    def average_s(self, now_s: float) -> float:
        """The average up to the training time `now_s`, in seconds; 0 before any training."""
        return self._integral_until(now_s) / now_s if now_s > 0 else 0.0

    def state_dict(self) -> dict[str, float]:
        """State for a checkpoint."""
        return {"safe_s": self._safe_s, "until_s": self._until_s, "risk": self._risk}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a `state_dict`."""
        self._safe_s, self._until_s, self._risk = state["safe_s"], state["until_s"], state["risk"]

    def _integral_until(self, at_s: float) -> float:
        """Integral of the work at risk, in s^2: since the last commit, that work has grown as fast as time."""
        start, end = self._until_s - self._safe_s, max(self._until_s, at_s) - self._safe_s
        return self._risk + (end**2 - start**2) / 2


class Meter:
    """Computes the cost of saves from recorded durations; it does not read a clock itself.

    Batch: typical duration of the last 128 batches without a write. Save: median of the last five, so that one slow
    write does not matter, and a disk that has become slower shows after three saves. Slowdown: typical ratio of the
    last 128 batches during a write to the batches without one at that time, so that neither irregular data loading nor
    batches that become faster look like a cost of saving.

    Attributes:
        num_saves: Committed saves of the run.
        num_skipped: Saves that were skipped because the writer was busy.
        total_stall_s: Time that training has paused for saves, in seconds.
        total_wait_s: Part of this time that was spent waiting for a free buffer, in seconds.
        total_slowdown_s: Time lost to slower batches during writes, in seconds.
    """

    def __init__(self) -> None:
        self.total_stall_s, self.total_wait_s = 0.0, 0.0
        self.num_saves, self.num_skipped = 0, 0
        self.total_slowdown_s, self._num_bytes = 0.0, 0
        self._recent = {name: deque[float](maxlen=most) for name, most in _NUM_RECENT.items()}
        self._at_risk = WorkAtRisk()
        self._busy_s: float | None = None  # duration of the batches during the newest save; None: no save is open
        self._is_first = True

    # Events

    def expect_bytes(self, num_bytes: int) -> None:
        """Set the estimated size of a checkpoint, for the cost before the first save is measured."""
        self._num_bytes = num_bytes

    def record_batch(self, seconds: float, busy: bool, validated: bool) -> None:
        """Record a training batch.

        Args:
            seconds: Time from one batch to the next, without stalls.
            busy: True if a save was being written during part of the batch.
            validated: True if the batch includes a validation.
        """
        if self._is_first:  # the first batch of this process compiles, and waits for the first data
            self._is_first = False
        elif validated:
            pass  # the share of training in it is unknown
        elif not busy:
            self._recent["batches"].append(seconds)
        elif len(self._recent["batches"]) >= _FEWEST:
            self._recent["ratios"].append(seconds / max(_typical(self._recent["batches"]), _SHORTEST_S))
            self._busy_s = (self._busy_s or 0.0) + seconds
        if not busy and self._busy_s is not None:
            self._close()  # not at the commit: the batch that runs at that moment is recorded after it

    @property
    def is_settled(self) -> bool:
        """Whether the next batch is an ordinary one: not the first of this process, nor right after a save."""
        return not self._is_first and self._busy_s is None

    def record_stall(self, stall_s: float, wait_s: float = 0.0) -> None:
        """Record a pause of training for a save; `wait_s` is the part spent waiting for a free buffer."""
        self._close()
        self._busy_s = 0.0
        self._add_stall(stall_s, wait_s)

    def extend_stall(self, seconds: float) -> None:
        """Add time to the last stall, because training or a GPU waited later for the rest of the copy."""
        self.total_stall_s += seconds
        if self._recent["stalls"]:
            self._recent["stalls"][-1] += seconds

    def record_commit(self, write_s: float, at_s: float, position_s: float) -> None:
        """Record a commit.

        Args:
            write_s: Time from the start of the save to the commit, in seconds.
            at_s: Training time of the run at the commit.
            position_s: Training time of the run at the saved state.
        """
        self.num_saves += 1
        self._recent["writes"].append(write_s)
        self._at_risk.record_commit(at_s, position_s)

    def record_skip(self) -> None:
        """Record a save that was skipped because the writer was busy."""
        self.num_skipped += 1

    # Results

    def cost(self) -> SaveCost | None:
        """Expected cost of a save; None until a few batches are recorded."""
        if len(self._recent["batches"]) < _FEWEST:
            return None
        guess, busies = _guess(self._num_bytes), self._recent["busies"]
        return SaveCost(
            batch_s=_typical(self._recent["batches"]),
            stall_s=_median(self._recent["stalls"], guess.stall_s),
            slowdown_s=self._lost_share() * median(busies) if busies else guess.slowdown_s,
            write_s=_median(self._recent["writes"], guess.write_s),
            num_saves=len(self._recent["writes"]),
        )

    def overhead(self, elapsed_s: float) -> float:
        """Cost of all saves, as a share of the training time `elapsed_s` without them; 0 before any training."""
        cost_s = self.total_stall_s + self.total_slowdown_s
        return cost_s / (elapsed_s - cost_s) if elapsed_s > cost_s else 0.0

    def at_risk_s(self, now_s: float) -> float:
        """Work that a failure would have lost, averaged over the run so far; see `WorkAtRisk`."""
        return self._at_risk.average_s(now_s)

    # Over attempts

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: numbers and lists of numbers."""
        return {
            **{name: getattr(self, name) for name in _TOTALS},
            "num_bytes": self._num_bytes,
            **self._at_risk.state_dict(),
            **{name: list(samples) for name, samples in self._recent.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        for name in _TOTALS:
            setattr(self, name, state[name])
        self._num_bytes = state["num_bytes"]
        self._at_risk.load_state_dict(state)
        for name, samples in self._recent.items():
            samples.clear()
            samples.extend(state[name])

    def resumed(self, saved: Saved) -> None:
        """Add the save that the run resumes from: when the state in it was captured, that save was not finished."""
        self._add_stall(saved.stall_s, saved.wait_s)
        self.record_commit(saved.write_s, at_s=saved.elapsed_s, position_s=saved.elapsed_s)

    def _add_stall(self, stall_s: float, wait_s: float) -> None:
        self.total_stall_s += stall_s
        self.total_wait_s += wait_s
        self._recent["stalls"].append(stall_s)

    def _close(self) -> None:
        """Close the newest save: all batches that it may have slowed down are recorded."""
        if self._busy_s is not None:
            self._recent["busies"].append(self._busy_s)
            self.total_slowdown_s += self._lost_share() * self._busy_s
            self._busy_s = None

    def _lost_share(self) -> float:
        """Share of the duration of a batch during a write that the write causes."""
        return 1 - 1 / max(1.0, _typical(self._recent["ratios"])) if self._recent["ratios"] else 0.0


def _typical(samples: Iterable[float]) -> float:
    """Median of the means of eight blocks; it follows a change after half of the samples."""
    # Means, because a delay that recurs (every eighth batch waits for a data worker) belongs to the usual duration:
    # compared with a plain median, every write would seem to slow training down. The median of them, because a delay
    # that happens once (a compilation, a pause of the machine) does not.
    newest = list(samples)
    size = max(1, len(newest) // _NUM_BLOCKS)
    return median(sum(newest[end - size : end]) for end in range(len(newest), size - 1, -size)) / size


def _median(samples: Iterable[float], otherwise: float) -> float:
    known = list(samples)
    return median(known) if known else otherwise


def _guess(num_bytes: int) -> SaveCost:
    """Estimated cost of a save of this size, before the first one."""
    write_s = _WRITE_S + num_bytes / _WRITE_BYTES_PER_S
    return SaveCost(0.0, _COPY_S + num_bytes / _COPY_BYTES_PER_S, _SLOWDOWN * write_s, write_s)
