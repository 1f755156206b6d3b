"""The epochs of a fit, with a boundary after each of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.utilities import _is_max_limit_reached

from cairn.data.loader import DataLoader
from cairn.lightning.agreement import PLANNED
from cairn.lightning.loops import dealing, loaders, moved, parts, whole_means
from cairn.lightning.loops.calls import Engine, Stopped
from cairn.lightning.loops.epoch_loop import BoundaryEpochLoop, WeightedOptimization
from cairn.lightning.loops.moved import SavedBy


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
    """Processes that have saved the checkpoint that is resumed, until its counters are those of this process."""
    is_saved_by_us = False
    """Whether that is known: not for a checkpoint of Lightning, whose counters are not converted."""
    _num_substreams: Sequence[int | None] = ()
    """Numbers of substreams of the loaders that new ones take the place of."""
    _accumulation = 1
    """What the trainer was given, before global batches decide over it."""
    has_loaded = False
    """Whether the counters are those of the checkpoint: loaders may have been made before."""

    def setup_data(self) -> None:
        states = () if self.inner else self._combined_loader_states_to_load
        self._num_substreams = loaders.num_substreams(parts.train_loaders(self.trainer), states)
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
            loaders.defer(parts.train_loaders(self.trainer), False)

    def _see_reload(self) -> None:
        """Find out whether a resume gets other loaders before its first batch: then the positions mean nothing."""
        every, asked = self.trainer.reload_dataloaders_every_n_epochs, self.request
        is_due = bool(every and asked and self.trainer.current_epoch - asked["epoch"] >= every)
        self._positions_count = not (self.pending and is_due)

    def _load_combined_loader_states(self) -> None:
        loaders.keep_substreams(parts.train_loaders(self.trainer), self._num_substreams)
        self._deal()
        if self.inner:
            super()._load_combined_loader_states()
            return
        # Lightning's own method does not load the positions if the epoch of the checkpoint is over.
        self.load_positions(is_last=not self.arrives)
        if self.arrives:
            found = parts.train_loaders(self.trainer)
            needed = self._epoch_loop.needs_iterators = self.is_beyond_first_epoch or loaders.all_in_main_process(found)
            loaders.defer(found, needed)

    def load_positions(self, is_last: bool, only_ours: bool = False) -> None:
        """Load the positions of the checkpoint into the loaders.

        Args:
            is_last: Whether they are not needed again.
            only_ours: Leave out loaders that are not Cairn's.

        Raises:
            ResumeError: See `loaders.with_states`.
        """
        states = self._combined_loader_states_to_load
        if is_last:
            self._combined_loader_states_to_load = []
        if self._combined_loader is None or not states or not self._positions_count:
            return
        for loader, state in loaders.with_states(parts.train_loaders(self.trainer), states, self.is_saved_by_us):
            if isinstance(loader, DataLoader) or not only_ours:
                loader.load_state_dict(state if is_last else copy.deepcopy(state))

    def _deal(self) -> None:
        """Let the loops count as the new loaders deal out global batches, if they do."""
        combined, trainer = self._combined_loader, self.trainer
        assert combined is not None
        found = dealing.dealt(combined.flattened, ranks := self._epoch_loop.virtual_ranks)
        if self.saved_by is not None:  # before positions are loaded, whose differences say less
            moved.check(self.saved_by, found, trainer.world_size)
        if found is None:
            self.forget_global_batches()
            return
        if self._epoch_loop.dealt is None:
            self._accumulation = trainer.accumulate_grad_batches
            if not self.inner:
                dealing.announce(found)
        dealing.begin(trainer, found, self._accumulation, ranks)
        self._epoch_loop.dealt, self._epoch_loop.per_window = found, found.per_window
        whole_means.keep(self._epoch_loop._results)
        if type(optimization := self._epoch_loop.automatic_optimization) is _AutomaticOptimization:
            optimization.__class__ = WeightedOptimization
        combined.limits = dealing.limits(combined.flattened, trainer.limit_train_batches, combined.limits)

    @property
    def has_global_batches(self) -> bool:
        """Whether the loops count as the loaders deal out global batches."""
        return self._epoch_loop.dealt is not None

    def forget_global_batches(self) -> None:
        """Let the trainer accumulate gradients as it is configured."""
        if self.has_global_batches:
            self.trainer.accumulate_grad_batches = self._accumulation
            self._epoch_loop.dealt, self._epoch_loop.per_window = None, 1

    def _count_global_batches(self) -> None:
        """Set what follows from the loaders, which are there now: when to validate, and counters of a checkpoint."""
        dealt, saved_by = self._epoch_loop.dealt, self.saved_by
        if dealt is not None:
            self.trainer.val_check_batch = dealing.val_check_batch(self.trainer, dealt, self.max_batches)
        if self._combined_loader is None or saved_by is None or not self.has_loaded:
            return
        self.saved_by, self.has_loaded = None, False
        moved.check(saved_by, dealt, self.trainer.world_size)
        if dealt is not None and self._epoch_loop.virtual_ranks is None:
            moved.warn_of_move(saved_by, dealt, self.trainer)
        # Without global batches from the end of an epoch on, each of those before still counts as one.
        dealing.convert(self._epoch_loop.batch_progress, saved_by.per_window, self._epoch_loop.per_window)

    @property
    def _epoch_loop(self) -> BoundaryEpochLoop:
        assert isinstance(self.epoch_loop, BoundaryEpochLoop)
        return self.epoch_loop


class BoundaryFitLoop(_RequestingFitLoop):
    """Lightning's loop over epochs, with a boundary after each of them."""

    def setup_data(self) -> None:
        before = self._combined_loader
        with dealing.explaining(self.trainer):
            super().setup_data()
        if self.inner or self._combined_loader is None:
            return
        is_new = self._combined_loader is not before
        if not is_new and not self.has_global_batches:  # the loaders of a fit before this one
            self._deal()
            is_new = self.has_global_batches
        if is_new:
            self._count_global_batches()

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        self.has_loaded = True
        self._count_global_batches()
        if self.pending:
            # At the end of an epoch, Lightning sees no restart, and would run a sanity check over the loaded state.
            self._epoch_loop.val_loop.restarting = True

    def run(self) -> None:
        try:
            super().run()
        except Stopped as stop:
            if stop.reason not in PLANNED:
                raise
            # A limit on the training time ends a fit normally, as Lightning's own Timer does; so does a pause.
            self.engine.stopped(stop.reason)
            self._restarting = False
            self.on_run_end()
        finally:
            if not self.inner:
                self.forget_global_batches()
                self.engine.ended()  # here, because `on_exception` of another callback may raise, and ours comes last

    def on_save_checkpoint(self) -> dict[str, Any]:
        # Not Lightning's own method: it asks each loader for its state, too, and here another one may count.
        found = loaders.states(parts.train_loaders(self.trainer), self._epoch_loop.before_fetch)
        return {"combined_loader": found} if found else {}

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
            parts.forget_restart(self.trainer)

    def on_run_start(self) -> None:
        if not self.inner:
            self.engine.built()
        arrives, self.arrives = self.arrives and not self.inner, False
        if arrives and self._epoch_loop.needs_iterators:
            loaders.rewind(parts.train_loaders(self.trainer))  # on_train_start sees them as at the start of a run
        super().on_run_start()
        if self.pending and not self.inner:
            self.pending = False
            # Before the hooks of the epoch: one of them may change a sampler, and must find its state. The position of
            # a loader that is not Cairn's is the end of the last epoch, which its first iterator has used up.
            self.load_positions(is_last=True, only_ours=True)
            self.engine.restore(self._ends_here)
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
        ranks = self._epoch_loop.virtual_ranks
        if ranks is not None:
            ranks.epoch_ends()
        super().on_advance_end()
        if ranks is not None:
            ranks.epoch_ended()
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


BoundaryFitLoop.__name__ = _FitLoop.__name__  # as in epoch_loop.py
