"""What a resume repeats before its first batch, and what it puts back afterwards.

Hooks such as `on_train_start` and `on_train_epoch_start` set attributes that training reads: a time, a temperature
that depends on the epoch, a mask. A process that resumes inside an epoch has to run them, too, although the checkpoint
already contains what they did to weights, optimizers, counters, logs and random numbers:

    Lightning     loads the checkpoint, runs on_fit_start, on_train_start
    run_again     the generators as they were at the start of the epoch; loggers that drop everything
                  on_train_epoch_start of the callbacks and of the module
    reload        weights, optimizers, schedulers, states of callbacks, from the file again
    restore       what Lightning does not restore (see capture.py), the generators last
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.migration.utils import _pl_migrate_checkpoint

from cairn.errors import ConfigError, ResumeError
from cairn.lightning.agreement import Agreement, Alone
from cairn.lightning.audited.audit import Audit
from cairn.lightning.rank_differences import RankDifferences
from cairn.lightning.saved import pruning, unsaved
from cairn.lightning.saved.growth import repeated_groups_ignored
from cairn.lightning.saved.layers import Layers
from cairn.store import links

log = logging.getLogger(__name__)

_EPOCH_START = "on_train_epoch_start"
_HOOKS = ("on_fit_start", "on_train_start", _EPOCH_START)
"""Hooks that run between the loading of a checkpoint and the first batch."""
_HARMLESS = (
    *(Checkpoint, DeviceStatsMonitor, EarlyStopping, GradientAccumulationScheduler, LearningRateMonitor),
    *(ModelSummary, ProgressBar, Timer),
)
"""Callbacks whose hooks do not change what a checkpoint contains, or whose change `capture.restore` undoes."""


class Restart:
    """What one process knows about the start of the epoch that it trains.

    Args:
        trainer: The trainer.
        audit: Compares plain attributes.
        agreement: Between the ranks.
    """

    def __init__(self, trainer: Trainer, audit: Audit, agreement: Agreement) -> None:
        self.trainer, self.audit, self.agreement = trainer, audit, agreement
        self.layers, self.differences = Layers(trainer, audit), RankDifferences(trainer, audit, agreement)
        self.epoch_start: Mapping[str, Any] | None = None
        """Generators and number of steps of this rank before the hooks at the start of the epoch; None: unknown."""
        self._ours: Mapping[str, Any] = {}
        self._path: Path | None = None

    def load(self, ours: Mapping[str, Any]) -> None:
        """Take the state of this rank from a checkpoint."""
        self.epoch_start = ours["ranks"][self.trainer.global_rank].get("epoch_start")
        # A link to the newest checkpoint of a run that is training may move.
        self._ours, self._path = ours, links.target(Path(str(self.trainer.ckpt_path)))

    def epoch_begins(self) -> None:
        """The hooks at the start of an epoch are about to run."""
        self.epoch_start = self.now()
        self.audit.epoch_begins()

    def epoch_begun(self) -> None:
        """The hooks at the start of an epoch have run."""
        self.audit.epoch_begun()
        self.layers.check()
        self.report_together()

    def epoch_begins_again(self) -> None:
        """A resume continues inside an epoch: run the hooks at its start again."""
        run_again(self.trainer, self.epoch_start)

    def now(self) -> dict[str, Any]:
        """Return the generators and the number of steps."""
        return {"rng": unsaved.rng_state(), "step": self.trainer.global_step}

    @contextmanager
    def as_at(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Context in which the generators and the number of steps are those that `now` has returned before."""
        before = unsaved.rng_state()
        unsaved.set_rng_state(state["rng"])
        try:
            with _step(self.trainer, state):
                yield
        finally:
            unsaved.set_rng_state(before)

    def reload(self) -> None:
        """Load what Lightning has loaded again, before `capture.restore`; see the function `reload`."""
        assert self._path is not None
        reload(self.trainer, self._path, self._ours)

    def restored(self, goes_on: bool) -> None:
        """Everything is restored: compare the attributes with those of the process that has saved.

        Args:
            goes_on: Whether the same run goes on; else a new one starts from the checkpoint.
        """
        ours, self._ours = self._ours, {}
        self.audit.resumed(ours["place"], ours.get("attributes", {}), goes_on)
        self.layers.check()
        self.report_together()

    def at_boundary(self) -> None:
        """A boundary is reached while accesses are watched. This takes microseconds."""
        self.audit.at_boundary()
        if self.audit.findings.are_new and isinstance(self.agreement, Alone):  # several ranks report at a save
            self.report_together()

    def at_save(self, place: str, contents: Mapping[str, Any]) -> dict[str, Any]:
        """Look for changes that the contents of a checkpoint do not hold; see `Audit.at_save`."""
        self.layers.check(contents)
        return self.audit.at_save(place, contents)

    def report_together(self) -> None:
        """Report attributes that no checkpoint holds, of all ranks; end the run on all of them if this is an error.

        Raises:
            ConfigError: There are such attributes, and `audit` is `error`.
        """
        if self.audit.mode == "off":
            return
        findings = self.audit.findings
        if not any(self.agreement.largest(findings.are_new)):  # at each save, so that rank 0 gets no message per rank
            return
        error = findings.report(self.agreement.gather(findings.take()))
        if self.audit.mode == "error" and (error := self.agreement.share(error)):
            raise ConfigError(error, parameter="audit")


