"""Count the saves of a run and their cost over all attempts, and report both to its loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cairn.account.clock import Clock
from cairn.account.meter import Meter
from cairn.types import SaveCost, Saved

_SHORT_S, _NUM_STALE = 0.005, 8
"""With batches shorter than this, the cost of a save may leave out the newest few: each boundary asks for it."""


class MetricsLogger(Protocol):
    """The part of a logger that is used here; all of Lightning's loggers have it."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers by name, at an optimizer step."""
        ...


class Telemetry:
    """Measures saves and batches with a clock, and passes the durations to a meter.

    Attributes:
        num_saves: Committed saves of the run.
        num_open: Saves whose outcome is not recorded yet.
        last_save_s: Training time of the run at the start of the newest save.
    """

    def __init__(self) -> None:
        self.meter, self.clock = Meter(), Clock()
        self.num_saves = self.num_open = 0
        self.last_save_s = 0.0
        self._cost: SaveCost | None = None
        self._cost_of: tuple[float, ...] = ()
        self._num_since = 0

    def cost(self) -> SaveCost | None:
        """Expected cost of a save, see `Meter.cost`."""
        meter, known = self.meter, self._cost
        totals = (meter.total_stall_s, meter.total_slowdown_s, meter.num_saves)
        fresh = self._num_since < _NUM_STALE and not self.clock.busy and totals == self._cost_of
        if known is None or not fresh or known.batch_s > _SHORT_S:
            self._cost, self._cost_of, self._num_since = meter.cost(), totals, 0
        return self._cost

    @property
    def elapsed_s(self) -> float:
        """Training time of the run, in seconds."""
        return self.clock.elapsed_s

    @property
    def overhead(self) -> float:
        """Cost of all saves so far, as a share of the time that the run would have taken without them."""
        return self.meter.overhead(self.elapsed_s)

    @property
    def at_risk_s(self) -> float:
        """Work that a failure would have lost, averaged over the run so far, in seconds."""
        return self.meter.at_risk_s(self.elapsed_s)

    # Events

    def record_batches(self, count: int) -> None:
        """Record the batches since the last `Clock.begin_batch`: more than one at the end of an accumulation window."""
        clock = self.clock
        passed_s = clock.batch_s()
        self._num_since += count
        for _ in range(count):
            self.meter.record_batch(passed_s / count, clock.busy, clock.validated)

    def pass_batches(self, count: int, now: float) -> None:
        """Record ordinary batches, of which the last has ended at `now`, and start the next one.

        It does what `record_batches` and `Clock.begin_batch` do while `is_quiet`, in a fraction of the time.
        """
        passed_s = self.clock.end_batch(now)
        self._num_since += count
        for _ in range(count):
            self.meter.record_batch(passed_s / count, busy=False, validated=False)

    @property
    def is_quiet(self) -> bool:
        """Whether no save is being written, nor has just been."""
        return not self.num_open and not self.clock.busy and self.meter.is_settled

    def save_begun(self, at_s: float) -> None:
        """Record the start of a save at the training time `at_s`."""
        self.last_save_s = at_s

    def save_staged(self) -> None:
        """Record that the state of a save is copied; `save_committed` or `save_failed` follows."""
        self.num_open += 1

    def extend_stall(self, seconds: float) -> None:
        """Move time from the current batch to the last stall: the batch waited for the rest of the copy."""
        self.clock.exclude(seconds)
        self.meter.extend_stall(seconds)

    def save_skipped(self, at_s: float) -> None:
        """Record a save that was skipped because the writer was busy."""
        self.meter.record_skip()
        self.last_save_s = at_s  # otherwise a trigger that counts seconds would be due again at the next batch

    def save_failed(self) -> None:
        """Record that a staged save will not be committed."""
        self.num_open -= 1

    def save_committed(self, saved: Saved, at: float, loggers: Iterable[MetricsLogger]) -> None:
        """Record the commit of a staged save, and log its cost.

        Args:
            saved: The checkpoint.
            at: Time of the commit, a value of `time.monotonic()`.
            loggers: Loggers that receive the cost.
        """
        self.num_open -= 1
        self.num_saves += 1
        at_s = self.clock.elapsed_s_at(at)
        self.meter.record_commit(at_s - saved.elapsed_s, at_s, position_s=saved.elapsed_s)
        facts = self._facts(saved)
        for logger in loggers:
            # By keyword, as Lightning calls it: a logger may name or order its parameters in its own way.
            logger.log_metrics(metrics=facts, step=saved.position.step)

    def _facts(self, saved: Saved) -> dict[str, float]:
        facts: dict[str, float] = {
            "stall_s": saved.stall_s,
            "wait_s": saved.wait_s,
            "write_s": saved.write_s,
            "bytes": saved.num_bytes,
            "overhead": self.overhead,
            "skipped": self.meter.num_skipped,
        }
        if saved.interval_batches:
            facts["interval_batches"] = saved.interval_batches
        return {f"checkpoint/{name}": value for name, value in facts.items()}

    # Over attempts

    def state_dict(self, at_s: float) -> dict[str, Any]:
        """State for a save that starts at this training time, assuming that it and all pending ones succeed."""
        return {
            "elapsed_s": at_s,
            "num_saves": self.num_saves + self.num_open + 1,
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], saved: Saved | None) -> None:
        """Continue from the state in a checkpoint.

        Args:
            state: Value that `state_dict` returned.
            saved: The checkpoint; None if its manifest is unknown.
        """
        self.num_saves, self.last_save_s = state["num_saves"], state["elapsed_s"]
        self.clock.continue_from(self.last_save_s)
        if "meter" in state:  # checkpoints of the first versions do not have it
            self.meter.load_state_dict(state["meter"])
        if saved is not None:
            self.meter.resumed(saved)
