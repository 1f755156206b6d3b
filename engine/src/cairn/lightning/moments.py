"""WHERE a fit is at a boundary, as the plain values that policies and manifests are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from lightning.pytorch import Trainer

from cairn.account.telemetry import Telemetry
from cairn.data import parallel
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.loops import boundary
from cairn.lightning.policy import Policy
from cairn.policy.auto import Choice
from cairn.store import names
from cairn.types import PAUSE, Draft, Moment, Position


class Moments:
    """Makes the moments of a fit.

    Args:
        trainer: The trainer.
        telemetry: Training time, and what saving costs.
        policy: Its limits: the training time after which the run stops, and where it pauses.
        stop: Asked why the run must stop now; gets the seconds until a save is committed.
    """

    def __init__(
        self,
        trainer: Trainer,
        telemetry: Telemetry,
        policy: Policy,
        stop: Callable[[float], str | None],
    ) -> None:
        self.trainer, self.telemetry = trainer, telemetry
        self.mode, self.max_time_s, self.pause, self.stop = policy.mode, policy.max_time_s, policy.pause, stop
        self.score: float | None = None
        """The monitored metric, if a validation since the last boundary has logged it."""
        self.num_samples = 0
        """Samples seen over the whole run, on all ranks."""
        self.found_stop: str | None = None
        """Why the run must stop, if `stop` was asked already at this boundary."""
        self._last = (Position(0, 0), 0, 0, 0)
        """A boundary, and how far the run has come in its epoch since: batches and steps of the run, and samples. One
        object, because a watchdog reads it in another thread."""
        self._num_shares = trainer.world_size // parallel.num_together()

    @property
    def previous(self) -> Position:
        """The last boundary; it is replaced when a boundary is done with, and `score` is None then."""
        before, total, step, samples = self._last
        if total == before.total_batches:
            return before
        return Position(before.epoch, before.batch + total - before.total_batches, total, step, samples)

    @previous.setter
    def previous(self, position: Position) -> None:
        self._last = (position, position.total_batches, position.step, position.samples)

    def passes(self, total_batches: int, step: int) -> None:
        """Note a boundary at which nothing happens, in the same epoch as the last one."""
        self._last = (self._last[0], total_batches, step, self.num_samples)

    def count(self, num_samples: int, of_all_ranks: bool = False) -> None:
        """Count the samples of a batch: as many on each rank, or of all ranks together.

        Processes that compute a batch together have the same samples, which count once.
        """
        self.num_samples += num_samples if of_all_ranks else num_samples * self._num_shares

    def now(self, place: boundary.Place, ends: bool, busy: bool) -> Moment:
        """The moment at a boundary.

        Args:
            place: After a batch, or after the hooks of an epoch's end.
            ends: This is the last boundary of the run.
            busy: A save is being written.
        """
        elapsed, cost = self.telemetry.clock.elapsed_s, self.telemetry.cost()
        stop, self.found_stop = self.found_stop or self.stop(cost.until_committed_s if cost else 0.0), None
        position = boundary.position(self.trainer, place, self.num_samples)
        planned = TIME_LIMIT if self.is_time_used_up(elapsed) else None
        # A run that never pauses stops at the limit, too.
        if planned is None and not ends and self.is_at_pause(position, elapsed):
            planned = PAUSE
        return Moment(
            position=position,
            previous=self.previous,
            batches_per_epoch=self._batches_per_epoch,
            elapsed_s=elapsed,
            since_save_s=elapsed - self.telemetry.last_save_s,
            score=self.score,
            ends=ends,
            stop=stop or planned,
            mode=self.mode,
            cost=cost,
            busy=busy,
        )

    def is_time_used_up(self, elapsed_s: float) -> bool:
        """Return whether a run with this training time, in seconds, has come to its limit."""
        return self.max_time_s is not None and elapsed_s >= self.max_time_s

    def is_at_pause(self, position: Position, elapsed_s: float) -> bool:
        """Return whether the run pauses there, or has come further.

        Args:
            position: The boundary at which the trainer is.
            elapsed_s: Training time of the run, in seconds.

        Raises:
            ConfigError: This data cannot say where the pause is.
        """
        num_epochs = self.trainer.fit_loop.epoch_progress.current.completed
        return self.pause is not None and self.pause.is_reached(
            position, num_epochs, elapsed_s, self._batches_per_epoch
        )

    @property
    def _batches_per_epoch(self) -> int | None:
        num_batches = self.trainer.num_training_batches // boundary.per_window(self.trainer)
        return int(num_batches) if math.isfinite(num_batches) else None

    def draft(
        self,
        moment: Moment,
        reasons: Sequence[str],
        lasting: bool,
        run: str,
        choice: Choice | None,
        monitor: str | None,
    ) -> Draft:
        """What the manifest of a checkpoint at this moment will say."""
        score = moment.score if moment.score is not None and math.isfinite(moment.score) else None
        return Draft(
            name=names.checkpoint_name(moment.position),
            position=moment.position,
            number=0,  # its history knows
            reasons=tuple(reasons),
            lasting=lasting,
            score=score,
            metrics=_finite(self.trainer.callback_metrics),
            run=run,
            elapsed_s=moment.elapsed_s,
            interval_batches=choice.interval_batches if choice else None,
            overhead=self.telemetry.meter.overhead(moment.elapsed_s),
            skipped=self.telemetry.meter.num_skipped,
            monitor=monitor if score is not None else None,
        )


def _finite(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
