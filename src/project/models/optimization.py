"""The optimizer and the learning-rate scheduler of a model, in the form that Lightning expects."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cairn.errors import ModelError

# In YAML, a factory is a node with `_partial_: true`: Hydra makes a functools.partial of it.
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


def optimization(
    module: LightningModule,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the return value of `configure_optimizers`, for all parameters of a module.

    Args:
        module: Module whose parameters are optimized.
        optimizer: Takes the parameters, returns the optimizer.
        scheduler: Takes the optimizer, returns a scheduler that steps once per epoch. For other options, a mapping
            as Lightning's `lr_scheduler_config`: this factory under `scheduler`, and `interval`, `frequency` and
            `monitor` (`val/loss` by default). If `total_steps` of the factory is None, the number of optimizer steps
            of the whole training is filled in.

    Returns:
        The dictionary that Lightning documents under `configure_optimizers`.

    Raises:
        ValueError: `total_steps` is None and the length of the training is unknown.
    """
    built = optimizer(module.parameters())
    if scheduler is None:
        return {"optimizer": built}
    given = scheduler if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
    options = {**given, "monitor": given.get("monitor") or "val/loss"}  # for a ReduceLROnPlateau; others ignore it
    options["scheduler"] = _with_total_steps(options["scheduler"], module)(built)
    return {"optimizer": built, "lr_scheduler": options}


def _with_total_steps(factory: Any, module: LightningModule) -> Any:
    arguments = factory.keywords if isinstance(factory, functools.partial) else {}
    if arguments.get("total_steps", 0) is not None:
        return factory
    num_steps = module.trainer.estimated_stepping_batches
    if not math.isfinite(num_steps):
        raise ModelError(
            f"{factory.func.__name__} needs the number of optimizer steps, but the length of the training is unknown: "
            "set total_steps of the scheduler, or trainer.max_steps."
        )
    return functools.partial(factory, total_steps=int(num_steps))
