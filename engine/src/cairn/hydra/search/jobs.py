"""Trials as jobs of a sweep: named and launched like those of any other one.

A rung is one launch, with `pause_at` as a further override, which names leave out. A trial that is launched again
finds its checkpoints in its directory, and goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from cairn.errors import ConfigError, first_line
from cairn.hydra.command.arguments import literal, quoted
from cairn.hydra.command.overrides import key
from cairn.hydra.search import look, losers, settings
from cairn.jobs.signals import Interruption
from cairn.search.driver import Result
from cairn.search.rungs import END
from cairn.search.space import Choice, Space
from cairn.search.state import Trial
from cairn.store import directory_lock

_TRIES = 3
"""Launches of a trial that ends where it has paused before: a job of the last rung may have been at its end still."""

_POLL_S = 1.0

log = logging.getLogger(__name__)


class Jobs:
    """Makes the trials of a search, and runs them.

    Args:
        launcher: Runs jobs.
        context: Hydra's.
        config: Configuration of the sweep.
        space: What the search varies.
        shared: Overrides of all trials.
        kept: What a stopped trial keeps.
        known: Trials of the search so far.
    """

    def __init__(
        self,
        launcher: Launcher,
        context: HydraContext,
        config: DictConfig,
        space: Space,
        shared: Sequence[str],
        kept: losers.Keep = "best",
        known: Sequence[Trial] = (),
    ) -> None:
        self._launcher, self._context, self._config = launcher, context, config
        self._space, self._shared, self._kept = space, list(shared), kept
        self._is_sequential = settings.is_sequential(config.hydra.launcher)
        self._sweep = Path(config.hydra.sweep.dir).absolute()
        self._owners = {trial.directory: trial.number for trial in known}

    def trial(self, number: int, parameters: Mapping[str, Any], bracket: int) -> Trial:
        """Return a new trial.

        Raises:
            ConfigError: Another trial has its directory.
            HydraException: Its overrides do not compose.
        """
        trial = Trial(number, self._directory(number, self._overrides(parameters)), dict(parameters), bracket=bracket)
        owner = self._owners.setdefault(trial.directory, trial.number)
        if owner != trial.number:
            raise ConfigError(
                f"Trials {owner} and {trial.number} would both have the directory {trial.directory}: let "
                f"hydra.sweep.subdir depend on the overrides of a job, as it does by default."
            )
        return trial

    def check(self) -> None:
        """Compose each option of a group once: a mistake would otherwise end the search at the first trial with it.

        Raises:
            HydraException: An option does not exist, or does not have the keys that the search varies.
        """
        items = self._space.parameters.items()
        first: dict[str, Any] = {
            name: item.choices[0] if isinstance(item, Choice) else item.low for name, item in items
        }
        for name, item in items:
            if isinstance(item, Choice) and "." not in name:  # a key without a dot may be that of a group
                for choice in (one for one in item.choices if isinstance(one, str | list)):
                    overrides = self._overrides({**first, name: choice})
                    self._context.config_loader.load_sweep_config(self._config, overrides)

    def run(self, trials: Sequence[Trial], stop: str) -> dict[int, Result]:
        """Train trials until they stop there; those that have come there before are only read."""
        found: dict[int, Result] = {}
        errors: dict[int, str] = {}
        left = list(trials)
        for attempt in range(_TRIES + 1):
            waited = self._wait_for_others(left) if attempt else set()
            results = {trial.number: look.reached(self._path(trial), stop) for trial in left}
            found |= {number: result for number, result in results.items() if result is not None}
            left = [trial for trial in left if trial.number not in found]
            if attempt:
                ended = {trial.number for trial in left if not errors[trial.number] and self._has_paused(trial)}
                left = [trial for trial in left if trial.number in ended | waited]
            if not left or attempt == _TRIES:
                break
            log.info("Trials %s: until %s", ", ".join(str(trial.number) for trial in left), stop)
            errors |= self._launch(left, stop)
        failed = [trial for trial in trials if trial.number not in found]
        return found | {
            trial.number: Result(look.why_failed(self._path(trial), errors[trial.number])) for trial in failed
        }

    def stopped(self, trials: Sequence[Trial], stop: str) -> None:
        """Delete the checkpoints of trials that have stopped there, and need not keep them."""
        for trial in trials:
            losers.clear(self._path(trial), stop, self._kept)

    def _wait_for_others(self, trials: Sequence[Trial]) -> set[int]:
        """Wait for processes that train trials, such as jobs of a command that was killed; return those trials."""
        busy = [trial for trial in trials if directory_lock.is_held_elsewhere(self._path(trial))]
        for trial in busy:
            log.info("Trial %d: another process trains it. Waiting for its end.", trial.number)
            while directory_lock.is_held_elsewhere(self._path(trial)):
                time.sleep(_POLL_S)
        return {trial.number for trial in busy}

    def _launch(self, trials: Sequence[Trial], stop: str) -> dict[int, str]:
        """Launch a job for each trial, wait for all of them, and return their errors."""
        if self._is_sequential and len(trials) > 1:
            return {trial.number: self._launch([trial], stop)[trial.number] for trial in trials}
        pause = [] if stop == END else [f"++pause_at={stop}"]
        jobs = [[*self._overrides(trial.parameters), *pause, _named(trial)] for trial in trials]
        try:
            returned = self._launcher.launch(jobs, initial_job_idx=trials[0].number)
        except Interruption:
            raise
        except SystemExit as error:  # in this process, by the code of the trial: it does not end the search
            if not self._is_sequential:
                raise
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)  # it was that of the trial
            return {trials[0].number: f"it has called sys.exit({error.code!r}) before its end"}
        return {trial.number: _error_of(job) for trial, job in zip(trials, returned, strict=True)}

    def _has_paused(self, trial: Trial) -> bool:
        record = look.record_of(self._path(trial))
        return record is not None and record.status == "paused"

    def _overrides(self, parameters: Mapping[str, Any]) -> list[str]:
        return [*self._shared, *self._space.overrides(parameters)]

    def _path(self, trial: Trial) -> Path:
        return self._sweep / trial.directory

    def _directory(self, number: int, overrides: Sequence[str]) -> str:
        """Return the directory of a job below that of the sweep, as Hydra names it, by what distinguishes it."""
        shared = [key(item).partition("@")[0] for item in self._shared]
        names = [*self._config.hydra.job.config.override_dirname.exclude_keys, *shared]
        excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, names))}]"
        cfg = self._context.config_loader.load_sweep_config(self._config, [*overrides, excluded])
        with open_dict(cfg):
            cfg.hydra.job.num = cfg.hydra.job.id = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)  # its name may interpolate Hydra's own configuration
        try:
            return str(cfg.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before


def _named(trial: Trial) -> str:
    """Return the override that keeps a job in the directory of its trial, whatever its number is now."""
    return f"hydra.sweep.subdir={quoted(literal(trial.directory))}"


def _error_of(job: JobReturn) -> str:
    if job.status != JobStatus.FAILED:
        return ""
    error = job._return_value
    return first_line(error) if isinstance(error, BaseException) else str(error)
