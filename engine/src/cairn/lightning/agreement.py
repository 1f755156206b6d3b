"""WHO DECIDES: a stop that reaches any rank stops all of them, and rank 0 has something to tell or has not."""

from __future__ import annotations

import signal

import torch
from lightning.pytorch.strategies import Strategy

TIME_LIMIT = "max_time"
JOB_TIME_LIMIT = "job_time_limit"
_STOPS = [None, *(item.name for item in signal.Signals), TIME_LIMIT, JOB_TIME_LIMIT]


def meet(strategy: Strategy, stop: str | None, special: bool) -> tuple[str | None, bool]:
    """What holds for all ranks; each of them calls this at each boundary, at the price of one small reduction.

    Args:
        strategy: of the trainer.
        stop: why this rank is to stop: the name of a signal, or one of the limits above.
        special: this rank has something to tell the others.

    Returns:
        why all are to stop, and whether one of them has something to tell.
    """
    told = torch.tensor([_STOPS.index(stop), special], device=strategy.root_device)
    number, anything = torch.Tensor.tolist(strategy.reduce(told, reduce_op="max"))
    return _STOPS[number], bool(anything)
