"""What a run changes in its process, which the next job of a sweep may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def restored() -> Iterator[None]:
    """Remove what DDP and trackers leave in the process."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        names = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"}
        names |= {name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))}
        for name in names:
            os.environ.pop(name, None) if name not in before else os.environ.update({name: before[name]})
