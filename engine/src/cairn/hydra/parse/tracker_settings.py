"""What loggers of other trackers than W&B get from a run: its id, its name, and the listener for its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.parse import wandb_settings
from cairn.mlflow import target as mlflow
from cairn.store.listener import Listener
from cairn.trackers.secrets import SECRET, keys_with_secrets
from cairn.trackio import target as trackio

_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "cairn.mlflow.MLFlowLogger": lambda node: mlflow.target(node.get("tracking_uri"), Path()),
    "cairn.trackio.TrackioLogger": lambda node: trackio.target(node.get("server_url"), None, Path()),
}
"""What the constructors of our loggers check first."""


def check_addresses(loggers: Mapping[str, Any]) -> None:
    """Check that no logger has an address with a password or a token: the configuration is stored and logged.

    Args:
        loggers: Nodes of the loggers, by name.

    Raises:
        ConfigError: One has.
    """
    for name, node in loggers.items():
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for key in keys_with_secrets(plain, f"logger.{name}"):
            raise ConfigError(SECRET.format(key=key))


def check_installed(loggers: Mapping[str, Any]) -> None:
    """Check that the packages of MLflow and Trackio are installed, before anything is recorded.

    Args:
        loggers: Nodes of the loggers, by name.

    Raises:
        ConfigError: One is missing.
    """
    for name, node in loggers.items():
        check = _CHECKS.get(str(node.get("_target_"))) if isinstance(node, Mapping) else None
        if check is not None:
            try:
                check(node)
            except ConfigError as error:
                raise ConfigError(f"logger.{name}: {error}") from error


def logger_arguments(node: DictConfig, target: Any, run: Path, run_id: str) -> dict[str, Any]:
    """Return the arguments of a logger that come from the run, and not from its configuration.

    Args:
        node: Node of the logger.
        target: Its class.
        run: The run directory.
        run_id: Id of the run.

    Returns:
        Arguments of a logger for MLflow or Trackio; empty for any other logger.
    """
    from cairn.trackers.logger import RowLogger  # imports torch, which parsing avoids

    if not (isinstance(target, type) and issubclass(target, RowLogger)):
        return {}
    sweep, special = wandb_settings.sweep_job()
    found = {"id": node.get("id") or run_id, "name": node.get("name") or " ".join(special) or run.name}
    if "group" in node:
        found["group"] = node.get("group") or (f"{sweep.parent.name}-{sweep.name}" if sweep else None)
    return found


def check_distinct(loggers: Mapping[str, Any]) -> None:
    """Check that no two loggers have the same journal.

    Args:
        loggers: The loggers, by name.

    Raises:
        ConfigError: Two have.
    """
    seen: dict[Path, str] = {}
    for name, logger in loggers.items():
        folder = getattr(logger, "folder", None)
        if isinstance(folder, Path) and (other := seen.setdefault(folder, name)) != name:
            raise ConfigError(
                f"logger.{other} and logger.{name} would write to the same files in {folder}: give one of them another "
                f"save_dir, such as save_dir=${{paths.output_dir}}/{name}."
            )


def listeners(cfg: DictConfig, loggers: Sequence[Any], run: Path, facts: Mapping[str, Any]) -> list[Listener]:
    """Return the listeners that upload checkpoints to MLflow and Trackio, if the run has such loggers.

    Args:
        cfg: The configuration of the run.
        loggers: Loggers of the trainer.
        run: The run directory.
        facts: Facts about the run, to be stored with each checkpoint.
    """
    from cairn.trackers.logger import RowLogger

    found = wandb_settings.artifacts(cfg.get("checkpoint") or OmegaConf.create())
    if not cfg.get("train") or found.which == "none":
        return []
    known = {key: facts[key] for key in ("git_commit", "started_from") if key in facts}
    return [logger.listener(found, run, known) for logger in loggers if isinstance(logger, RowLogger)]
