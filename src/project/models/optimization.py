"""Decides what Lightning gets from the specs of an optimizer and a scheduler."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cairn.errors import ModelError
from cairn.targets import build

_DEFAULT_MONITOR = "val/loss"


def optimization(module: LightningModule, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """What `configure_optimizers` returns, for all parameters of the module.

    Args:
        module: whose parameters are optimized; its trainer is asked for the number of steps, if a scheduler
        needs it. optimizer: a spec with `_partial_: true`, or a callable that takes the parameters.
        scheduler: a spec with `_partial_: true`, or a callable that takes the optimizer, or None; or a
        mapping that
            has one of these under `scheduler`, and beside it Lightning's `interval`, `frequency`, `monitor`,
            ... A `total_steps` of None becomes the number of optimizer steps of the whole training. A plateau
            scheduler watches val/loss unless `monitor` says otherwise.

    Raises:
        ValueError: if `total_steps` is None and the training has no known end.
    """
    made = build(optimizer, Optimizer)(module.parameters())
    if scheduler is None:
        return {"optimizer": made}
    is_bare = not isinstance(scheduler, Mapping) or "_target_" in scheduler
    options: dict[str, Any] = {"scheduler": scheduler} if is_bare else dict(scheduler)
    options["scheduler"] = _with_total_steps(build(options["scheduler"], LRScheduler), module)(made)
    if isinstance(options["scheduler"], ReduceLROnPlateau) and options.get("monitor") is None:
        options["monitor"] = _DEFAULT_MONITOR
    return {"optimizer": made, "lr_scheduler": options}


def _with_total_steps(make: Any, module: LightningModule) -> Any:
    keywords = make.keywords if isinstance(make, functools.partial) else {}
    if "total_steps" not in keywords or keywords["total_steps"] is not None:
        return make
    num_steps = module.trainer.estimated_stepping_batches
    if not math.isfinite(num_steps):
        raise ModelError(
            f"{make.func.__name__} needs total_steps, and this training has no known end: set total_steps of"
            " the scheduler, or trainer.max_steps."
        )
    return functools.partial(make, total_steps=int(num_steps))
