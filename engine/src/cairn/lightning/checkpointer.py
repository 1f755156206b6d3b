"""The public callback: checkpoints during the epoch, and exact resumes, in any Lightning project."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from cairn.lightning import arguments
from cairn.lightning.cost import SavingCost, saving_cost
from cairn.lightning.hangs import Watch
from cairn.lightning.hooks import EngineHooks
from cairn.lightning.policy import policy
from cairn.lightning.stopping import BySignals
from cairn.policy import keep, when
from cairn.policy.patience import Patience
from cairn.store import ranking, resume
from cairn.store.catalog import Catalog
from cairn.store.listener import Listener, Listeners
from cairn.store.resume import ResumePoint
from cairn.types import AuditMode, ElasticLevel, Mode, Saved
from cairn.writing.options import Writing


class Checkpointer(EngineHooks):
    """Saves a run during its epochs, and goes on with it as if nothing had happened.

        checkpoints = cairn.Checkpointer("runs/a/checkpoints", every="10min", monitor="val/loss")
        trainer = Trainer(callbacks=[checkpoints])
        trainer.fit(model, loader, ckpt_path=checkpoints.resume())

    A directory belongs to one run. Besides the interval and the best validations, a run is saved at its end and when it
    is asked to stop: on Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 it finishes the current batch, saves, and leaves
    `fit` by `SystemExit` with the exit code of that signal. Pass one `Checkpointer` to one `Trainer`.

    Args:
        directory: Where the checkpoints go.
        every: The save interval: batches (`50` or "50ba"), optimizer steps ("100st"), time ("90s", "10min", "2h"), a
            part of an epoch ("0.25ep"), "auto", or a trigger; None: only the other reasons save.
        monitor: Metric that ranks checkpoints, as a validation logs it; None: checkpoints are not ranked.
        mode: `min`: lower is better; or `max`.
        keep_last: How many of the newest are kept; -1: all.
        keep_best: How many of the best are saved and kept; -1: all; 0: none is saved or kept for its score.
        triggers: Further reasons to save, by name; `interval`, `best`, `end`, `stop` replace those, None removes one.
        rules: Further reasons to keep a checkpoint, by name, likewise; the defaults are `last` and `best`.
        writing: How checkpoints are written.
        max_time: Training time after which the run is saved and `fit` returns, over all attempts ("2h", seconds, or a
            timedelta).
        pause_at: Point of the full schedule where the run is saved and `fit` returns: "3ep", "200st", "500ba", "10min".
            With a later point or None, the run continues from there as if it had never paused.
        stop: Asked at every boundary why the run must stop there; gets the seconds until a save would be committed,
            returns the name of a signal or None. By default the signals named above.
        audit: What to do about plain attributes that training changes and no checkpoint holds: `warn`, `error`, `off`.
        elastic: What another number of processes keeps, with a `global_batch_size`: `samples`, or all results: `bits`.
        watchdog: What to do about a step or a save that never ends: after this long without a sign of life ("30min"),
            the process writes all stack traces and exits with code 75. "auto": ten times the longest silence so far, at
            least ten minutes; "off" or None: wait for ever.
        listeners: Informed of each checkpoint that is committed or deleted, such as `cairn.wandb.Artifacts()`.
        metadata: Plain values that each manifest says of its run; `config` goes into the file, `run` is the run's id.

    Raises:
        ConfigError: An argument is not what it must be.
    """

    def __init__(
        self,
        directory: str | PathLike[str],
        every: int | str | when.Trigger | None = "auto",
        *,
        monitor: str | None = None,
        mode: Mode = "min",
        keep_last: int = 2,
        keep_best: int = 1,
        triggers: Mapping[str, when.Trigger | None] | None = None,
        rules: Mapping[str, keep.Rule | None] | None = None,
        writing: Writing = Writing(),
        max_time: float | str | timedelta | None = None,
        pause_at: str | int | None = None,
        stop: Callable[[float], str | None] | None = None,
        audit: AuditMode = "warn",
        elastic: ElasticLevel = "samples",
        watchdog: Patience | float | str | timedelta | None = "auto",
        listeners: Sequence[Listener] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        arguments.check(directory, monitor, writing, stop, listeners, metadata)
        counts = keep_last, keep_best, triggers, rules
        made = policy(directory, every, monitor, mode, *counts, max_time, writing, audit, watchdog, elastic, pause_at)
        super().__init__(made, listeners, dict(metadata or {}), stop)

    # For users

    def resume(self) -> str | None:
        """Find the checkpoint to go on from, for `fit(ckpt_path=...)`: the newest intact one, or None.

        Waits for a writer of a killed process, and logs what is skipped. A mirror may bring a newer checkpoint.

        Raises:
            ResumeError: There are checkpoints, and none of them is intact.
        """
        resume.wait_for_writers(self.policy.directory)
        policy, listeners = self.policy, Listeners(self.listeners)
        mode, rules = policy.mode if policy.monitor else None, list(policy.rules.values())
        bring = partial(listeners.bring, policy.directory, rules=rules, mode=mode)
        point = resume.find_resume_point(policy.directory, bring=bring)
        if point.path is None:
            resume.warn_of_others(self.policy.directory)
        self.go_on_from(point)
        return None if point.path is None else str(point.path)

    def go_on_from(self, point: ResumePoint) -> None:
        """Take a resume point that is found and verified already; `fit(ckpt_path=...)` still has to name it."""
        self.resume_point = point

    @property
    def saved(self) -> list[Saved]:
        """The kept checkpoints, oldest first; on other ranks than 0 those at the end of the last fit."""
        if self._final is not None:
            return list(self._final)
        if self._engine is not None and self._engine.origin.run:
            return list(self._engine.history.saved)
        return Catalog(self.policy.directory).committed()

    @property
    def newest(self) -> Saved | None:
        """The newest checkpoint; None if there is none."""
        saved = self.saved
        return saved[-1] if saved else None

    @property
    def best(self) -> Saved | None:
        """The checkpoint with the best score; None without `monitor`, or if none has a score.

        Raises:
            ConfigError: The scores in the directory are values of another metric than `monitor`.
        """
        policy, saved = self.policy, self.saved
        ranking.check(policy.directory, saved, policy.monitor)
        return keep.best_of(saved, policy.mode) if policy.monitor else None

    @property
    def cost(self) -> SavingCost | None:
        """What saving has cost the run so far; None before the first fit."""
        engine = self._engine
        return None if engine is None else saving_cost(engine.telemetry, engine.saves.failures.total)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has, by `copy` or `pickle`: the arguments, and nothing of a fit."""
        fresh: dict[str, Any] = dict.fromkeys(("_engine", "_beginning", "_way", "_final", "_ranks"))
        fresh["watch"] = Watch()
        if isinstance(self._stopping, BySignals):  # else the function of the caller
            fresh["_stopping"] = BySignals()
        return {**vars(self), **fresh}

    # For Lightning, which reads these in `test(ckpt_path="best")`

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint; empty if there is none."""
        return _path(self.policy.directory, self.best)

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        """Accept what a spawned process reports: the directory shows the same."""

    @property
    def last_model_path(self) -> str:
        """Path of the newest checkpoint; empty if there is none."""
        return _path(self.policy.directory, self.newest)

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """The score of the best checkpoint."""
        return None if (best := self.best) is None else torch.tensor(best.score)


def _path(directory: Path, saved: Saved | None) -> str:
    return "" if saved is None else str(directory / saved.name)
