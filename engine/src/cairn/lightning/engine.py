"""What happens at a boundary of a fit: where it is, whether to save there, the save, and whether it stops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from cairn.account.telemetry import Telemetry
from cairn.data import shuffles
from cairn.errors import SaveError
from cairn.lightning import capture, elastic_level
from cairn.lightning.agreement import Agreement, Alone, Ranks
from cairn.lightning.audited.audit import Audit
from cairn.lightning.bits.virtual_ranks import VirtualRanks
from cairn.lightning.checks import callbacks, data, modes, monitors, trial
from cairn.lightning.collect import collect
from cairn.lightning.decision import Decision, Verdict
from cairn.lightning.logs import loggers
from cairn.lightning.loops import boundary
from cairn.lightning.loops.finders import Finders
from cairn.lightning.moments import Moments
from cairn.lightning.policy import Policy
from cairn.lightning.quiet import Quiet
from cairn.lightning.restart import Restart
from cairn.lightning.save import Saving
from cairn.lightning.saved import pruning, unsaved
from cairn.lightning.saved.growth import Growth
from cairn.lightning.saved.redealt import RankStates
from cairn.lightning.saves import Saves
from cairn.lightning.scores import Scores
from cairn.lightning.settings.kept import Settings
from cairn.lightning.sharding import Sharding
from cairn.lightning.watchers import Watcher, announce_stop, are_patient, inform
from cairn.store import names, space
from cairn.store.history import History
from cairn.store.listener import Listeners
from cairn.store.resume import ResumePoint
from cairn.types import Draft, Moment, Position
from cairn.writing import size

log = logging.getLogger(__name__)


class Engine:
    """The boundaries of one trainer's fits.

    Args:
        policy: When to save, what to keep, and where.
        trainer: The trainer.
        stop: Asked at every boundary why the run must stop there; gets the seconds until a save is committed.
        listeners: Informed of commits and deletions.
        watchers: Learn how far the run is.
    """

    def __init__(
        self,
        policy: Policy,
        trainer: Trainer,
        stop: Callable[[float], str | None],
        listeners: Listeners,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.policy, self.trainer, self.watchers = policy, trainer, watchers
        self.history = History(policy.directory, policy.rules.values(), policy.mode if policy.monitor else None)
        self.telemetry = Telemetry()
        self.moments = Moments(trainer, self.telemetry, policy, stop)
        self.saves = Saves(policy.writing, self.history, self.telemetry, listeners)
        self.decision = Decision(policy.triggers, may_skip=policy.writing.when_busy == "skip")
        self.agreement: Agreement = Ranks(trainer.strategy) if trainer.world_size > 1 else Alone()
        triggers = list(policy.triggers.values())
        self.quiet = Quiet(trainer, self.moments, self.telemetry, triggers, self.agreement)
        self.sharding = Sharding(trainer, policy.writing, policy.directory, self.agreement)
        self.origin = capture.Origin("")
        self.settings, self.scores = Settings(trainer), Scores(trainer, policy.monitor)
        self.restart = Restart(trainer, Audit(trainer, policy.audit if policy.triggers else "off"), self.agreement)
        self.saving = Saving(trainer, self.saves, self.sharding, self.restart, self.agreement)
        self.growth = Growth(trainer)
        self.accumulation = trainer.accumulate_grad_batches
        """What the trainer was given, before any hook could change it."""
        self.virtual_ranks: VirtualRanks | None = None
        self._loaded, self.ranks = dict[str, Any](), RankStates(trainer)
        self.finders = Finders(trainer, lambda: bool(self._loaded), self.saves.finish_copy)
        self._last_num_bytes, self._goes_on = 0, False
        """Whether the fit continues a run from one of its checkpoints."""
        self._pruned_at_start: set[str] = set()
        self._num_ready: int | None = None
        self.may_fit_again = True
        """False while the trainer stands inside an epoch, which Lightning would begin again."""

    def take_over(self, run: str, point: ResumePoint) -> None:
        """Take over what the run has committed before, on rank 0.

        Raises:
            ConfigError: The directory holds checkpoints of another run, or scores of another metric.
        """
        self._last_num_bytes = point.saved.num_bytes if point.saved else 0
        self.history.permit = self.saves.claim.permit if self.saves.claim else None
        self.history.take_over(run, point, self.policy.monitor)
        self.saves.has_begun = False

    def load(self, checkpoint: dict[str, Any], point: ResumePoint) -> None:
        """Take what a checkpoint holds for us; the loops ask for the rest when it is time, by `restore`."""
        ours = checkpoint[unsaved.KEY]
        capture.check(ours)
        saved_by = self.ranks.load(checkpoint)
        capture.warn_of_threads(self.trainer, ours)
        self._loaded = ours
        shuffles.begin_run(capture.way_of_shuffling(ours))
        self.restart.load(ours)
        self.finders.load(ours.get("finders", {}))
        self.moments.previous = Position(**ours["position"])
        self.moments.num_samples = self.moments.previous.samples
        self._goes_on = ours["run"] == self.origin.run  # else it is a new run, which starts from the state of another
        elastic_level.load(self.virtual_ranks, ours, self._goes_on)
        self.growth.load(self.trainer, ours.get("growth", {}), self._goes_on)
        if self._goes_on:
            if not capture.is_scheduled(self.trainer):
                capture.check_accumulation(self.accumulation, ours)
            self.telemetry.load_state_dict(ours["clock"], point.saved)
            loggers.restore(self.trainer, ours["loggers"])
        self.trainer.should_stop = self.settings.load(checkpoint, self._goes_on)
        counts = ours["ranks"][self.trainer.global_rank]["counters"]
        boundary.expect(self.trainer, ours["place"], self.moments.previous.epoch, counts, saved_by)

    def restore(self) -> None:
        """Put back what hooks have changed since Lightning has restored it, and what Lightning does not restore."""
        loaded, self._loaded = self._loaded, {}
        self.ranks.restore(loaded)
        self.restart.reload()
        self.growth.restored(self.trainer)
        capture.restore(self.trainer, self.settings.adjusted(loaded))
        self.settings.apply()
        self.scores.restored()
        self.restart.restored(self._goes_on)

    def start(self) -> None:
        """Training begins: whatever would fail at the first save fails here."""
        trainer, module = self.trainer, self.trainer.lightning_module
        self.telemetry.clock.start()
        self.settings.see_start()
        loggers.note_start(trainer, self.history.directory)
        self._pruned_at_start = pruning.names(module)
        self.may_fit_again, self._num_ready = False, trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if not trainer.fast_dev_run:
            callbacks.check_without_validation(trainer)
            modes.check(trainer, self.policy)
        if not self.policy.triggers or trainer.fast_dev_run:
            return
        monitors.check_due(trainer, self.policy)
        data.check_data(trainer)
        num_bytes = size.first_num_bytes(module, trainer.optimizers)  # on all ranks: see `placed.reshard`
        self.sharding.decide(num_bytes, self.restart.differences)
        if not self._goes_on:  # otherwise the state was saved before, and hooks would be called once more than without
            trial.check(trainer, self.agreement, self.origin.config)
        self.decision.due(self.moments.now("batch", ends=False, busy=False), self.history.with_pending)
        if not (leads := self.agreement.leads) and not self.sharding.is_on:
            return
        boundary.prepare_dump()
        expected, division = max(num_bytes, self._last_num_bytes), self.sharding.division
        on_gpu = trainer.strategy.root_device.type == "cuda"
        with self.sharding.together():
            space.check_space(self.history if leads else None, num_bytes, division.num_shards)
            if leads:
                self.telemetry.meter.expect_bytes(num_bytes)
            self.saves.open(expected, on_gpu, trainer.loggers, lambda: loggers.sync(trainer), leads, division)
        if not module.automatic_optimization:
            self.saves.finish_copy_before(trainer.optimizers)

    def at_boundary(self, place: boundary.Place, ends: bool) -> None:
        """Decide, save, and stop if asked to.

        Raises:
            Stopped: The run was asked to stop.
            SaveError: Too many saves failed.
        """
        if self.trainer.fast_dev_run:
            return
        # Short batches make this the largest cost of all: what has nothing to do is not called.
        saves, moments, telemetry = self.saves, self.moments, self.telemetry
        if not saves.has_begun:
            saves.begin(self.trainer)
        if saves.writing.overlap:
            saves.finish_copy()
        if self.restart.audit.watches:
            self.restart.at_boundary()
        if self.quiet.covers(place, ends):
            return
        self.quiet.end()
        self.settings.see_first_batch()
        is_open = telemetry.num_open > 0
        moment = moments.now(place, ends, is_open and saves.busy)
        telemetry.record_batches(moment.position.total_batches - moment.previous.total_batches)
        kept = self.history.with_pending if self.agreement.leads else []
        give_up = saves.settle() if is_open else ""
        agreement, by_all = self.agreement, self.sharding.is_on
        verdict = self.decision.take(
            moment, kept, give_up, lambda wait: saves.reserve(wait, telemetry.elapsed_s), agreement, by_all
        )
        moment = verdict.moment
        if verdict.is_skipped:
            telemetry.save_skipped(telemetry.elapsed_s)
        if verdict.give_up and moment.stop is None:
            raise SaveError(verdict.give_up)
        if verdict.give_up:
            log.error(verdict.give_up)  # the run stops anyway, with the save that a stop asks for
        if self.watchers or moment.stop is not None:
            self._show(moment)
        if verdict.reasons:
            telemetry.save_begun(moment.elapsed_s)
            provenance = {"world_size": self.trainer.world_size, **self.origin.provenance}
            self.saving.save(verdict, lambda: self._collected(place, moment), lambda: self._draft(verdict), provenance)
        moments.previous, moments.score = moment.position, None
        if moment.stop is not None:
            raise boundary.Stopped(moment.stop, self.history.newest, self.trainer.global_rank)
        telemetry.clock.begin_batch(telemetry.num_open > 0 and saves.busy)
        if not verdict.reasons:
            self.quiet.begin(place, moment, are_patient(self.watchers))

    def scored(self, sanity_check: bool) -> None:
        """A validation is over: take its score, or check in the sanity check that there will be one.

        Raises:
            ConfigError: The monitored metric was not logged.
        """
        self.telemetry.clock.validated = True
        if sanity_check:
            self.scores.check()
        else:
            self.moments.score = self.scores.of_validation()

    def epoch_scored(self) -> None:
        """An epoch is over, with its hooks: take its score, if training logs the monitored metric."""
        score = self.scores.of_epoch()
        if self.moments.score is None:  # else a validation after its last batch has logged the metric, too
            self.moments.score = score

    def close(self) -> str:
        """The fit has come to its end: wait for the saves under way. Returns why it does not end well, or nothing."""
        self._end()
        self.saves.begin(self.trainer)
        self.scores.warn_without_any()
        self.may_fit_again = self.trainer.is_last_batch
        return self.saves.close()

    def close_after(self, exception: BaseException) -> None:
        """The fit has ended with an exception: let the saves under way arrive, unless it has to leave at once."""
        self._end()
        if why := self.saves.close(exception):
            log.error(why)

    @property
    def has_trained(self) -> bool:
        """Whether the fit has begun a batch. Until then, an error refuses this start, which leaves everything as is."""
        ready = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return self._num_ready is not None and ready > self._num_ready

    def _end(self) -> None:
        last = self.quiet.finish()
        self.telemetry.clock.stop()
        for watcher in self.watchers:
            if last is not None:
                watcher.at_boundary(last)
            watcher.fit_ended()

    def _show(self, moment: Moment) -> None:
        """Say how far the run is, and what a person has to wait for who wants it to stop."""
        inform(self.watchers, moment, self.agreement.leads)
        if self.agreement.leads and moment.stop is not None and self.policy.triggers:
            announce_stop(moment, self.history.newest)

    def _collected(self, place: boundary.Place, moment: Moment) -> Callable[[], dict[str, Any]]:
        """Collect the state of all ranks; return a function that makes the contents of a checkpoint of it."""
        trainer, module, restart = self.trainer, self.trainer.lightning_module, self.restart
        found = collect(trainer, place, restart.epoch_start, restart.at_save, self.agreement, self.sharding.is_on)

        def contents() -> dict[str, Any]:
            clock = self.telemetry.state_dict(moment.elapsed_s)
            made = capture.contents(found, trainer, place, moment.position, self.origin, clock)
            made[unsaved.KEY] |= {
                "accumulation_configured": self.accumulation,
                "finders": self.finders.state(),
                "growth": self.growth.state(trainer),
                "settings": self.settings.state(),
                **elastic_level.settings(self.virtual_ranks),
            }
            made["state_dict"] = pruning.as_first_built(made["state_dict"], module, self._pruned_at_start)
            return made

        return contents

    def _draft(self, verdict: Verdict) -> Draft:
        """Return what the manifest of a checkpoint will say; on other ranks than 0, which write none, only its name."""
        moment, decision = verdict.moment, self.decision
        if not self.agreement.leads:
            return Draft(names.checkpoint_name(moment.position), moment.position, 0, verdict.reasons, None)
        lasting, monitor = decision.is_lasting(verdict.reasons), self.policy.monitor
        return self.moments.draft(moment, verdict.reasons, lasting, self.origin.run, decision.choice, monitor)
