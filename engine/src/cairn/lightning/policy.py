"""What the arguments of a `Checkpointer` mean: triggers and keep rules by name, each checked where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from cairn.errors import ConfigError
from cairn.policy import keep, when
from cairn.types import Mode
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

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode={self.mode!r} must be min (lower is better) or max.", parameter="mode")
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
) -> Policy:
    """Make the policy that the arguments of a `Checkpointer` describe; see there.

    Raises:
        ConfigError: An argument is not what it must be.
    """
    if not str(directory):
        raise ConfigError("directory='' must name the directory of the checkpoints.")
    try:
        named: dict[str, Any] = {"interval": _interval(every)}
        named |= {"best": when.BestValidation(keep_best) if monitor is not None and keep_best else None}
        named |= {"end": when.AtEnd(), "stop": when.OnStop()} | dict(triggers or {})
        kept: dict[str, Any] = {"last": keep.Latest(keep_last)}
        kept |= {"best": keep.Best(keep_best) if monitor is not None and keep_best else None} | dict(rules or {})
        if isinstance(max_time, timedelta):
            max_time = max_time.total_seconds()
        limit_s = None if max_time is None else parse_duration_s(max_time)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    chosen = when.check_triggers({name: trigger for name, trigger in named.items() if trigger is not None})
    ruling = keep.check_rules({name: rule for name, rule in kept.items() if rule is not None})
    return Policy(Path(directory), chosen, ruling, monitor, mode, limit_s, writing)


def _interval(every: int | str | when.Trigger | None) -> Any:
    if isinstance(every, timedelta):
        return when.EveryNSeconds(every.total_seconds())
    return when.Every(every) if isinstance(every, int | float | str) else every
