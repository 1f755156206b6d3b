"""Boundaries in Lightning's loops, at which a run can be saved, and the restart from one.

At a boundary, a batch is complete: with its hooks, its validation and its schedulers. The last batch of an epoch has
its boundary after the hooks at the end of the epoch: what they compute is saved, and a resume does not repeat them.

    fit loop     loaders; iterators over them
                 for each epoch:
                     <-- a state from "epoch" is restored here
                     hooks at the start of the epoch (see restart.py for a resume from "batch")
    epoch loop       new iterators, except in epoch 0
                     <-- a state from "batch" is restored here
                     for each batch:
                         training step, optimizer step, schedulers, on_train_batch_end
                         validation, ReduceLROnPlateau
                         --> boundary "batch", if it completes a window, and more batches follow
    fit loop         hooks and schedulers at the end of the epoch
                     --> boundary "epoch"

A run that `max_steps` ends inside an epoch has its last boundary at that batch. Lightning then runs the hooks at the
end of the epoch all the same, and a resume with more steps must not see their effect.

Hooks set what the data reads, an epoch of a dataset for example, and a worker gets a copy of it when it starts. So a
resume creates the iterators of an epoch where an undisturbed run does: those of epoch 0 before the hooks, the others
after them.

Depending on where a run stopped, Lightning's own restart repeats or drops a scheduler step, an iteration of a loop or
the end of an epoch. This one starts from one of two points and changes nothing else.

Only this module, dealing.py, whole_means.py, finders.py, ../restart.py, ../saved/pruning.py, ../saved/sums.py and ../logs/event_files.py use
private names of Lightning. They are written for Lightning 2.6; `install` refuses other versions.
"""

from __future__ import annotations

import copy
import importlib.util
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any, Literal, Protocol

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.progress import _BaseProgress
from lightning.pytorch.loops.training_epoch_loop import RestartStage, _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError, ResumeError
from cairn.jobs.signals import Interruption
from cairn.lightning import versions
from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.loops import dealing, loaders, whole_means
from cairn.lightning.loops.dealing import Dealt, SavedBy
from cairn.lightning.loops.samples import num_samples
from cairn.lightning.loops.step_arguments import takes_index
from cairn.types import Position, Saved

Place = Literal["batch", "epoch"]
"""Kind of a boundary: after a batch inside an epoch, or after the end of an epoch."""


