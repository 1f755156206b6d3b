"""Lightning's hooks, each handed on to the engine; nothing is decided here but where a fit begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from cairn.data import shuffles, workers
from cairn.errors import ConfigError, SaveError
from cairn.lightning import alone, capture, pausing, unused_hooks, versions
from cairn.lightning.begin import begin
from cairn.lightning.bits.virtual_ranks import VirtualRanks
from cairn.lightning.capture import Origin
from cairn.lightning.checks import data
from cairn.lightning.engine import Engine
from cairn.lightning.hangs import AtHang, RequeueAtHang, Watch
from cairn.lightning.io import before_loading, explain, understanding
from cairn.lightning.loops import boundary, evaluation_loop
from cairn.lightning.policy import Policy
from cairn.lightning.restart import Restart
from cairn.lightning.saved import as_built, resized, unsaved
from cairn.lightning.settings import stopped_early
from cairn.lightning.stopping import ByFunction, BySignals, Stopping
from cairn.lightning.watchers import Watcher, follow
from cairn.store import space
from cairn.store.beginning import Beginning
from cairn.store.listener import Listener, Listeners
from cairn.store.resume import ResumePoint
from cairn.types import Saved

_NOT_OURS = (
    "This checkpoint was not written by Cairn: it is resumed as Lightning does, not exactly. Settings that it holds, "
    "such as the learning rate, replace those of this run."
)


class EngineHooks(Checkpoint):
    """What a `Checkpointer` does in Lightning's hooks.

    Args:
        policy: When to save, what to keep, and where.
        listeners: Informed of each checkpoint that is committed or deleted.
        metadata: Plain values for the manifests; see `Checkpointer`.
        stop: Asked at every boundary why the run must stop; None: signals are caught while a fit runs.
    """

    def __init__(
        self,
        policy: Policy,
        listeners: Sequence[Listener],
        metadata: dict[str, Any],
        stop: Callable[[float], str | None] | None,
    ) -> None:
        super().__init__()
        self.policy, self.listeners, self.metadata = policy, list(listeners), metadata
        self.watchers: list[Watcher] = []
        """Learn at every boundary how far the run is, on rank 0."""
        self.closes_listeners = True
        """At the end of a fit; False: the caller does so, after a test for example."""
        self.stopped_by = ""
        """Why the last fit stopped early, if it returned all the same: `max_time` or `pause`."""
        self.at_hang: AtHang | None = None
        """What the caller does when a run hangs; None: the job is requeued as after a signal."""
        self.watch = Watch()
        self._stopping: Stopping = BySignals() if stop is None else ByFunction(stop)
        self.resume_point: ResumePoint | None = None
        """What a fit that goes on begins with, if it is found and verified already."""
        self._engine: Engine | None = None
        self._beginning: Beginning | None = None
        self._ranks: VirtualRanks | None = None
        """With elastic="bits", those of the trainer."""
        self._end_wait: Callable[[], None] | None = None
        """To be called when no checkpoint will be loaded any more; see `before_loading`."""
        self._way: str | None = None
        """How the run shuffles, which another fit of the same trainer goes on with; None: as a new run."""
        self._final: list[Saved] | None = None
        """What rank 0 has kept at the end of a fit, on the other ranks."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Exchange the loops and the way to load, before Lightning uses either; refuse what cannot be resumed."""
        resized.watch(trainer.strategy)
        unused_hooks.hide(self)
        if self.policy.elastic == "bits" and (self._ranks is None or self._ranks.trainer is not trainer):
            self._ranks = VirtualRanks(trainer)
        if stage != "fit":
            evaluation_loop.install(trainer, None if stage == "predict" else self._ranks)
            return
        _check_alone(self, trainer)
        shuffles.begin_run(self._way)
        capture.refuse(trainer, pl_module)
        boundary.install(trainer, self, self._ranks)
        trainer.strategy.checkpoint_io = understanding(trainer.strategy.checkpoint_io)
        if self._engine is None:
            as_built.forget(pl_module)
            listeners, stop = Listeners(self.listeners), self._stopping.reason
            self._engine = Engine(self.policy, trainer, stop, listeners, self.watchers)
        follow(self.watchers, self._engine.quiet.latest)
        if self._engine.agreement.leads and self.policy.triggers and not trainer.fast_dev_run:
            space.check_writable(self.policy.directory)
        self._engine.virtual_ranks = self._ranks
        self._engine.accumulation = trainer.accumulate_grad_batches
        self._engine.settings.see_callbacks()
        self._end_wait = before_loading(trainer.strategy.checkpoint_io, self._engine.settings.see_module)
        self._engine.finders.watch()
        if not self.policy.writing.overlap:
            unused_hooks.hide(self, ("on_before_optimizer_step",), EngineHooks)
        self._stopping.prepare()
        self._beginning, self.stopped_by = None, ""
        self.watch.start(self._engine, self.at_hang or RequeueAtHang(trainer, self._stopping))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take our part of the checkpoint that a fit begins with."""
        if not _begins(trainer):
            return
        begun = self._begin(trainer)
        if unsaved.KEY in checkpoint:
            stopped_early.forget_in_new_run(trainer, checkpoint, begun.run)
            self.engine.load(checkpoint, begun.point)
            self._way = shuffles.of_run()
            self.engine.growth.adjust(checkpoint)
        else:
            rank_zero_warn(_NOT_OURS)
            self._way = None
            shuffles.begin_run()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what is configured, and prepare the optimizers for the state that Lightning loads next."""
        if self._end_wait is not None:
            self._end_wait()
            self._end_wait = None
        self.engine.settings.see_training()
        self.engine.growth.begin(trainer)
        self.engine.settings.check_groups()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin before anything runs, where no checkpoint is loaded; a fit that is refused may have nothing to do."""
        if self.engine.may_fit_again:
            self._begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the save pipeline; from here on a signal waits for a boundary."""
        self._begin(trainer)
        self.engine.start()
        self.engine.saves.assist(trainer.global_rank)
        self._stopping.begin()
        self.watch.begins(self.engine.sharding.owner)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last save."""
        wait_s = Listeners(self.listeners).wait_s
        self.watch.ends(wait_s)
        why = self.engine.close()
        _close_listeners(self, finished=not why and not self.stopped_by, limit_s=wait_s)
        late = self._stopping.end()
        self._final = self.engine.agreement.share(self.engine.history.saved)
        if why:
            raise SaveError(why)
        late, _ = self.engine.agreement.meet(late, False)
        self.watch.stop()
        if late is not None:
            raise boundary.Stopped(late, self.engine.history.newest, trainer.global_rank)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the directory, also after a fit that had nothing to do; watch no longer, also after a finder."""
        self.watch.stop()
        if self._ranks is not None:
            self._ranks.release()
        if stage == "fit" and self._engine is not None:
            self._engine.saves.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the saves under way arrive, except after a second Ctrl-C."""
        self._stopping.ending()
        grace_s = Listeners(self.listeners).grace_s
        self.watch.ends(grace_s)
        try:
            explain(exception, pl_module)
            if why := workers.why_killed(exception):
                exception.add_note(why)
            if self._engine is not None:
                self._engine.close_after(exception)
                _close_listeners(self, finished=False, limit_s=grace_s)
                self._engine.saves.release(refused=not self._engine.has_trained)
        finally:
            self.watch.stop()
            if self._ranks is not None:
                self._ranks.release()
        self._stopping.failed(exception, trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Finish an overlapping copy; earlier hooks of the optimizer run before the forward and backward pass."""
        self.engine.saves.finish_copy()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish an overlapping copy: averaged weights may take the place of the others during a validation."""
        if self._engine is not None:
            self._engine.saves.finish_copy()
            self._engine.scores.validation_begins()
            if self.policy.triggers:
                data.check_val_data(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the score."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.fast_dev_run:
            self.engine.scored(sanity_check=trainer.sanity_checking)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the score of the epoch; Lightning calls this after the module's own hook."""
        if not trainer.fast_dev_run:
            self.engine.epoch_scored()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Show a sign of life: a validation may take as long as an epoch."""
        self.watch.signs += 1

    # Called by the loops

    def batch_done(self, num_samples: int, of_all_ranks: bool = False) -> None:
        """Count the samples of a batch that was trained on: a hook of Lightning would take 5 us more."""
        self.watch.signs += 1
        if self._engine is not None:
            self._engine.moments.count(num_samples, of_all_ranks)

    def at_boundary(self, place: boundary.Place, ends: bool) -> None:
        """See `Engine.at_boundary`."""
        self.watch.signs += 1
        if self._engine is not None:  # always, in a loop; the property would cost more than this
            self._engine.at_boundary(place, ends)
        self.watch.signs += 1  # a save, or the wait for a free buffer, is a time of its own
        self.watch.passes()

    @property
    def restart(self) -> Restart:
        """What a resume inside an epoch repeats."""
        return self.engine.restart

    def restore(self, ends: Callable[[], bool]) -> None:
        """See `Engine.restore`; a fit that has come to its time limit or its pause before stops here."""
        self.engine.restore()
        pausing.stop_if_reached(self.engine, ends())

    def built(self) -> None:
        """See `Exchanged.see`."""
        self.engine.settings.exchanged.see()

    def ended(self) -> None:
        """Leave the classes of the user as they were."""
        self.engine.restart.audit.close()

    def stopped(self, reason: str) -> None:
        """The fit returns early, for this reason."""
        self.stopped_by = reason

    @property
    def has_trained(self) -> bool:
        """Whether the last fit has begun a batch, or has come to its end without one."""
        return self._final is not None or (self._engine is not None and self._engine.has_trained)

    @property
    def engine(self) -> Engine:
        """The engine of the fit; there is none before `Trainer.fit`."""
        if self._engine is None:
            raise ConfigError("This Checkpointer has no fit yet: pass it to a Trainer as a callback, and call fit.")
        return self._engine

    def _begin(self, trainer: Trainer) -> Beginning:
        """Decide where the fit begins, once."""
        if self._beginning is None:
            self._beginning = begin(self.engine, trainer, self.resume_point, self.metadata.get("run"))
            given = {name: value for name, value in self.metadata.items() if name not in ("run", "config")}
            facts = {**versions.installed(), **given}
            self.engine.origin = Origin(self._beginning.run, self.metadata.get("config", {}), facts)
        return self._beginning


def _close_listeners(hooks: EngineHooks, finished: bool, limit_s: float) -> None:
    if hooks.closes_listeners and hooks.engine.agreement.leads and not hooks.engine.trainer.fast_dev_run:
        Listeners(hooks.listeners).close(finished, limit_s)


def _begins(trainer: Trainer) -> bool:
    """Whether a checkpoint that is being loaded is what a fit begins with, and not the temporary one of a finder."""
    state, loop = trainer.state, trainer.fit_loop
    fits = state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING
    return fits and isinstance(loop, boundary.BoundaryFitLoop) and not loop.inner


def _check_alone(hooks: EngineHooks, trainer: Trainer) -> None:
    others = [other for other in trainer.callbacks if isinstance(other, EngineHooks) and other is not hooks]
    alone.check(hooks, others, trainer)
    if hooks._engine is not None and hooks._engine.trainer is not trainer:
        raise ConfigError(
            f"The Checkpointer of {hooks.policy.directory} belongs to another Trainer already: make one for each."
        )
