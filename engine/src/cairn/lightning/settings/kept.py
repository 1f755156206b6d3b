"""Settings are not state: a checkpoint must not change what a user has configured without a word.

Optimizers, schedulers, metrics and many callbacks keep their settings and their state in the same attributes, and
restore both. So the settings are read before anything is restored, and are saved with each checkpoint:

    then     in the checkpoint            ┐ a setting that differs here was changed by the user
    now      before the checkpoint loads  ┘
    loaded   what the checkpoint has restored

A new run that starts from a checkpoint follows its own settings. A resumed run keeps those of its checkpoint, except
the arguments of callbacks. The differences are logged before the first batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.lightning.settings import classes, exchanged, new_run, parts, schedules, stopped_early
from cairn.lightning.settings.exchanged import Exchanged
from cairn.lightning.settings.parts import Part
from cairn.lightning.settings.raised import Raised

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
        """What the next checkpoint says about them."""
        self._ours: Mapping[str, Any] = {}
        """Our part of the checkpoint that the fit begins with."""
        self._resumes = self._withdrawn = False
        self._reset: Mapping[str, Any] = {}
        """Metrics that start empty in a new run."""
        self._others: list[str] = []
        """Schedulers of another class than before."""
        self.exchanged, self._raised = Exchanged(trainer), Raised(trainer)

    def see_callbacks(self) -> None:
        """Read the arguments of the callbacks, before a checkpoint is loaded."""
        self._saved, self._ours, self._resumes, self._withdrawn = {}, {}, False, False
        self._see("callbacks", parts.callbacks(self.trainer))
        self._raised.see()

    def load(self, ours: Mapping[str, Any], resumes: bool) -> bool:
        """Take the settings that a checkpoint was saved with.

        Args:
            ours: Value of the key `cairn` in it.
            resumes: Whether the run is the same.

        Returns:
            Whether the decision to stop early in it holds, if it has one.
        """
        self._ours, self._resumes = ours, resumes
        self._raised.load(ours, resumes)
        decided = bool(resumes and ours["should_stop"])
        self._withdrawn = decided and self._may_train_on()
        holds = decided and not self._withdrawn
        stopped_early.log_if_over(self.trainer, ours, holds)
        return holds

    def see_training(self) -> None:
        """Read the settings of optimizers, schedulers and metrics, before their state is loaded.

        Raises:
            ConfigError: An optimizer or a scheduler cannot load the state of the one in the checkpoint.
        """
        exchanged.check(self.trainer, self._then)
        self._others = classes.check(self.trainer, self._then)
        self._saved["classes"] = classes.names(self.trainer)
        self._see("optimizers", parts.groups(self.trainer))
        self._see("schedulers", parts.schedulers(self.trainer))
        self._see("metrics", parts.metrics(self.trainer.lightning_module))

    def see_start(self) -> None:
        """Read what is frozen at the start of the training, and its limits."""
        self._saved["limits"] = schedules.limits(self.trainer)
        self._saved["start"] = parts.exceptions(self.trainer.lightning_module)

    def adjusted(self, ours: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the state of a checkpoint, right before it is restored, without what a new run configures itself."""
        if self._resumes and "first_batch" in self._then:
            self._saved["first_batch"] = self._then["first_batch"]
        self.see_first_batch()
        if self._resumes:
            return ours
        ranks, rank, then = list(ours["ranks"]), self.trainer.global_rank, self._then.get("first_batch")
        state = ranks[rank]
        self._reset = new_run.changed_metrics(self._parts["metrics"], self._then.get("metrics"), state["metrics"])
        modes = new_run.modes(self.trainer.lightning_module, state["modes"], then, self._saved["first_batch"])
        ranks[rank] = {**new_run.adjusted_state(self.trainer.lightning_module, state, self._reset), "modes": modes}
        return {**ours, "ranks": ranks, "accumulate_grad_batches": new_run.accumulation(self.trainer)}

    def apply(self) -> None:
        """Follow the settings where they were changed, or log that the old ones are kept.

        Raises:
            ConfigError: A learning-rate schedule would raise an error before the end of the training.
        """
        followed, kept = parts.follow_arguments(self._parts["callbacks"], self._then.get("callbacks"))
        if self._resumes:
            more, old = self._compare()
            kept += old
        else:
            parts.forget_decisions(self._parts["callbacks"])
            more = new_run.configure(self.trainer, self._parts["optimizers"], self._parts["schedulers"], self._then)
            more += [
                f"{key} (a metric) starts empty: {text}" for key, c in self._reset.items() for text in parts.describe(c)
            ]
        _log([*followed, *self._others, *more], kept, self._resumes)
        if self._withdrawn:
            stopped_early.start_again(self.trainer)
        schedules.check(self.trainer, self._ours, self._resumes)

    def see_first_batch(self) -> None:
        """Read what is frozen when the first batch is trained: hooks at the start of the training may freeze, too."""
        if "first_batch" not in self._saved:
            self._saved["first_batch"] = parts.exceptions(self.trainer.lightning_module)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about the settings."""
        return {**self._saved, **self.exchanged.state(), **self._raised.state()}

    @property
    def _then(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self._ours.get("settings", {})
        return settings

    def _see(self, kind: str, found: Iterator[Part]) -> None:
        self._parts[kind] = list(found)
        self._saved[kind] = {part.key: part.plain() for part in self._parts[kind]}

    def _changes(self, kind: str) -> Iterator[tuple[Part, dict[str, tuple[Any, Any]]]]:
        """Yield each part that was made with other settings than before."""
        for part in self._parts.get(kind, []):
            if changed := part.changed(self._then.get(kind, {}).get(part.key, {})):
                yield part, changed

    def _may_train_on(self) -> bool:
        """Whether the user has changed something so that a run that had stopped early trains on."""
        if not schedules.limits_then(self._ours):  # an earlier version saved it, and there is nothing to compare with
            return not any(isinstance(callback, EarlyStopping | Timer) for callback in self.trainer.callbacks)
        if any(part.arguments & {*changed} for part, changed in self._changes("callbacks")):
            return True
        lost = {*self._then.get("callbacks", {})} - {part.key for part in self._parts["callbacks"]}
        return bool(lost) or schedules.is_longer(self.trainer, self._ours)

    def _compare(self) -> tuple[list[str], list[str]]:
        """Return the changed settings that a resumed run follows all the same, and those that it keeps."""
        followed: list[str] = []
        kept: list[str] = []
        for kind in ("optimizers", "schedulers", "metrics"):
            for part, changed in self._changes(kind):
                loaded = part.loaded()
                new = {name: pair for name, pair in changed.items() if parts.same(loaded.get(name), pair[1])}
                old = {name: pair for name, pair in changed.items() if name not in new}
                # The checkpoints of this run go on saying what it was made with.
                self._saved[kind][part.key] |= {name: before for name, (before, _) in old.items()}
                followed += [f"{part.name}: {text}" for text in parts.describe(new)]
                kept += [f"{part.name}: {text}" for text in parts.describe(old, kept=True)]
        before = self._then.get("start", self._saved["start"])
        if names := {*before["frozen"]} ^ {*self._saved["start"]["frozen"]}:
            self._saved["start"] = before
            kept.append(f"frozen parameters ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})")
        return followed, kept


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
