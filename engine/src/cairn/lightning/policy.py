"""What the arguments of a `Checkpointer` mean: triggers and keep rules by name, each checked where it is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from cairn.errors import CairnError, ConfigError, named
from cairn.lightning.audited.audit import check_mode
from cairn.lightning.elastic_level import check_level
from cairn.policy import keep, patience, pause, when
from cairn.policy.patience import Patience
from cairn.policy.pause import PausePoint
from cairn.types import PAUSE, AuditMode, ElasticLevel, Mode
from cairn.units import parse_duration_s
from cairn.writing.options import Writing


@dataclass(frozen=True)
class Policy:
    """When to save, what to keep, and where."""

    directory: Path
    triggers: Mapping[str, when.Trigger] = field(default_factory=dict)
    rules: Mapping[str, keep.Rule] = field(default_factory=dict)
    monitor: str | None = None
    mode: Mode = "min"
    max_time_s: float | None = None
    writing: Writing = field(default_factory=Writing)
    audit: AuditMode = "warn"
    watchdog: Patience = field(default_factory=Patience)
    elastic: ElasticLevel = "samples"
    pause: PausePoint | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode={self.mode!r} must be min (lower is better) or max.", parameter="mode")
        check_mode(self.audit)
        check_level(self.elastic)
        if self.monitor is None and (
            best := [n for n, t in self.triggers.items() if isinstance(t, when.BestValidation)]
        ):
            raise ConfigError(f"triggers[{best[0]!r}] needs a metric to rank by: monitor='val/loss'.")


def policy(
    directory: str | PathLike[str],
    every: int | str | when.Trigger | None,
    monitor: str | None,
    mode: Mode,
    keep_last: int,
    keep_best: int,
    triggers: Mapping[str, when.Trigger | None] | None,
    rules: Mapping[str, keep.Rule | None] | None,
    max_time: float | str | timedelta | None,
    writing: Writing,
    audit: AuditMode,
    watchdog: Patience | float | str | timedelta | None,
    elastic: ElasticLevel,
    pause_at: str | int | None = None,
) -> Policy:
    """Make the policy that the arguments of a `Checkpointer` describe; see there.

    Raises:
        ConfigError: An argument is not what it must be.
    """
    with _errors_about("keep_best"):
        if keep.check_count(keep_best) > 1 and monitor is None:
            raise ConfigError(f"keep_best={keep_best} needs a metric to rank by: monitor='val/loss'.")
    scored = monitor is not None and keep_best
    with _errors_about("every"):
        interval = _interval(every)
    with _errors_about("keep_best"):
        best, best_kept = (when.BestValidation(keep_best), keep.Best(keep_best)) if scored else (None, None)
    with _errors_about("keep_last"):
        last = keep.Latest(keep_last)
    with _errors_about("max_time"):
        limit_s = _limit_s(max_time)
    with _errors_about("watchdog"):
        limit = patience.parse(watchdog)
    defaults = {"interval": interval, "best": best, "end": when.AtEnd(), "stop": when.OnStop()}
    chosen = when.check_triggers(_replaced(defaults, triggers))
    point = None if pause_at is None else pause.parse(pause_at)
    if point is not None:
        chosen = _with_pause(chosen, point)
    ruling = keep.check_rules(_replaced({"last": last, "best": best_kept}, rules))
    # Absolute: a script may change the working directory.
    path = Path(directory).expanduser().absolute()
    return Policy(path, chosen, ruling, monitor, mode, limit_s, writing, audit, limit, elastic, point)


def _with_pause(triggers: Mapping[str, when.Trigger], point: PausePoint) -> dict[str, when.Trigger]:
    if not triggers:
        raise ConfigError(
            f"pause_at={point.text!r} needs checkpoints: a run that saves nothing cannot continue after a pause.",
            parameter="pause_at",
        )
    if PAUSE in triggers:
        raise ConfigError(
            f"triggers[{PAUSE!r}]: with pause_at, this is the name of the trigger at the pause. Give yours another one."
        )
    return {**triggers, PAUSE: pause.AtPause(point)}


def _replaced(defaults: Mapping[str, Any], given: Any) -> Any:
    """The defaults with what was given in their place, without what is None; anything but a mapping as it is."""
    if given is not None and not isinstance(given, Mapping):
        return given
    return {name: value for name, value in {**defaults, **(given or {})}.items() if value is not None}


@contextmanager
def _errors_about(argument: str) -> Iterator[None]:
    """Name the argument of the `Checkpointer` in an error, in place of the parameter that it becomes."""
    try:
        yield
    except CairnError as error:
        raise ConfigError(named(error, argument), parameter=argument) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), parameter=argument) from error


def _limit_s(max_time: float | str | timedelta | None) -> float | None:
    if max_time is None:
        return None
    if isinstance(max_time, timedelta):
        seconds = max_time.total_seconds()
    else:
        is_number = isinstance(max_time, int | float) and not isinstance(max_time, bool)
        seconds = float(max_time) if is_number else parse_duration_s(max_time)
    if not 0 < seconds < math.inf:
        raise ConfigError(f"max_time={max_time!r} must be more than 0, and finite; None: no limit.")
    return seconds


def _interval(every: Any) -> Any:
    if isinstance(every, timedelta):
        return when.EveryNSeconds(every.total_seconds())
    if every is None or callable(getattr(every, "due", None)):
        return every
    return when.Every(every)  # refuses what is not an interval either
