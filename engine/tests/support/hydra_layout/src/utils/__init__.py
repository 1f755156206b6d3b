"""What both entry points need."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import hydra
import rich
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf


def pylogger(name: str) -> logging.Logger:
    """Return a logger."""
    return logging.getLogger(name)


def instantiate_all(configs: DictConfig | None) -> list[Any]:
    """Build each entry of a group that has a `_target_`, in their order."""
    entries = [] if configs is None else list(configs.values())
    return [hydra.utils.instantiate(one) for one in entries if isinstance(one, DictConfig) and "_target_" in one]


def metric_value(metrics: Mapping[str, Any], name: str | None) -> float | None:
    """Return the metric that a sweeper optimizes.

    Raises:
        KeyError: It was not logged.
    """
    return None if name is None else metrics[name].item()


def extras(cfg: DictConfig) -> None:
    """Do what the group `extras` asks for."""
    wanted = cfg.get("extras") or {}
    if wanted.get("ignore_warnings"):
        warnings.filterwarnings("ignore")
    if wanted.get("print_config"):
        _print_config(cfg)


@rank_zero_only
def _print_config(cfg: DictConfig) -> None:
    rich.print(OmegaConf.to_yaml(cfg, resolve=True))
