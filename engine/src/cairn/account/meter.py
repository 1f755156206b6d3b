"""COST: what saving takes from a run and what a failure would, over the whole run and as it is lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from cairn.types import SaveCost, Saved

_FEWEST = 3
_NUM_BATCHES, _NUM_BUSY, _NUM_SAVES = 128, 128, 5
_NUM_BLOCKS = 8
_SHORTEST_S = 1e-9  # a clock may be too coarse for a batch
# What a first save may cost, on the slow side: better a little late than dear.
_COPY_BYTES_PER_S, _WRITE_BYTES_PER_S = 1e9, 2e8
_COPY_S, _WRITE_S = 0.01, 0.05  # even if it is small: a few calls, a few fsyncs
_SLOWDOWN = 0.1  # of the time that a write takes


class Meter:
    """Is told how long things took; reads no clock.

    Batches: what is typical of the last 128 during which nothing was written. Saves: the median of the last five, so
    that one which met a busy disk changes nothing, and a disk that has become slower shows after three. By how much a
    write slows batches down: what is typical of the last 128 during one, each against a batch without at that time; so
    that neither the hiccups of the data nor batches that become faster look like a cost of saving.
    """

    def __init__(self) -> None:
        self.total_stall_s, self.total_wait_s = 0.0, 0.0
        self.num_saves, self.num_skipped = 0, 0
        self.total_slowdown_s = 0.0
        self._num_bytes = 0
        self._batches: deque[float] = deque(maxlen=_NUM_BATCHES)
        self._stalls: deque[float] = deque(maxlen=_NUM_SAVES)
        self._ratios: deque[float] = deque(maxlen=_NUM_BUSY)
        self._busies: deque[float] = deque(maxlen=_NUM_SAVES)
        self._writes: deque[float] = deque(maxlen=_NUM_SAVES)
        self._busy_s: float | None = None  # batches that took place during the newest save
        self._safe_s, self._until_s, self._risk = 0.0, 0.0, 0.0
        self._is_first = True

    # What happens

    def expect_bytes(self, num_bytes: int) -> None:
        """A checkpoint will take about `num_bytes`: to go by before the first one was measured."""
        self._num_bytes = num_bytes

    def record_batch(self, seconds: float, busy: bool, validated: bool) -> None:
        """A training batch took `seconds`, a stall not included.

        Args:
            seconds: from one batch to the next.
            busy: a save was being written during a part of it.
            validated: it has a validation in it.
        """
        if self._is_first:  # of this process: compiles, and waits for the first data
            self._is_first = False
        elif validated:
            pass  # how much of it was training nobody knows
        elif not busy:
            self._batches.append(seconds)
        elif len(self._batches) >= _FEWEST:
            self._ratios.append(seconds / max(_typical(self._batches), _SHORTEST_S))
            self._busy_s = (self._busy_s or 0.0) + seconds
        if not busy:
            self._close()  # and not at the commit: the batch in which that fell may be told after it

    def record_stall(self, stall_s: float, wait_s: float = 0.0) -> None:
        """Training stood still for a save, for a part of the time (`wait_s`) because no buffer was free."""
        self._close()
        self._busy_s = 0.0
        self._stood(stall_s, wait_s)

    def extend_stall(self, seconds: float) -> None:
        """The last stall was longer than was known then: training has come to where it needs what was still copied."""
        self.total_stall_s += seconds
        if self._stalls:
            self._stalls[-1] += seconds

    def record_commit(self, write_s: float, at_s: float, position_s: float) -> None:
        """A save is whole.

        Args:
            write_s: from its start to now.
            at_s: training time of the run now.
            position_s: training time of the run at the state that was saved.
        """
        self.num_saves += 1
        self._writes.append(write_s)
        self._advance(at_s)
        self._safe_s = max(self._safe_s, position_s)

    def record_skip(self) -> None:
        """A save was left out, because the writer was busy."""
        self.num_skipped += 1

    # What is known

    def cost(self) -> SaveCost | None:
        """What a save costs; None until a few batches were seen."""
        if len(self._batches) < _FEWEST:
            return None
        guess = _guess(self._num_bytes)
        return SaveCost(
            batch_s=_typical(self._batches),
            stall_s=_median(self._stalls, guess.stall_s),
            slowdown_s=self._lost() * median(self._busies) if self._busies else guess.slowdown_s,
            write_s=_median(self._writes, guess.write_s),
            num_saves=len(self._writes),
        )

    def overhead(self, elapsed_s: float) -> float:
        """What saving has cost, as a share of the time that the run would have taken without; 0 before any training."""
        cost_s = self.total_stall_s + self.total_slowdown_s
        return cost_s / (elapsed_s - cost_s) if elapsed_s > cost_s else 0.0

    def at_risk_s(self, now_s: float) -> float:
        """Seconds of work that a failure would have lost, on average over the run so far.

        The time average of t - p(t), where p(t) is the training time at the newest state that was whole at t.
        """
        return self._risk_until(now_s) / now_s if now_s > 0 else 0.0

    # Over restarts

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers."""
        return {
            "total_stall_s": self.total_stall_s,
            "total_wait_s": self.total_wait_s,
            "total_slowdown_s": self.total_slowdown_s,
            "num_saves": self.num_saves,
            "num_skipped": self.num_skipped,
            "num_bytes": self._num_bytes,
            "safe_s": self._safe_s,
            "until_s": self._until_s,
            "risk": self._risk,
            **{name: list(samples) for name, samples in self._samples().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.total_stall_s, self.total_wait_s = state["total_stall_s"], state["total_wait_s"]
        self.total_slowdown_s, self._num_bytes = state["total_slowdown_s"], state["num_bytes"]
        self.num_saves, self.num_skipped = state["num_saves"], state["num_skipped"]
        self._safe_s, self._until_s, self._risk = state["safe_s"], state["until_s"], state["risk"]
        for name, samples in self._samples().items():
            samples.clear()
            samples.extend(state[name])

    def resumed(self, saved: Saved) -> None:
        """The run goes on from `saved`, in which the state of this meter was stored before that save was over."""
        self._stood(saved.stall_s, saved.wait_s)
        self.record_commit(saved.write_s, at_s=saved.elapsed_s, position_s=saved.elapsed_s)

    def _samples(self) -> dict[str, deque[float]]:
        return {
            "batches": self._batches,
            "ratios": self._ratios,
            "busies": self._busies,
            "stalls": self._stalls,
            "writes": self._writes,
        }

    def _stood(self, stall_s: float, wait_s: float) -> None:
        self.total_stall_s += stall_s
        self.total_wait_s += wait_s
        self._stalls.append(stall_s)

    def _close(self) -> None:
        """All batches that the newest save may have slowed down are over."""
        if self._busy_s is not None:
            self._busies.append(self._busy_s)
            self.total_slowdown_s += self._lost() * self._busy_s
            self._busy_s = None

    def _lost(self) -> float:
        """The share of the time of batches during a write that they would not have taken without it."""
        return 1 - 1 / max(1.0, _typical(self._ratios)) if self._ratios else 0.0

    def _advance(self, at_s: float) -> None:
        self._risk, self._until_s = self._risk_until(at_s), max(self._until_s, at_s)

    def _risk_until(self, at_s: float) -> float:
        """The integral of the work at risk, in s^2: since the last commit it has grown as fast as time."""
        start, end = self._until_s - self._safe_s, max(self._until_s, at_s) - self._safe_s
        return self._risk + (end**2 - start**2) / 2


def _typical(samples: Iterable[float]) -> float:
    """The median of the means of eight blocks.

    A mean, because a hiccup that comes again and again (every eighth batch waits for a data worker) is a part of what
    batches take: against a median, every write would seem to slow training down. And a median of them, because one that
    came once (a compilation, a pause of the machine) is not. It follows a change after half of the samples.
    """
    newest = list(samples)
    size = max(1, len(newest) // _NUM_BLOCKS)
    return median(fmean(newest[end - size : end]) for end in range(len(newest), size - 1, -size))


def _median(samples: Iterable[float], otherwise: float) -> float:
    known = list(samples)
    return median(known) if known else otherwise


def _guess(num_bytes: int) -> SaveCost:
    """What a save of so many bytes may cost, before any was made."""
    write_s = _WRITE_S + num_bytes / _WRITE_BYTES_PER_S
    return SaveCost(0.0, _COPY_S + num_bytes / _COPY_BYTES_PER_S, _SLOWDOWN * write_s, write_s)