def run_again(trainer: Trainer, begun: Mapping[str, Any] | None) -> None:
    """Run the hooks at the start of the epoch, as a process would have that began with it.

    A hook that raises is logged: what it sets may be missing, but the run was able to continue without it.

    Args:
        trainer: The trainer, inside an epoch, before its first batch.
        begun: See `Restart.epoch_start`.
    """
    module = trainer.lightning_module
    if begun is not None:
        unsaved.set_rng_state(begun["rng"])
    with _dropped_logs(trainer), _step(trainer, begun), repeated_groups_ignored(trainer):
        for callback in trainer.callbacks:
            with _logged_errors(callback):
                module._current_fx_name = _EPOCH_START
                callback.on_train_epoch_start(trainer, module)
        with _logged_errors(module):
            call._call_lightning_module_hook(trainer, _EPOCH_START)
    module._current_fx_name = None


def reload(trainer: Trainer, path: Path, ours: Mapping[str, Any]) -> None:
    """Load the checkpoint of this fit again, if hooks may have changed what Lightning has loaded from it.

    Args:
        trainer: The trainer, before its first batch.
        path: The checkpoint.
        ours: Value of its key `cairn`.

    Raises:
        ResumeError: The file has changed since Lightning has loaded it.
    """
    if not any(_has_hooks(owner) for owner in (trainer.lightning_module, *trainer.callbacks)):
        return
    connector = trainer._checkpoint_connector
    contents = trainer.strategy.load_checkpoint(path, weights_only=True)
    if any(contents[unsaved.KEY][key] != ours[key] for key in ("run", "position")):
        raise ResumeError(f"{path} has changed while it was loaded: start again.")
    mine = ours["ranks"][trainer.global_rank].get("pruning", {})
    contents["state_dict"] = pruning.as_pruned(contents["state_dict"], trainer.lightning_module, mine)
    connector._loaded_checkpoint = _pl_migrate_checkpoint(contents, path)
    try:
        connector.restore_model()
        connector.restore_datamodule()
        _reload_callbacks(trainer, connector._loaded_checkpoint)
        connector.restore_precision_plugin_state()
        connector.restore_optimizers_and_schedulers()
    finally:
        connector._loaded_checkpoint = {}


def _reload_callbacks(trainer: Trainer, contents: dict[str, Any]) -> None:
    states: Mapping[str, Any] = contents.get("callbacks") or {}
    for callback in trainer.callbacks:
        if isinstance(callback, Checkpoint):  # ours, and others whose state training does not change
            continue
        callback.on_load_checkpoint(trainer, trainer.lightning_module, contents)
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])


def _has_hooks(owner: LightningModule | Callback) -> bool:
    """Whether hooks of this object run before the first batch that may change what was loaded."""
    if isinstance(owner, _HARMLESS):
        return False
    base = LightningModule if isinstance(owner, LightningModule) else Callback
    # A LambdaCallback holds its hooks as attributes.
    return any(getattr(type(owner), name) is not getattr(base, name) or name in vars(owner) for name in _HOOKS)


@contextmanager
def _dropped_logs(trainer: Trainer) -> Iterator[None]:
    """Replace the loggers by ones that accept everything and write nothing."""
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


@contextmanager
def _step(trainer: Trainer, begun: Mapping[str, Any] | None) -> Iterator[None]:
    """Let `global_step` be what it was at the start of the epoch."""
    loop = trainer.fit_loop.epoch_loop
    automatic = trainer.lightning_module.automatic_optimization
    optimizer = loop.automatic_optimization.optim_progress.optimizer.step
    total = (optimizer if automatic else loop.manual_optimization.optim_step_progress).total
    now = total.completed
    total.completed = now if begun is None else begun["step"]
    try:
        yield
    finally:
        total.completed = now


@contextmanager
def _logged_errors(owner: object) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning(
            "%s.%s failed when this resume repeated it (%s: %s). The run continues without what it sets.",
            type(owner).__name__,
            _EPOCH_START,
            type(error).__name__,
            error,
        )
