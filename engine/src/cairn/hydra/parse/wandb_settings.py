"""Read the W&B settings from Hydra's configuration, as values for `cairn.wandb`, which does not depend on Hydra."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.sweep import job_name
from cairn.run import config_file
from cairn.store.listener import Listener
from cairn.trackers.settings import ArtifactSettings
from cairn.units import parse_duration_s, parse_size
from cairn.wandb.settings import WandbSettings, logger_key, stored

log = logging.getLogger(__name__)

_KEY = "cairn"
"""Key of Cairn's state in a checkpoint, see `cairn.lightning.saved.unsaved`."""
T = TypeVar("T")


def read(cfg: DictConfig) -> WandbSettings | None:
    """Return the W&B settings of a run.

    Args:
        cfg: The configuration of the run.

    Returns:
        The settings; None if the run does not use Cairn's W&B logger.

    Raises:
        ConfigError: A value is invalid; the message names its key.
    """
    config = _container(cfg)
    key = logger_key(config)
    if key is None:
        return None
    node = config["logger"][key]
    if node.get("project") is not None and node["project"] != config.get("task_name"):
        # The name of the task is made valid later; a project that the user has set is checked, and never changed.
        _keyed(f"logger.{key}", lambda: WandbSettings(project=str(node["project"])))
    settings = _keyed(f"logger.{key}", lambda: stored({**config, "checkpoint": None}))
    assert settings is not None
    return replace(settings, artifacts=artifacts(OmegaConf.create(config.get("checkpoint") or {})))


def artifacts(group: DictConfig) -> ArtifactSettings:
    """Return which checkpoints are uploaded to W&B.

    Args:
        group: The group `checkpoint`.

    Raises:
        ConfigError: A value is invalid; the message names its key.
    """
    plain: dict[str, Any] = OmegaConf.to_container(group, resolve=True)  # type: ignore[assignment]
    return replace(_artifacts(plain), **_limits(plain.get("artifacts")))


def prepare(cfg: DictConfig, run: Path) -> None:
    """Set up W&B's client before the logger is built.

    Args:
        cfg: The configuration of the run.
        run: The run directory.
    """
    if (settings := read(cfg)) is not None:
        from cairn.wandb import environment

        own = (cfg.get("checkpoint") or {}).get("artifacts") or {}
        if own.get("pruned") and own.get("deleted"):
            log.warning("checkpoint.artifacts.pruned is the old name of checkpoint.artifacts.deleted: use the new one.")
        environment.prepare(run, settings.offline)


def logger_arguments(cfg: DictConfig, key: str, run: Path, run_id: str) -> dict[str, Any]:
    """Return the arguments of a logger that come from the run, and not from its configuration.

    Args:
        cfg: The configuration of the run.
        key: Name of the logger in `cfg.logger`.
        run: The run directory.
        run_id: Id of the run.

    Returns:
        Arguments of Cairn's W&B logger; empty for any other logger.
    """
    settings = read(cfg)
    if settings is None or logger_key(_container(cfg)) != key:
        return {}
    from cairn.wandb import run as wandb_run

    sweep, special = sweep_job()
    job = wandb_run.SweepJob(sweep, special) if sweep is not None else None
    return wandb_run.logger_arguments(settings, run, run_id, job)


def sweep_job() -> tuple[Path | None, list[str]]:
    """Return the directory of the sweep and the overrides in which this job differs from the others.

    Returns:
        The directory, and the overrides; None and nothing outside of a sweep.
    """
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or hydra.mode != RunMode.MULTIRUN:
        return None, []
    sweep = Path(hydra.sweep.dir).absolute()
    return sweep, list(job_name.special(hydra.overrides.task, _overrides_of(sweep)))


def listeners(cfg: DictConfig, loggers: Sequence[Any], run: Path, facts: Mapping[str, Any]) -> list[Listener]:
    """Return the listener that uploads checkpoints to W&B, if the run has one.

    Args:
        cfg: The configuration of the run.
        loggers: Loggers of the trainer.
        run: The run directory.
        facts: Facts about the run, to be stored with each checkpoint.

    Returns:
        A list of at most one listener.
    """
    settings = read(cfg) if cfg.get("train") else None
    if settings is None:
        return []
    from cairn.wandb import run as wandb_run

    found = wandb_run.artifacts(settings.artifacts, loggers, run, facts)
    return [found] if found else []


def wait_s(cfg: DictConfig) -> float:
    """Return the maximum time to wait for uploads at the end of a run, in seconds."""
    from cairn.wandb.run import STOP_S

    group = (cfg.get("checkpoint") or {}).get("artifacts")
    return STOP_S if group is None else parse_duration_s(group.wait, name="checkpoint.artifacts.wait")


def known_as(contents: Mapping[str, Any]) -> str:
    """Return the name in W&B of the run that saved a checkpoint. Its project may differ from that of this run.

    Args:
        contents: Contents of the checkpoint.

    Returns:
        `entity/project/id`, without the parts that its configuration does not set; empty if it was not logged to W&B.
    """
    ours = contents.get(_KEY, {})
    try:
        settings = stored(ours.get("config", {}))
    except ConfigError:  # such a run cannot be in W&B
        return ""
    if settings is None:
        return ""
    place = [settings.entity, settings.project] if settings.project else []
    return "/".join([*filter(None, place), settings.id or ours["run"]])


def _container(cfg: DictConfig) -> dict[str, Any]:
    parts = {key: cfg.get(key) for key in ("logger", "checkpoint", "task_name")}
    return {
        key: OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
        for key, part in parts.items()
    }


def _artifacts(group: Mapping[str, Any]) -> ArtifactSettings:
    own = group.get("artifacts")
    if own is None:  # the run was started before this setting existed
        return ArtifactSettings("none")
    deleted: Any = own.get("pruned") or own.get("deleted") or "delete"
    found = _keyed("checkpoint.artifacts", lambda: ArtifactSettings(own["which"], own["every"], deleted))
    # A run that saves nothing uploads nothing. `deleted` still applies to the checkpoints that are already in W&B.
    return found if group.get("triggers") else replace(found, which="none")


def _limits(group: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the limits of uploads: the size of the queue and the time to wait."""
    if group is None:
        return {}
    queue, wait = group.get("queue"), group.get("wait", "10min")
    return {
        "queue_bytes": None if queue is None else _keyed("checkpoint.artifacts.queue", lambda: parse_size(queue)),
        "wait_s": _keyed("", lambda: parse_duration_s(wait, name="checkpoint.artifacts.wait")),
    }


def _keyed(key: str, make: Callable[[], T]) -> T:
    """Return what `make` returns; put the key of the configuration in front of the message of its error."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}" if key else str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from error


def _overrides_of(sweep: Path) -> list[str]:
    """Return the overrides of the command that started a sweep; empty if its sweeper has not written them."""
    file = sweep / "multirun.yaml"
    found = config_file.read_any(file) if file.is_file() else None
    for key in ("hydra", "overrides", "task"):
        found = found.get(key) if isinstance(found, dict) else None
    return [str(item) for item in found] if isinstance(found, list) else []
