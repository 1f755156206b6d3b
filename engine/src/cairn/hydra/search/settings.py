"""The keys of `hydra.sweeper`, checked, and what follows from them for a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.search import first_score, losers
from cairn.hydra.sweep import parallel
from cairn.search import rungs, sampler, schedule
from cairn.search.space import Space
from cairn.search.state import Search
from cairn.types import Mode

_BASIC = "BasicLauncher"
_LOCAL = "LocalLauncher"
_ROUNDS = 4
"""A sampler learns from one round of trials for the next one: not all of them begin at once."""


@dataclass(frozen=True)
class Settings:
    """The keys of `hydra.sweeper`."""

    sweeper: Literal["halving", "optuna"]
    sampler: sampler.Kind
    seed: int
    num_trials: int | None
    rungs: int | Sequence[str | int] | None
    eta: int
    schedule: schedule.Schedule
    mode: Mode | None
    parallel: int | None
    losers: losers.Keep
    params: Mapping[str, Any]


def parse(sweeper: Literal["halving", "optuna"], given: Mapping[str, Any]) -> Settings:
    """Check the keys.

    Args:
        sweeper: `optuna`: one rung.
        given: Keys with their values.

    Raises:
        ConfigError: A value is invalid, or Optuna is missing.
    """
    found: dict[str, Any] = {key: _plain(value) for key, value in given.items()}
    if sweeper == "optuna":
        found |= {"rungs": 1, "eta": 2, "schedule": "halving", "losers": "all"}
    for key, values in (("schedule", get_args(schedule.Schedule)), ("mode", ("min", "max", None))):
        if found[key] not in values:
            names = [str(value) for value in values if value]
            raise ConfigError(f"{key}={found[key]!r} must be {' or '.join(names)}.", parameter=key)
    for key, least in (("seed", 0), ("num_trials", 1), ("parallel", 1)):
        value = found[key]
        if value is None and key != "seed":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{key}={value!r} must be an integer from {least}.", parameter=key)
    checked = {**found, "sampler": sampler.check(found["sampler"]), "losers": losers.check(found["losers"])}
    return Settings(sweeper, **{**checked, "params": found.get("params") or {}})


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def search(settings: Settings, config: DictConfig, space: Space, command: Sequence[str]) -> Search:
    """Return a new search.

    Args:
        settings: The keys of `hydra.sweeper`.
        config: The whole configuration of the sweep.
        space: What it varies.
        command: Overrides of the command.

    Raises:
        ConfigError: The metric, its mode or the length of a run is not known; or a value does not fit the others.
    """
    metric = config.get("optimized_metric")
    if not metric:
        raise ConfigError("A search needs optimized_metric=METRIC, such as optimized_metric=val/loss.")
    if config.get("pause_at") is not None:
        raise ConfigError("pause_at: a search pauses its trials itself, at hydra.sweeper.rungs.")
    stops = rungs.parse(settings.rungs, settings.eta, _length(config))
    first_score.check(stops[0], config.get("trainer") or {}, config.get("checkpoint") or {}, str(metric))
    num_trials = _num_trials(settings, space)
    schedule.brackets(settings.schedule, num_trials, len(stops), settings.eta)  # raises an error if it cannot work
    return Search(
        sweeper=settings.sweeper,
        command=tuple(command),
        metric=str(metric),
        mode=settings.mode or _mode(config, str(metric)),
        sampler=settings.sampler,
        seed=settings.seed,
        eta=settings.eta,
        schedule=settings.schedule,
        rungs=stops,
        num_trials=num_trials,
        parameters=space.as_json(),
    )


def _length(config: DictConfig) -> rungs.Length:
    trainer = config.get("trainer") or {}
    limits = [value if type(value := trainer.get(key)) is int else None for key in ("max_epochs", "max_steps")]
    return rungs.Length.of(*limits)


def _num_trials(settings: Settings, space: Space) -> int:
    """Return the number of trials: as configured, but not more than there are different ones."""
    if settings.sampler == "grid":
        size = len(space.grid(settings.seed))
        return min(size, settings.num_trials or size)
    if settings.num_trials is None:
        raise ConfigError("num_trials=null: only sampler=grid knows how many there are.", parameter="num_trials")
    size_or_none = space.size
    return settings.num_trials if size_or_none is None else min(settings.num_trials, size_or_none)


def _mode(config: DictConfig, metric: str) -> Mode:
    group: Mapping[str, Any] = config.get("checkpoint") or {}
    if group.get("monitor") == metric and group.get("mode") in get_args(Mode):
        mode: Mode = group["mode"]
        return mode
    raise ConfigError(
        f"Is a lower or a higher {metric} better? Set hydra.sweeper.mode=min or max. (checkpoint.mode says it only of "
        f"checkpoint.monitor={group.get('monitor')}.)"
    )


def num_parallel(settings: Settings, launcher: Mapping[str, Any], num_trials: int) -> int:
    """Return how many trials of a first rung run together.

    Args:
        settings: The keys of `hydra.sweeper`.
        launcher: Those of `hydra.launcher`.
        num_trials: Trials of the search.
    """
    if settings.parallel is not None:
        return settings.parallel
    if is_sequential(launcher):
        return 1
    at_once = launcher.get("array_parallelism")
    if str(launcher.get("_target_")).endswith(_LOCAL):
        slots = parallel.choose(at_once, launcher.get("gpus_per_node"), parallel.gpus(), parallel.num_cores())
        at_once = len(slots.devices)
    return max(1, min(at_once or num_trials, math.ceil(num_trials / _ROUNDS)))


def is_sequential(launcher: Mapping[str, Any]) -> bool:
    """Return whether a launcher runs one job after the other."""
    return str(launcher.get("_target_")).endswith(_BASIC)
