"""What a run with `cairn.FSDP2Strategy` does otherwise: it builds the model with data on rank 0 only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cairn.errors import ConfigError
from cairn.hydra.run.start import Start
from cairn.targets import TARGET

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
_SCALED = ("16-mixed", "16", 16)


def check(node: Mapping[str, Any]) -> None:
    """Check the arguments of the trainer before Lightning does, whose message speaks of something else.

    Raises:
        ConfigError: The precision needs a scaler of the loss.
    """
    if _strategy(node) and node.get("precision") in _SCALED:
        raise ConfigError(
            "trainer.precision=16-mixed scales the loss, which sharded parameters do not support: use bf16-mixed, which"
            " needs no scaling, or 32-true."
        )


def built(start: Start, build: Callable[[], M]) -> M:
    """Build the model: without data where `trainer.strategy.meta_init` is set and another rank sends the values.

    Args:
        start: The start of the run.
        build: Builds the model.
    """
    if start.is_main or not _strategy(start.settings.trainer.node).get("meta_init"):
        return build()
    try:
        with torch.device("meta"):
            model = build()
        why = _lost(model)
    except Exception as error:  # the user's code reads a value, which a tensor without data does not have
        why = f"{type(error).__name__}: {error}"
    if not why:
        return model
    log.info("meta_init: this model is built with data on each process, because it needs its values (%s).", why)
    return build()


def _strategy(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node of the strategy, if it is the one that shards; else an empty one."""
    found = node.get("strategy")
    is_ours = isinstance(found, Mapping) and str(found.get(TARGET, "")).endswith("FSDP2Strategy")
    return found if is_ours else {}  # type: ignore[return-value]


def _lost(model: nn.Module) -> str:
    """Return the name of a tensor without data that is neither parameter nor buffer, so that nothing fills it."""
    for name, part in model.named_modules():
        for leaf, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                return f"{name}.{leaf} is a plain tensor".lstrip(".")
    return ""
