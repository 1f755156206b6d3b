"""Batches exchange nothing: with virtual ranks, how many of them are worked on at a time depends on the processes.

A sum over all processes in a `training_step`, such as `all_gather` for a contrastive loss, is one over two batches on
two processes and over one batch on one process, and processes with fewer virtual ranks than others would wait for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import distributed as dist
from torch.distributed import _functional_collectives

from cairn.errors import ConfigError
from cairn.lightning.bits.seen import FRAMEWORKS

_OF_GROUPS = [
    "allreduce",
    "allreduce_coalesced",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "_allgather_base",
    "all_gather_single",
    "all_to_all_single",
    "alltoall",
    "alltoall_base",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_single",
    "scatter",
]
"""Collective calls of a process group, by torch's names."""
_FUNCTIONS = [
    "all_gather_single",
    "all_gather_single_autograd",
    "all_gather_tensor",
    "all_gather_tensor_autograd",
    "all_reduce",
    "all_to_all_single",
    "all_to_all_single_autograd",
    "broadcast",
    "reduce_scatter_single",
    "reduce_scatter_single_autograd",
    "reduce_scatter_tensor",
    "reduce_scatter_tensor_autograd",
]
"""Those that return a new tensor, which do not call a process group in Python."""
_OF_PLACES = ["rank", "size"]
"""Those of a process group that say where this process is."""
_ASKING = {"get_rank", "get_world_size", "_get_group_size"}
"""Functions of torch that call them for others."""
_OF_STRATEGY = "all_gather"
"""That of Lightning, which leaves a single process as it is: the run may move to more."""
_PASSED_ON = ("torch.distributed.distributed_c10d", "torch.distributed.c10d_logger", "torch.utils.", "contextlib")
_MAY = (
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed._composable",
    "torch.nn.parallel",
    "cairn.",
)
"""They gather parameters, or belong to this package."""


@contextmanager
def refused(trainer: Trainer) -> Iterator[None]:
    """Context of a batch, in which collective calls are an error, unless they gather its parameters.

    Raises:
        ConfigError: Code makes one. The message names it. Or it stops the run, on this process alone.
    """
    strategy, is_stopping = cast(Any, trainer.strategy), trainer.should_stop
    for owner, name, _, guarded in _calls():
        setattr(owner, name, guarded)
    setattr(strategy, _OF_STRATEGY, _refuse)
    try:
        yield
        if trainer.should_stop and not is_stopping:
            raise ConfigError(
                "A batch has set trainer.should_stop, and with elastic='bits' the virtual ranks that have trained by"
                " then depend on the number of processes: set it in a hook of the step, such as"
                " on_before_optimizer_step, from values of trainer.callback_metrics, or use EarlyStopping.",
                parameter="elastic",
            )
    finally:
        for owner, name, call, _ in _calls():
            setattr(owner, name, call)
        vars(strategy).pop(_OF_STRATEGY, None)


@cache
def _calls() -> list[tuple[Any, str, Any, Any]]:
    """Return owner and name of each call, the call, and one that is guarded."""
    owners: list[tuple[Any, list[str]]] = [
        (dist.ProcessGroup, _OF_GROUPS),
        (_functional_collectives, _FUNCTIONS),
    ]
    known = [(owner, name) for owner, names in owners for name in names if name in vars(owner)]
    found = [(owner, name, vars(owner)[name], _guarded(name, vars(owner)[name])) for owner, name in known]
    places = [(name, vars(dist.ProcessGroup)[name]) for name in _OF_PLACES]
    return found + [(dist.ProcessGroup, name, call, _noticed(call)) for name, call in places]


def _guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _caller().startswith(_MAY):
            raise _refusal(name)
        return call(*args, **kwargs)

    return guarded


def _noticed(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def noticed(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_name in _ASKING:
            frame = frame.f_back
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in FRAMEWORKS:
            _warn_of_places()
        return call(*args, **kwargs)

    return noticed


@cache
def _warn_of_places() -> None:
    rank_zero_warn(
        "A batch asks torch.distributed for its rank or for the number of processes. If its loss depends on them,"
        " elastic='bits' cannot keep its promise: use self.global_rank and self.trainer.world_size, which are those of"
        " virtual ranks."
    )


def _caller() -> str:
    """Return the module of the code that calls torch."""
    frame = sys._getframe(2)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(_PASSED_ON):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _refuse(*_: Any, **__: Any) -> Any:
    raise _refusal(_OF_STRATEGY)


def _refusal(name: str) -> ConfigError:
    return ConfigError(
        f"A batch exchanges values with other processes ({name}), and elastic='bits' works on the batches of as many"
        f" virtual ranks at a time as there are processes, so the result depends on their number: compute it from the"
        f" batch alone, or use elastic='samples'.",
        parameter="elastic",
    )
