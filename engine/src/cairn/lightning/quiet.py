"""Boundaries at which nothing can happen, recognized without asking anything.

    boundary         policies, watchers and accounts are asked in full; from the answers follows a limit in batches,
    |                steps and time, before which none of them could answer otherwise
    quiet boundary   batches, steps and the clock are compared with the limits; the batch is counted
    |                ...
    boundary         a limit is reached, or there is an event: a validation, a stop, an end, another epoch

Asked in full, a boundary takes 20 to 40 us, which would slow down a run with short batches. With several ranks, each
also waits there for the others. Limits in batches and steps, validations and epochs are the same on all ranks. A stop
and the clock are news of one rank, which the others hear one boundary later.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch import Trainer

from cairn.account.telemetry import Telemetry
from cairn.lightning.agreement import Agreement
from cairn.lightning.loops import boundary
from cairn.lightning.moments import Moments
from cairn.policy.earliest import Earliest, earliest
from cairn.policy.when import Trigger
from cairn.types import Moment

_LONGEST_S = 0.1
"""A boundary is asked in full at least this often: measured costs change, and patient watchers wait for news."""
_FAR = 1 << 62
"""More batches and steps than any run has, as a number that ranks can compare."""


class Quiet:
    """The quiet boundaries of the fits of one trainer.

    Args:
        trainer: The trainer.
        moments: Where the fit is.
        telemetry: Counts the batches.
        triggers: All triggers.
        agreement: Between the ranks.
    """

    def __init__(
        self,
        trainer: Trainer,
        moments: Moments,
        telemetry: Telemetry,
        triggers: Sequence[Trigger],
        agreement: Agreement,
    ) -> None:
        self._trainer, self._moments, self._telemetry, self._triggers = trainer, moments, telemetry, triggers
        self._agreement = agreement
        self._clock = telemetry.clock
        self._total, self._until_total, self._until_step, self._until_s = 0, 0, 0, 0.0
        self._save_s = 0.0
        self._moment: Moment | None = None
        """The last boundary that was asked in full, from which on boundaries are quiet."""
        self._passed_at: float | None = None
        """When the last quiet boundary was reached since then."""

    def begin(self, place: boundary.Place, moment: Moment, is_patient: bool) -> None:
        """Begin after a boundary at which no save was begun, if the next boundaries can be quiet; on all ranks.

        Args:
            place: After a batch, or after an epoch.
            moment: The boundary.
            is_patient: Whether what watches this rank may learn of boundaries late.
        """
        if place != "batch" or moment.stop is not None:
            return
        leads, limit_s = self._agreement.leads, self._moments.max_time_s
        first = earliest(self._triggers, moment) if leads else Earliest()  # only rank 0 asks the triggers
        until_total, until_step = (int(min(limit, _FAR)) if leads else 0 for limit in (first.total_batches, first.step))
        is_restless = not is_patient or (leads and not self._telemetry.is_quiet)  # only rank 0 knows of saves under way
        limits = self._agreement.largest(is_restless, until_total, until_step)
        any_is_restless, self._until_total, self._until_step = limits
        if any_is_restless:
            return
        until_s = min(first.elapsed_s, moment.elapsed_s + _LONGEST_S)
        self._until_s = self._clock.reaches(until_s if limit_s is None else min(until_s, limit_s))
        self._save_s = moment.cost.until_committed_s if moment.cost else 0.0
        self._batches = self._trainer.fit_loop.epoch_loop.batch_progress
        self._per_window = boundary.per_window(self._trainer)
        self._steps = boundary.steps(self._trainer)
        self._total = moment.position.total_batches
        self._ahead = self._total - moment.position.batch
        self._moment = moment

    def covers(self, place: boundary.Place, ends: bool) -> bool:
        """Return whether this boundary is quiet; count its batches then.

        Args:
            place: After a batch, or after an epoch.
            ends: Whether the run ends here.
        """
        if self._moment is None:
            return False
        per_window = self._per_window
        total, step = self._batches.total.completed // per_window, self._steps.completed
        is_event = ends or place != "batch" or self._clock.validated
        is_event = is_event or total - self._batches.current.completed // per_window != self._ahead
        if is_event or total >= self._until_total or step >= self._until_step:
            self._agreement.end_of_news()
            return False
        now = time.monotonic()
        has_news = now >= self._until_s
        if not has_news and (stop := self._moments.stop(self._save_s)) is not None:
            self._moments.found_stop, has_news = stop, True  # it may be said only once
        if self._agreement.has_news(has_news or self._moments.found_stop is not None):
            return False
        self._telemetry.pass_batches(total - self._total, now)
        self._moments.passes(total, step)
        self._total, self._passed_at = total, now
        return True

    def latest(self) -> Moment | None:
        """Return the last quiet boundary, if one was reached since the last other one. May be called in any thread."""
        moment, at = self._moment, self._passed_at
        if moment is None or at is None:
            return None
        elapsed_s = self._clock.elapsed_s_at(at)
        since_save_s = moment.since_save_s + elapsed_s - moment.elapsed_s
        return replace(moment, position=self._moments.previous, elapsed_s=elapsed_s, since_save_s=since_save_s)

    def end(self) -> None:
        """End it."""
        self._moment = self._passed_at = None

    def finish(self) -> Moment | None:
        """End it; return what `latest` does."""
        found = self.latest()
        self.end()
        return found
