"""Read the settings of the mirror from Hydra's configuration, as values for `cairn.remote`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError, named
from cairn.hydra.parse import mirror_address
from cairn.remote.mirror import Mirror
from cairn.remote.settings import ALL, MirrorSettings
from cairn.store.listener import Listener
from cairn.testing import proof_run
from cairn.units import parse_duration_s, parse_size

_KEYS = {
    "every": "checkpoint.mirror_every",
    "keep": "checkpoint.mirror_keep",
    "queue_bytes": "checkpoint.mirror_queue",
    "wait_s": "checkpoint.mirror_wait",
    "grace_s": "checkpoint.mirror_grace",
}


def read(group: DictConfig) -> MirrorSettings:
    """Return which checkpoints are mirrored; a run from before there were mirrors has the defaults.

    Args:
        group: The group `checkpoint`.

    Raises:
        ConfigError: A value is invalid; the message names its key.
    """
    found: Any = OmegaConf.to_container(group, resolve=True)
    given = {key: found[f"mirror_{key}"] for key in ("every", "keep", "queue", "wait", "grace") if _has(found, key)}
    values: dict[str, Any] = {key: given[key] for key in ("every", "keep") if key in given}
    if values.get("keep") == "all":
        values["keep"] = ALL
    try:
        if "queue" in given:
            values["queue_bytes"] = None if given["queue"] is None else _size(given["queue"])
        for key in ("wait", "grace"):
            if key in given:
                values[f"{key}_s"] = parse_duration_s(given[key], name=f"checkpoint.mirror_{key}")
        return MirrorSettings(**values)
    except ConfigError as error:
        raise ConfigError(named(error, _KEYS.get(error.parameter, error.parameter))) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def writes(config: DictConfig) -> bool:
    """Return whether a run with this configuration uploads to its mirror."""
    trains, trainer = config.get("train"), config.get("trainer") or {}
    return bool(trains and config.checkpoint.get("triggers") and not trainer.get("fast_dev_run"))


def listeners(config: DictConfig, run: Path, trouble: str = "") -> list[Listener]:
    """Return the listener that mirrors checkpoints, if the run has a mirror.

    Args:
        config: The configuration of the run.
        run: The run directory.
        trouble: Why this start could not reach the mirror; empty: it could.

    Returns:
        A list of at most one listener.

    Raises:
        ConfigError: `checkpoint.mirror` is not an address.
    """
    where = mirror_address.of_run(config, run) if proof_run.current() is None else None
    if where is None or not writes(config):
        return []
    return [Mirror.with_settings(where, read(config.checkpoint), run, trouble)]


def limits_s(config: DictConfig) -> tuple[float, float]:
    """Return the maximum time that the end of a run waits for its mirror, and the end of a stopped run; 0 without one.

    Args:
        config: The configuration of the run.
    """
    group = config.get("checkpoint")
    if group is None or not group.get("mirror"):
        return 0.0, 0.0
    settings = read(group)
    return settings.wait_s, settings.grace_s


def _has(group: dict[str, Any], key: str) -> bool:
    return f"mirror_{key}" in group


def _size(value: Any) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise ConfigError(f"checkpoint.mirror_queue: {error}") from error
