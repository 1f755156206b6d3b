"""ACCOUNT: how many saves a run has made and what they cost it, over all its restarts; told to the loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from cairn.account.clock import Clock
from cairn.account.meter import Meter
from cairn.types import Saved


class Telemetry:
    """Asks the clock, and tells the meter.

    Attributes:
        num_saves: committed so far.
        last_save_s: training time of the run at the newest save that was begun.
    """

    def __init__(self) -> None:
        self.meter, self.clock = Meter(), Clock()
        self.num_saves = self._num_open = 0
        self.last_save_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Training time of the run, in seconds."""
        return self.clock.elapsed_s

    @property
    def overhead(self) -> float:
        """What saving has cost so far, as a share of the time that the run would have taken without."""
        return self.meter.overhead(self.elapsed_s)

    @property
    def at_risk_s(self) -> float:
        """Seconds of work that a failure would have lost, on average over the run so far."""
        return self.meter.at_risk_s(self.elapsed_s)

    # What happens

    def record_batches(self, count: int) -> None:
        """So many batches are over since the last call of `Clock.begin_batch`: more than one if a window closes."""
        passed_s = self.clock.batch_s()
        for _ in range(count):
            self.meter.record_batch(passed_s / count, self.clock.busy, self.clock.validated)

    def save_begun(self, at_s: float) -> None:
        """A save begins, at this training time of the run."""
        self.last_save_s = at_s

    def save_staged(self) -> None:
        """Its state is copied; what becomes of it is told later."""
        self._num_open += 1

    def extend_stall(self, seconds: float) -> None:
        """The present batch has waited for a copy that was to be complete by now."""
        self.clock.leave_out(seconds)
        self.meter.extend_stall(seconds)

    def save_skipped(self, at_s: float) -> None:
        """It was left out; or one that goes by time would be due again at each batch."""
        self.meter.record_skip()
        self.last_save_s = at_s

    def save_failed(self) -> None:
        """One that was staged will not be committed."""
        self._num_open -= 1

    def save_committed(self, saved: Saved, at: float, loggers: Iterable[Logger]) -> None:
        """One that was staged is whole, since a moment of `time.monotonic()`."""
        self._num_open -= 1
        self.num_saves += 1
        at_s = self.clock.elapsed_s_at(at)
        self.meter.record_commit(at_s - saved.elapsed_s, at_s, position_s=saved.elapsed_s)
        facts = self._facts(saved)
        for logger in loggers:
            logger.log_metrics(facts, saved.position.step)

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

    # Over restarts

    def state_dict(self, at_s: float) -> dict[str, Any]:
        """For a save that begins at this training time, as if it and all before it went well."""
        return {
            "elapsed_s": at_s,
            "num_saves": self.num_saves + self._num_open + 1,
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], saved: Saved | None) -> None:
        """Go on where `state_dict` was taken for `saved`."""
        self.num_saves, self.last_save_s = state["num_saves"], state["elapsed_s"]
        self.clock.go_on(self.last_save_s)
        if "meter" in state:  # runs that began before there was one go on without what they have cost
            self.meter.load_state_dict(state["meter"])
        if saved is not None:
            self.meter.resumed(saved)
