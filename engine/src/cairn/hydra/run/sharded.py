"""What a run with `cairn.FSDP2Strategy` does otherwise: it builds the model with data on rank 0 only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from cairn.errors import ConfigError
from cairn.hydra.run.start import Start
from cairn.lightning.fsdp.strategy import FSDP2Strategy
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


def batch_number(trainer: Trainer) -> int:
    """Return which batches this process gets: processes of one tensor-parallel group get the same, with one seed.

    Args:
        trainer: The trainer, before its processes have met.
    """
    strategy = trainer.strategy
    together = strategy.sizes[1] if isinstance(strategy, FSDP2Strategy) else 1
    return trainer.global_rank // together


def built(start: Start, build: Callable[[], M]) -> M:
    """Build the model: without data where `trainer.strategy.meta_init` is set and another rank sends the values.

    Args:
        start: The start of the run.
        build: Builds the model.
    """
    node = _strategy(start.settings.trainer.node)
    if start.is_main or not node.get("meta_init"):
        return build()
    if node.get("tensor_parallel_size", 1) != 1:  # configure_model() divides the values on each process
        log.info("meta_init: with tensor parallelism, the model is built with data on each process.")
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
