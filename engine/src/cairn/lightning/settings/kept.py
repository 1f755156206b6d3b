"""Settings are not state: a checkpoint must not change what a user has configured without a word.

Optimizers, schedulers, metrics and many callbacks keep their settings and their state in the same attributes, and
restore both. So the settings are read before anything is restored, and are saved with each checkpoint:

    then     in the checkpoint            ┐ a setting that differs here was changed by the user
    now      before the checkpoint loads  ┘
    loaded   what the checkpoint has restored

A new run that starts from a checkpoint follows its own settings. A resumed run keeps those of its checkpoint, except
the arguments of callbacks. The differences are logged before the first batch. What belongs to the module itself is in
modules.py and buffers.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.lightning.saved import unsaved
from cairn.lightning.settings import (
    classes,
    exchanged,
    learning_rate,
    modules,
    new_run,
    parts,
    resumed,
    schedules,
    stopped_early,
)
from cairn.lightning.settings.buffers import Buffers
from cairn.lightning.settings.exchanged import Exchanged
from cairn.lightning.settings.modules import Loaded
from cairn.lightning.settings.parts import Part
from cairn.lightning.settings.raised import Raised
from cairn.writing.encode import Constant

log = logging.getLogger(__name__)


class Settings:
    """What the user has configured for a fit. The methods are called in the order in which they stand here.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._parts: dict[str, list[Part]] = {}
        """By kind: `callbacks`, `optimizers`, `schedulers`, `metrics`."""
        self._saved: dict[str, Any] = {}
        """What the next checkpoint says about them: the same from the first save on."""
        self._constants: dict[str, Constant] = {}
        self._ours: Mapping[str, Any] = {}
        """Our part of the checkpoint that the fit begins with."""
        self._checkpoint: Mapping[str, Any] = {}
        """All of it, until the states of the optimizers are loaded."""
        self._resumes = self._withdrawn = False
        self._reset: dict[str, list[str]] = {}
        """Metrics that start empty in a new run, with what has changed."""
        self._schedules: list[learning_rate.Schedule] = []
        """As they were built, in a new run."""
        self._moved: list[str] = []
        """Texts about schedulers of another class or interval than before."""
        self._loaded: Loaded | None = None
        self._buffers: Buffers | None = None
        self.exchanged, self._raised = Exchanged(trainer), Raised(trainer)

    def see_callbacks(self) -> None:
        """Read the arguments of the callbacks, before a checkpoint is loaded."""
        self._saved, self._ours, self._resumes, self._withdrawn = {}, {}, False, False
        self._loaded, self._buffers, self._constants = None, None, {}
        self._see("callbacks", parts.callbacks(self.trainer))
        self._raised.see()

    def see_module(self) -> None:
        """Read the settings of the module and the datamodule: once, when all is built and nothing is loaded."""
        if self._buffers is None:
            self._buffers = Buffers(self.trainer)
            self._see("modules", modules.owners(self.trainer))

    def load(self, checkpoint: Mapping[str, Any], resumes: bool) -> bool:
        """Take the settings that a checkpoint was saved with; the module has loaded it.

        Args:
            checkpoint: The checkpoint.
            resumes: Whether the run is the same.

        Returns:
            Whether the decision to stop early in it holds, if it has one.
        """
        ours = self._ours = checkpoint[unsaved.KEY]
        self._checkpoint, self._resumes = checkpoint, resumes
        self._raised.load(ours, resumes)
        self._loaded = Loaded(self._parts["modules"], self._then.get("modules", {}), resumes)
        decided = bool(resumes and ours["should_stop"])
        self._withdrawn = decided and stopped_early.may_train_on(self.trainer, ours, self._parts["callbacks"])
        holds = decided and not self._withdrawn
        stopped_early.log_if_over(self.trainer, ours, holds)
        return holds

    def see_training(self) -> None:
        """Read the settings of optimizers, schedulers and metrics, before their state is loaded.

        Raises:
            ConfigError: An optimizer or a scheduler cannot load the state of the one in the checkpoint.
        """
        self.see_module()
        exchanged.check(self.trainer, self._then)
        self._moved = classes.check(self.trainer, self._then, self._checkpoint)
        self._saved["classes"] = classes.names(self.trainer)
        self._saved["parameters"] = classes.parameters(self.trainer)
        self._see("optimizers", parts.groups(self.trainer))
        self._see("schedulers", parts.schedulers(self.trainer))
        self._see("metrics", parts.metrics(self.trainer.lightning_module))
        self._schedules = learning_rate.schedules(self.trainer) if self._ours and not self._resumes else []

    def check_groups(self) -> None:
        """Check the parameters of the optimizers, when the groups are there that training had added.

        Raises:
            ConfigError: The checkpoint holds the state of other ones.
        """
        checkpoint, self._checkpoint = self._checkpoint, {}
        classes.check_groups(self.trainer, self._ours, checkpoint.get("optimizer_states", []), self._resumes)

    def see_start(self) -> None:
        """Read what is frozen at the start of the training, and its limits."""
        self._saved["limits"] = schedules.limits(self.trainer)
        self._saved["start"] = parts.exceptions(self.trainer.lightning_module)

    def adjusted(self, ours: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the state of a checkpoint, right before it is restored, without what a new run configures itself."""
        if self._resumes and "first_batch" in self._then:
            self._saved["first_batch"] = self._then["first_batch"]
        self.see_first_batch()
        assert self._buffers is not None
        ranks, rank, metrics = list(ours["ranks"]), self.trainer.global_rank, self._parts["metrics"]
        state, then = dict(ranks[rank]), self._then.get("buffers", {})
        state["buffers"] = self._buffers.restore(self.trainer, then, state["buffers"], self._resumes)
        if self._resumes:
            return ours
        self._reset = new_run.changed_metrics(metrics, self._then.get("metrics"), state["metrics"], self._buffers)
        module, start = self.trainer.lightning_module, self._saved["first_batch"]
        ranks[rank] = new_run.adjusted_state(module, state, self._reset, self._then, start)
        return {**ours, "ranks": ranks, "accumulate_grad_batches": new_run.accumulation(self.trainer)}

    def apply(self) -> None:
        """Follow the settings where they were changed, or log that the old ones are kept.

        Raises:
            ConfigError: A learning-rate schedule would raise an error before the end of the training.
        """
        assert self._loaded is not None
        assert self._buffers is not None
        followed, kept = parts.follow_arguments(self._parts["callbacks"], self._then.get("callbacks"))
        if self._resumes:
            self._loaded.remember(self._saved["modules"])
            more, old = resumed.compare(self._parts, self._then, self._saved)
        else:
            self._loaded.follow()  # once more: hooks may have had the checkpoint loaded again
            parts.forget_decisions(self._parts["callbacks"])
            groups, schedulers = self._parts["optimizers"], self._parts["schedulers"]
            more, old = new_run.configure(self.trainer, groups, schedulers, self._ours, self._schedules)
            more += [f"{key} (a metric) starts empty: {text}" for key, texts in self._reset.items() for text in texts]
        followed += [*self._loaded.followed, *self._buffers.followed, *self._moved, *more]
        _log(followed, [*kept, *self._loaded.kept, *self._buffers.kept, *old], self._resumes)
        if self._withdrawn:
            stopped_early.start_again(self.trainer)
        schedules.check(self.trainer, self._ours, self._resumes)

    def see_first_batch(self) -> None:
        """Read what is frozen when the first batch is trained: hooks at the start of the training may freeze, too."""
        if "first_batch" not in self._saved:
            self._saved["first_batch"] = parts.exceptions(self.trainer.lightning_module)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about the settings."""
        buffers = self._buffers.state() if self._buffers is not None else {}
        self._constants = _as_constants(self._saved, self._constants)
        return {**self._constants, "buffers": buffers, **self.exchanged.state(), **self._raised.state()}

    @property
    def _then(self) -> Any:
        return self._ours.get("settings", {})

    def _see(self, kind: str, found: Iterator[Part]) -> None:
        self._parts[kind] = list(found)
        self._saved[kind] = {part.key: part.plain() for part in self._parts[kind]}


def _as_constants(saved: Mapping[str, Any], known: dict[str, Constant]) -> dict[str, Constant]:
    return known if known.keys() == saved.keys() else {kind: Constant(value) for kind, value in saved.items()}


@rank_zero_only
def _log(followed: Sequence[str], kept: Sequence[str], resumes: bool) -> None:
    run = "resumed" if resumes else "new"
    if followed:
        message = f"The {run} run follows its configuration, not its checkpoint: {'; '.join(followed)}."
        # A resumed run is expected to go on as before.
        log.log(logging.WARNING if resumes else logging.INFO, message)
    if kept:
        cure = " To follow the configuration, start a new run from the checkpoint, with ckpt_path." if resumes else ""
        log.warning("The %s run keeps settings of its checkpoint: %s.%s", run, "; ".join(kept), cure)