class EpochStart(Protocol):
    """The object that the loops call at the start of an epoch."""

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        ...

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        ...

    def epoch_begins_again(self) -> None:
        """A resume continues inside an epoch: run the hooks at its start again."""
        ...

    def now(self) -> dict[str, Any]:
        """Return the generators and the number of steps."""
        ...

    def as_at(self, state: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Context in which the generators and the number of steps are those that `now` has returned before."""
        ...


class Engine(Protocol):
    """The object that the loops call."""

    @property
    def restart(self) -> EpochStart:
        """Called at the start of each epoch."""
        ...

    def batch_done(self, num_samples: int, of_all_ranks: bool = False) -> None:
        """A batch of this many samples was trained on; its validation, if one is due, is still to come.

        Args:
            num_samples: In the batch of this rank, and as many in those of the others.
            of_all_ranks: The number is that of all ranks together.
        """
        ...

    def at_boundary(self, place: Place, ends: bool) -> None:
        """Handle a boundary. May raise an exception to stop the run.

        Args:
            place: After a batch, or after an epoch.
            ends: Whether the run ends here.
        """
        ...

    def restore(self) -> None:
        """Restore what Lightning does not restore, with the random number generators last."""
        ...

    def built(self) -> None:
        """Note that optimizers are built and have their state: no hook that a resume skips has run."""
        ...

    def ended(self) -> None:
        """Undo what must not outlive the training: it has ended, in whatever way. Must not raise."""
        ...

    def stopped(self, reason: str) -> None:
        """Note that the run was stopped at a boundary, after which `fit` returns normally.

        Args:
            reason: See `Stopped`.
        """
        ...


class Stopped(Interruption):
    """Training was asked to stop, and stands at a boundary. If not caught, it ends the process with its exit code.

    Attributes:
        reason: Name of a signal, `max_time`, or `job_time_limit`.
        saved: The newest committed checkpoint; None if there is none, and on ranks other than 0.
    """

    def __init__(self, reason: str, saved: Saved | None, rank: int = 0) -> None:
        super().__init__(reason)
        self.saved = saved
        # If another rank fails, Lightning's launcher kills the main process, which may still be writing.
        if rank > 0:
            self.code = 0


def install(trainer: Trainer, engine: Engine) -> None:
    """Give the trainer's loops boundaries.

    The loops keep their identity and get another class, so data sources, counters and limits set on them are kept.

    Args:
        trainer: The trainer, before its fit.
        engine: Called at each boundary.

    Raises:
        ConfigError: This is an unsupported version of Lightning, or the trainer has custom loops.
    """
    versions.check(lightning.__version__)
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for loop, ours, theirs in (
        (fit_loop, BoundaryFitLoop, _FitLoop),
        (epoch_loop, BoundaryEpochLoop, _TrainingEpochLoop),
    ):
        if type(loop) not in (ours, theirs):
            raise ConfigError(
                f"The trainer uses {type(loop).__name__} in place of Lightning's loop, and a Checkpointer cannot find "
                f"the boundaries in it: use Lightning's loops."
            )
        loop.__class__ = ours
    if type(epoch_loop.val_loop) is _EvaluationLoop:
        epoch_loop.val_loop.__class__ = BoundaryEvaluationLoop
    fit_loop.pending = epoch_loop.pending = fit_loop.arrives = False  # a fit before this one may have failed
    fit_loop.saved_by = None
    fit_loop.forget_global_batches()
    fit_loop.engine = epoch_loop.engine = engine


def requeue_signal(trainer: Trainer) -> str | None:
    """Return the name of the signal at which Lightning requeues the SLURM job; None if it does not requeue."""
    environment = trainer._accelerator_connector.cluster_environment
    requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    return environment.requeue_signal.name if requeues and environment.requeue_signal else None


class BoundaryEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a boundary after each window."""

    engine: Engine
    pending = False
    """Whether a state from a "batch" boundary is still to be restored."""
    boundary_at = 0
    """Number of batches of the epoch at its last boundary."""
    repeats = False
    """Whether no batch was trained on between the last two boundaries: an epoch has ended without another batch."""
    end_seen = False
    """Whether that boundary was reported as the end of the run."""
    before_fetch: list[Any] | None = None
    """States of the loaders that are not Cairn's, before a batch was fetched ahead; None: none is fetched ahead."""
    needs_iterators = False
    """Whether this epoch begins with new iterators, although the run is resumed."""
    num_samples: int | None = None
    """In the batch that is being trained on."""
    dealt: Dealt | None = None
    """How global batches are dealt out to this process; None: there are none."""
    per_window = 1
    """Batches of this process in a global batch; 1 without global batches."""
    _counts_windows = False
    """Whether `batch_idx` counts global batches, for learning-rate schedulers."""

    @property
    def batch_idx(self) -> int:
        ready = self.batch_progress.current.ready
        return (ready // self.per_window if self._counts_windows else ready) - 1

    def _update_learning_rates(self, interval: str, update_plateau_schedulers: bool) -> None:
        # The frequency of a scheduler is a number of batches: global ones, on any number of processes.
        self._counts_windows = True
        try:
            super()._update_learning_rates(interval, update_plateau_schedulers)
        finally:
            self._counts_windows = False

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        self._create_iterators(data_fetcher)
        super().on_run_start(data_fetcher)
        if not _fetches_ahead(data_fetcher):  # spares each batch the question
            self.before_fetch, data_fetcher._start_profiler = None, super()._on_before_fetch
        done, batches = self.batch_progress.current.ready, data_fetcher.combined_loader._iterator
        if done and isinstance(data_fetcher, _DataLoaderIterDataFetcher) and batches is not None:
            batches._idx = done  # training_step(dataloader_iter) has its batch_idx from there

    def _create_iterators(self, data_fetcher: _DataFetcher) -> None:
        if self.needs_iterators:
            self.needs_iterators = False
            iter(data_fetcher)

    def _on_before_fetch(self) -> None:
        # Where the data has no length, Lightning fetches batch k + 1 before it trains on batch k.
        ahead = _fetches_ahead(self.trainer.fit_loop._data_fetcher)
        self.before_fetch = loaders.states_of_foreign(train_loaders(self.trainer)) if ahead else None
        super()._on_before_fetch()

    def reset(self) -> None:
        super().reset()
        self.boundary_at, self.repeats, self.end_seen = 0, False, False
        if self.pending:
            _forget_restart(self.trainer)
            self.pending = False
            if self.needs_iterators:
                fit_loop = self.trainer.fit_loop
                assert isinstance(fit_loop, BoundaryFitLoop)
                fit_loop.load_positions(is_last=True)
                assert fit_loop._data_fetcher is not None
                self._create_iterators(fit_loop._data_fetcher)
            # As late as possible, right before the next batch: hooks and new iterators draw random numbers.
            self.engine.restore()
            # The last batch of an epoch has a boundary "batch" only in a checkpoint of Cairn 0.1.
            ends = self._ends_here(last_of_epoch=self._num_ready_batches_reached())
            self.boundary_at, self.end_seen = self.batch_progress.current.ready, ends

    def update_restart_stage(self) -> None:
        super().update_restart_stage()
        # Lightning infers from differences between its counters how far the last batch came. At a boundary, the batch
        # is complete, and this is the stage in which `reset` counts nothing again.
        if self.pending:
            self._restart_stage = RestartStage.RESTARTED_ON_LAST

    def _build_kwargs(self, kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        self.num_samples = num_samples(batch)
        takes = takes_index(self.trainer.lightning_module.training_step)
        if takes is None:
            return super()._build_kwargs(kwargs, batch, batch_idx)
        kwargs["batch"] = batch
        if takes:
            kwargs["batch_idx"] = batch_idx
        return kwargs

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        if trainer.fit_loop.inner:
            super().on_advance_end(data_fetcher)
            return
        found, self.num_samples = self.num_samples, None
        if found is None:  # training_step(dataloader_iter) has fetched the batch itself; or the loader has yielded None
            found = num_samples(getattr(data_fetcher, "_batch", None))
        if self.dealt is None:
            self.engine.batch_done(found)
        else:
            self.engine.batch_done(self.dealt.num_samples(self.batch_progress.current.ready), of_all_ranks=True)
        super().on_advance_end(data_fetcher)
        # What follows is run for each batch: calls are spared where one comparison answers.
        if (trainer.accumulate_grad_batches == 1 or self._window_closed()) and not self._num_ready_batches_reached():
            self.boundary_at = self.batch_progress.current.ready
            may_end = self.max_steps != -1 or trainer.should_stop
            self.end_seen = may_end and self._ends_here(last_of_epoch=False)
            self.engine.at_boundary("batch", self.end_seen)

    def _window_closed(self) -> bool:
        """Whether no gradients of an unfinished window would be lost here, with accumulation."""
        # With manual optimization only the module knows its windows; there the gradients are saved, too.
        return not self.trainer.lightning_module.automatic_optimization or not self._should_accumulate()

    def _ends_here(self, last_of_epoch: bool) -> bool:
        fit_loop = self.trainer.fit_loop
        epochs = fit_loop.epoch_progress.current.processed + 1
        return bool(
            (self.max_steps != -1 and _is_max_limit_reached(self.global_step, self.max_steps))
            or (last_of_epoch and _is_max_limit_reached(epochs, fit_loop.max_epochs or -1))
            or (self.trainer.should_stop and fit_loop._can_stop_early)
        )


class WeightedOptimization(_AutomaticOptimization):
    """Lightning's optimization, with the mean over an incomplete global batch: the last one of an epoch.

    Lightning gives each batch of each process the same weight, and there they have different sizes.
    """

    def _training_step(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        result = super()._training_step(kwargs)
        epoch_loop = self.trainer.fit_loop.epoch_loop
        dealt: Dealt | None = getattr(epoch_loop, "dealt", None)
        if dealt is not None and result.closure_loss is not None:
            weight = dealt.weight(epoch_loop.batch_progress.current.ready - 1)
            if weight != 1:
                result.closure_loss = result.closure_loss * weight
        return result


class _RequestingFitLoop(_FitLoop):
    """Lightning's loop over epochs, which makes loaders and iterators in a resume as in an undisturbed run."""

    engine: Engine
    pending = False
    """Whether a state from an "epoch" boundary is still to be restored."""
    inner = False
    """Whether a finder trains inside of the fit, without boundaries; see finders.py."""
    request: Mapping[str, Any] | None = None
    """Epoch, generators and number of steps when the loaders were requested; right after `expect`, those to come."""
    arrives = False
    """Whether a resume has not run its first hooks yet."""
    is_beyond_first_epoch = False
    """Whether a resume begins in an epoch that is not the first one."""
    _positions_count = True
    """Whether the resumed epoch uses the loaders of the checkpoint."""
    saved_by: SavedBy | None = None
    """Who has saved the checkpoint that is resumed, until its counters are those of this process."""
    _num_substreams: Sequence[int | None] = ()
    """Numbers of substreams of the loaders that new ones take the place of."""
    _accumulation = 1
    """What the trainer was given, before global batches decide over it."""

    def setup_data(self) -> None:
        states = () if self.inner else self._combined_loader_states_to_load
        self._num_substreams = loaders.num_substreams(train_loaders(self.trainer), states)
        if not (self._combined_loader is None or self._should_reload_train_dl):
            super().setup_data()
        elif self.inner:  # the training goes on with the loaders of the search
            self.request = {"epoch": self.trainer.current_epoch, **self.engine.restart.now()}
            super().setup_data()
        elif self.arrives and self.request is not None:
            # The user's code may make loaders that depend on the epoch, or draw: ask it as it was asked before.
            self._see_reload()
            with self._deferred(), self._in_epoch(self.request["epoch"]), self.engine.restart.as_at(self.request):
                super().setup_data()
        else:
            self.request = {"epoch": self.trainer.current_epoch, **self.engine.restart.now()}
            with self._deferred():
                super().setup_data()

    @contextmanager
    def _in_epoch(self, epoch: int) -> Iterator[None]:
        progress = self.epoch_progress.current
        now, progress.completed = progress.completed, epoch
        try:
            yield
        finally:
            progress.completed = now

    @contextmanager
    def _deferred(self) -> Iterator[None]:
        """Context in which a resume creates no iterators if it has to create them later, after the first hooks."""
        try:
            yield
        finally:
            loaders.defer(train_loaders(self.trainer), False)

    def _see_reload(self) -> None:
        """Find out whether a resume gets other loaders before its first batch: then the positions mean nothing."""
        every, asked = self.trainer.reload_dataloaders_every_n_epochs, self.request
        is_due = bool(every and asked and self.trainer.current_epoch - asked["epoch"] >= every)
        self._positions_count = not (self.pending and is_due)

    def _load_combined_loader_states(self) -> None:
        if self.inner:
            super()._load_combined_loader_states()
            return
        loaders.keep_substreams(train_loaders(self.trainer), self._num_substreams)
        self._deal()
        # Lightning's own method does not load the positions if the epoch of the checkpoint is over.
        self.load_positions(is_last=not self.arrives)
        if self.arrives:
            found = train_loaders(self.trainer)
            needed = self.is_beyond_first_epoch or loaders.all_in_main_process(found)
            self._epoch_loop.needs_iterators = needed
            loaders.defer(found, needed)

    def load_positions(self, is_last: bool, only_ours: bool = False) -> None:
        """Load the positions of the checkpoint into the loaders.

        Args:
            is_last: Whether they are not needed again.
            only_ours: Leave out loaders that are not Cairn's.

        Raises:
            ResumeError: There are not as many loaders that take one.
        """
        states = self._combined_loader_states_to_load
        if is_last:
            self._combined_loader_states_to_load = []
        if self._combined_loader is None or not states or not self._positions_count:
            return
        stateful = [loader for loader in train_loaders(self.trainer) if loaders.is_stateful(loader)]
        if (now := len(stateful)) != (before := len(states)):
            raise ResumeError(
                f"The checkpoint has the positions of {before} training loaders, but {now} loaders can take one: a "
                f"resumed run needs the same loaders. Use cairn.DataLoader where it was used before."
            )
        for loader, state in zip(stateful, states, strict=True):
            if isinstance(loader, DataLoader) or not only_ours:
                loader.load_state_dict(state if is_last else copy.deepcopy(state))

    def _deal(self) -> None:
        """Let the loops count as the new loaders deal out global batches, if they do."""
        combined, trainer = self._combined_loader, self.trainer
        assert combined is not None
        found = dealing.dealt(combined.flattened)
        if self.saved_by is not None:
            dealing.check(self.saved_by, found, trainer.world_size)
        if found is None:
            self.forget_global_batches()
            return
        if self._epoch_loop.dealt is None:
            self._accumulation = trainer.accumulate_grad_batches
        dealing.begin(trainer, found, self._accumulation)
        self._epoch_loop.dealt, self._epoch_loop.per_window = found, found.per_window
        whole_means.keep(self._epoch_loop._results)
        if type(optimization := self._epoch_loop.automatic_optimization) is _AutomaticOptimization:
            optimization.__class__ = WeightedOptimization
        combined.limits = dealing.limits(combined.flattened, trainer.limit_train_batches, combined.limits)

    def forget_global_batches(self) -> None:
        """Let the trainer accumulate gradients as it is configured."""
        if self._epoch_loop.dealt is not None:
            self.trainer.accumulate_grad_batches = self._accumulation
            self._epoch_loop.dealt, self._epoch_loop.per_window = None, 1

    def _count_global_batches(self) -> None:
        """Set what follows from the loaders, which are there now: when to validate, and counters of a checkpoint."""
        dealt, saved_by = self._epoch_loop.dealt, self.saved_by
        if dealt is not None:
            self.trainer.val_check_batch = dealing.val_check_batch(self.trainer, dealt, self.max_batches)
        if self._combined_loader is None or saved_by is None or not self.restarting:
            return
        self.saved_by = None
        if dealt is not None:
            dealing.convert(self._epoch_loop.batch_progress, saved_by.per_window, dealt.per_window)

    @property
    def _epoch_loop(self) -> BoundaryEpochLoop:
        assert isinstance(self.epoch_loop, BoundaryEpochLoop)
        return self.epoch_loop


class BoundaryFitLoop(_RequestingFitLoop):
    """Lightning's loop over epochs, with a boundary after each of them."""

    def setup_data(self) -> None:
        before = self._combined_loader
        super().setup_data()
        if not self.inner and self._combined_loader is not before:
            self._count_global_batches()

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        self._count_global_batches()
        if self.pending:
            # At the end of an epoch, Lightning sees no restart, and would run a sanity check over the loaded state.
            self._epoch_loop.val_loop.restarting = True

    def run(self) -> None:
        try:
            super().run()
        except Stopped as stop:
            if stop.reason != TIME_LIMIT:
                raise
            # A limit on the training time ends a fit normally, as Lightning's own Timer does.
            self.engine.stopped(stop.reason)
            self._restarting = False
            self.on_run_end()
        finally:
            if not self.inner:
                self.forget_global_batches()
                self.engine.ended()  # here, because `on_exception` of another callback may raise, and ours comes last

    def on_save_checkpoint(self) -> dict[str, Any]:
        # Not Lightning's own method: it asks each loader for its state, too, and here another one may count.
        found = loaders.states(train_loaders(self.trainer), self._epoch_loop.before_fetch)
        return {"combined_loader": found} if found else {}

    def state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        return _state_of(self, {} if destination is None else destination, prefix)

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        # A read of `trainer.estimated_stepping_batches` has created the loaders before their positions were loaded.
        if self._data_fetcher is not None and not self.inner:
            self._see_reload()
            with self._deferred():
                self._load_combined_loader_states()
                iter(self._data_fetcher)

    @property
    def done(self) -> bool:
        # The saved batch may have reached max_steps or set should_stop, but the end of its epoch is still to come. And
        # after the last epoch, the hooks at the end of the training are.
        return False if self.pending or self._epoch_loop.pending else super().done

    def reset(self) -> None:
        super().reset()
        if self.pending:
            _forget_restart(self.trainer)

    def on_run_start(self) -> None:
        if not self.inner:
            self.engine.built()
        arrives, self.arrives = self.arrives and not self.inner, False
        if arrives and self._epoch_loop.needs_iterators:
            loaders.rewind(train_loaders(self.trainer))  # on_train_start sees them as at the start of a run
        super().on_run_start()
        if self.pending and not self.inner:
            self.pending = False
            # Before the hooks of the epoch: one of them may change a sampler, and must find its state. The position of
            # a loader that is not Cairn's is the end of the last epoch, which its first iterator has used up.
            self.load_positions(is_last=True, only_ours=True)
            self.engine.restore()
            self._epoch_loop.needs_iterators = True

    def on_advance_start(self) -> None:
        if self.inner:
            super().on_advance_start()
            return
        again = self._epoch_loop.pending
        if not again:
            self.setup_data()  # before the hooks, which Lightning then calls: a new loader may draw random numbers
            self.engine.restart.epoch_begins()
        super().on_advance_start()
        if again:
            self.engine.restart.epoch_begins_again()
        else:
            self.engine.restart.epoch_begun()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        if self.inner:
            return
        epoch_loop, ends = self._epoch_loop, self._ends_here()
        batches, reached = epoch_loop.batch_progress.current, epoch_loop._num_ready_batches_reached()
        if reached:  # else the loader has ended before its length, or the run has stopped inside the epoch
            over = epoch_loop.boundary_at < batches.ready
        else:
            over = not epoch_loop.done
        if over or (ends and not epoch_loop.end_seen):
            epoch_loop.repeats = 0 < epoch_loop.boundary_at == batches.completed
            epoch_loop.boundary_at, epoch_loop.end_seen = batches.ready, ends
            self.engine.at_boundary("epoch", ends)

    def _ends_here(self) -> bool:
        return bool(
            _is_max_limit_reached(self.epoch_loop.global_step, self.max_steps)
            or _is_max_limit_reached(self.epoch_progress.current.processed, self.max_epochs or -1)
            or (self.trainer.should_stop and self._can_stop_early)
        )


class BoundaryEvaluationLoop(_EvaluationLoop):
    """Lightning's loop over validation batches, whose limits count global batches where there are some."""

    def setup_data(self) -> None:
        before = self._combined_loader
        super().setup_data()
        found = self._combined_loader
        if found is None or found is before or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if any(counted := dealing.counted(found.flattened)):
            whole_means.keep(self._results)
            self._max_batches = dealing.limits(counted, self.trainer.limit_val_batches, self._max_batches)


# Lightning's profilers and errors name a loop by its class: reports keep the names that they have without Cairn.
# `pickle` finds the classes by `__qualname__`.
BoundaryEvaluationLoop.__name__, WeightedOptimization.__name__ = _EvaluationLoop.__name__, "_AutomaticOptimization"
BoundaryFitLoop.__name__, BoundaryEpochLoop.__name__ = _FitLoop.__name__, _TrainingEpochLoop.__name__


def expect(
    trainer: Trainer,
    place: Place,
    epoch: int = 0,
    counts: Mapping[str, Any] | None = None,
    saved_by: SavedBy | None = None,
) -> None:
    """Prepare the loops for a restart from a boundary.

    Args:
        trainer: The trainer.
        place: Which of the two kinds of boundary it is.
        epoch: The epoch that the boundary belongs to.
        counts: What `counters` has returned there.
        saved_by: Who has saved the checkpoint.
    """
    fit_loop = trainer.fit_loop
    fit_loop.saved_by = saved_by
    assert isinstance(fit_loop, BoundaryFitLoop)
    fit_loop.pending = place == "epoch"
    fit_loop._epoch_loop.pending = place == "batch"
    fit_loop.is_beyond_first_epoch = place == "epoch" or epoch > 0
    fit_loop.arrives, fit_loop.request = True, (counts or {}).get("request")


def position(trainer: Trainer, place: Place, samples: int) -> Position:
    """Return the position of the trainer, which is at a boundary.

    Args:
        trainer: The trainer.
        place: Which boundary it is.
        samples: Number of samples of the run so far.
    """
    fit_loop, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop.batch_progress
    per = per_window(trainer)
    epoch, batch = fit_loop.epoch_progress.current.completed, batches.current.completed // per
    if place == "epoch":
        repeats = getattr(fit_loop.epoch_loop, "repeats", False)  # the position before has a checkpoint already
        epoch, batch = (epoch, 0) if repeats else (epoch - 1, batch)
    return Position(epoch, batch, batches.total.completed // per, steps(trainer).completed, samples)


def per_window(trainer: Trainer) -> int:
    """Return the number of batches of this process that count as one: those of a global batch, or 1 without any."""
    return getattr(trainer.fit_loop.epoch_loop, "per_window", 1)


def global_batch_size(trainer: Trainer) -> int | None:
    """Return the number of samples in a global batch; None if the loaders do not deal out any."""
    dealt: Dealt | None = getattr(trainer.fit_loop.epoch_loop, "dealt", None)
    return None if dealt is None else dealt.loader.global_batch_size


def steps(trainer: Trainer) -> Any:
    """Return the counter whose attribute `completed` is `trainer.global_step`, for a shorter way to it."""
    loop, module = trainer.fit_loop.epoch_loop, trainer.lightning_module
    if module.automatic_optimization:
        return loop.automatic_optimization.optim_progress.optimizer.step.total
    return loop.manual_optimization.optim_step_progress.total


def _fetches_ahead(fetcher: _DataFetcher | None) -> bool:
    return isinstance(fetcher, _PrefetchDataFetcher) and fetcher.length is None


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders that training uses, after Lightning has replaced some of them."""
    combined = trainer.fit_loop._combined_loader
    return list(combined.flattened) if combined is not None else []


def _train_iterator(trainer: Trainer) -> Any:
    """Return Lightning's iterator over all training loaders; its `iterators` are those of the loaders."""
    combined = trainer.fit_loop._combined_loader
    return combined._iterator if combined is not None else None


def val_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders that validation uses; they are known once a validation has begun."""
    combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    return list(combined.flattened) if combined is not None else []


def _state_of(loop: Any, found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the state of a loop and those in it, as Lightning's own method does, which copies each number deeply."""
    found[f"{prefix}state_dict"] = loop.on_save_checkpoint()
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress):
            found[prefix + name] = _counts(value)
        elif isinstance(value, _Loop):
            own = type(value).state_dict is not _Loop.state_dict
            value.state_dict(found, f"{prefix}{name}.") if own else _state_of(value, found, f"{prefix}{name}.")
    return found


def _counts(progress: Any) -> dict[str, Any]:
    if type(progress).state_dict is not _BaseProgress.state_dict:
        return dict(progress.state_dict())
    found: dict[str, Any] = {}
    for name in progress.__dataclass_fields__:
        value = getattr(progress, name)
        if isinstance(value, _BaseProgress):
            value = _counts(value)
        elif type(value) not in (int, bool):  # nearly all of them are, and `deepcopy` takes 1 us for each
            value = copy.deepcopy(value)
        found[name] = value
    return found


def prepare_dump() -> None:
    """Import what Lightning imports in its first `dump_checkpoint`: a first save would take 30 ms more."""
    if importlib.util.find_spec("omegaconf") is not None:
        importlib.import_module("omegaconf")


def dump(trainer: Trainer, place: Place) -> dict[str, Any]:
    """Return everything that Lightning would save, as references to live tensors."""
    fetcher, batches = trainer.fit_loop._data_fetcher, trainer.fit_loop.epoch_loop.batch_progress.current
    # Lightning fetches one batch ahead where the data has no length: the position of the loader is then too far.
    lag = max(0, fetcher.fetched - batches.ready) if isinstance(fetcher, _PrefetchDataFetcher) else 0
    iterators = getattr(_train_iterator(trainer), "iterators", [])
    for loader, iterator in zip_longest(train_loaders(trainer), iterators):
        if isinstance(loader, DataLoader):
            loader.at_boundary(lag, place == "epoch", iterator)
    return trainer._checkpoint_connector.dump_checkpoint(False)  # not only the weights


def counters(trainer: Trainer) -> dict[str, Any]:
    """Return counters that Lightning does not save: validation batches so far, and epochs of the last reloads."""
    fit_loop, val_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    assert isinstance(fit_loop, BoundaryFitLoop)
    consumed = (
        [] if fit_loop.epoch_loop._num_ready_batches_reached() else getattr(_train_iterator(trainer), "_consumed", [])
    )
    grown = any(loader.has_grown for loader in train_loaders(trainer) if isinstance(loader, DataLoader))
    return {
        "consumed": list(consumed),  # which cycled loaders have ended before, in this epoch
        "sizes": [fit_loop.max_batches, trainer.val_check_batch] if grown else [],
        "val_ready": val_loop._combined_loader is not None,
        "val_batches": dict(val_loop._seen_batches_per_dataloader),
        "val_reload": val_loop._last_val_dl_reload_epoch,
        "train_reload": fit_loop._last_train_dl_reload_epoch,
        "request": dict(fit_loop.request) if fit_loop.request is not None else None,
    }


def set_counters(trainer: Trainer, counts: dict[str, Any]) -> None:
    """Restore what `counters` returned."""
    fit_loop, val_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop
    if (consumed := counts.get("consumed")) and hasattr(iterator := _train_iterator(trainer), "_consumed"):
        iterator._consumed = list(consumed)
    if sizes := counts.get("sizes"):  # Lightning has computed them from the size that the dataset has now
        fit_loop.max_batches, trainer.val_check_batch = sizes
    if counts["val_ready"]:
        # The next validation would create the loaders, which sets the counts to zero: create them now.
        trainer.validating = True
        val_loop.setup_data()
        trainer.training = True
    else:
        val_loop._combined_loader = None  # the next validation creates the loaders, as it would have without a resume
    val_loop._seen_batches_per_dataloader.update(counts["val_batches"])
    val_loop._last_val_dl_reload_epoch = counts["val_reload"]
    fit_loop._last_train_dl_reload_epoch = counts["train_reload"]


def sync_flags(trainer: Trainer) -> dict[str, bool]:
    """Return whether DDP will broadcast the buffers of rank 0 before the next forward pass.

    It does not right after a validation.
    """
    model: Any = trainer.strategy.model
    return {"forward": model.require_forward_param_sync} if hasattr(model, "require_forward_param_sync") else {}


def set_sync_flags(trainer: Trainer, flags: dict[str, bool]) -> None:
    """Restore what `sync_flags` returned."""
    model: Any = trainer.strategy.model
    if flags and hasattr(model, "require_forward_param_sync"):
        model.require_forward_param_sync = flags["forward"]


def callback_states(trainer: Trainer) -> dict[str, Any]:
    """Return the state of each callback on this rank. Lightning saves those of rank 0 only."""
    return {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())}


def _forget_restart(trainer: Trainer) -> None:
    """Keep Lightning from changing its counters for a restart: the loaded ones are already correct."""
    fit_loop = trainer.fit_loop
    fit_loop.epoch_loop.restarting = False
    fit_loop._restarting = False
