"""Collects the state of all ranks at a boundary: first what may fail on one of them, then what all do together.

    each rank   hooks, states of callbacks, loaders and optimizers; digests of them     code of the user
                did any rank fail?  -->  all of them fail
    all ranks   digests of rank 0, tensors that are divided, states of the ranks        collective calls

A rank that fails between two collective calls would leave the others waiting in the second one, for a rank that waits
for them. So a state that is dumped holds stand-ins for tensors that are divided, and no call of the user's code lies
between collective calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from cairn.errors import ConfigError
from cairn.lightning.agreement import Agreement, Alone, together
from cairn.lightning.fsdp import strategy as fsdp
from cairn.lightning.fsdp.strategy import FSDP2Strategy
from cairn.lightning.loops import boundary
from cairn.lightning.reading import modules
from cairn.lightning.saved import placed, pruning, ranks, sums, unsaved
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded import rows

_OTHER_TENSORS = (
    "The ranks have different weights, gradients or optimizer states, so they cannot be collected: train the same "
    "parameters on each rank."
)


@dataclass(frozen=True)
class Collected:
    """The state at a boundary.

    Attributes:
        contents: What Lightning saves, with references to live tensors; complete on rank 0.
        ranks: What each rank adds, in order, on rank 0; what this rank adds, if it writes a shard.
        lazy: Names of parameters without a shape.
        attributes: What the audit compares on a resume.
    """

    contents: dict[str, Any]
    ranks: list[dict[str, Any]]
    lazy: Any
    attributes: dict[str, Any]


def collect(
    trainer: Trainer,
    place: boundary.Place,
    epoch_start: Mapping[str, Any] | None,
    audit: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    agreement: Agreement,
    is_sharded: bool = False,
) -> Collected:
    """Collect the state of all ranks. Every rank must call this; it raises an error on all of them or on none.

    Args:
        trainer: The trainer, at a boundary.
        place: Which of the two kinds of boundary this is.
        epoch_start: See `Restart.epoch_start`.
        audit: Compares the attributes of this rank with its contents; see `Audit.at_save`.
        agreement: Between the ranks.
        is_sharded: Each rank keeps what it adds to a checkpoint, which goes into its shard: `ranks` holds only that.

    Raises:
        ConfigError: A hook of another rank has raised an error, or the ranks have other tensors.
    """
    epoch = {"epoch_start": epoch_start} if place == "batch" and epoch_start is not None else {}
    strategy, form = fsdp.divided(trainer), [0, 0]
    gradients = dict[str, Tensor]()
    digests: ranks.Digests = {}
    with _consolidated(trainer), together(agreement, "The state", "saved", form):
        contents = _dumped(trainer, place, strategy)
        lazy = unsaved.lazy(contents["state_dict"])
        contents["state_dict"] = unsaved.without(contents["state_dict"], lazy)
        with modules.unchanging(trainer.lightning_module):  # no hook of the user is called
            mine = rank_state(trainer) | epoch
            attributes = audit(place, contents)
        if not isinstance(agreement, Alone):
            digests = ranks.digests({**contents, unsaved.KEY: {"attributes": attributes}})
        if strategy is not None:
            gradients = _gradients(trainer)
            if not is_sharded:
                rows.deal(contents, strategy.rows)  # raises if a hook has made something else of a stand-in
            collected = [] if is_sharded else [item.whole for item in strategy.rows]
            form[:] = _form([*collected, *gradients.values()], list(gradients))
    if form[0] != -form[1]:
        raise ConfigError(_OTHER_TENSORS)
    if strategy is not None:
        contents = contents if is_sharded else placed.filled(contents, strategy.collected())
        whole = placed.converted(gradients, placed.whole(agreement.leads))
        mine |= {"gradients": whole if agreement.leads else None}  # they are those of rank 0
    if isinstance(agreement, Alone):
        return Collected(contents, [mine], lazy, attributes)
    of_rank_0 = agreement.share(digests if agreement.leads else {})
    if not agreement.leads:
        own = {**contents, unsaved.KEY: {"attributes": attributes}}
        mine |= {ranks.OWN: ranks.own(own, digests, of_rank_0)}
    return Collected(contents, [mine] if is_sharded else _gathered(mine, agreement), lazy, attributes)


def rank_state(trainer: Trainer) -> dict[str, Any]:
    """Return what each rank adds to a checkpoint."""
    module = trainer.lightning_module
    return {
        "rng": unsaved.rng_state(),
        "counters": boundary.counters(trainer),
        "logged": sums.logged(trainer),
        "metrics": sums.metrics(module),
        "modes": unsaved.modes(module),
        "pruning": pruning.state(trainer),
        "buffers": unsaved.buffers(module, every=trainer.world_size > 1),
        # Those that are divided are collected by all ranks together.
        "gradients": {} if fsdp.divided(trainer) else placed.converted(_gradients(trainer), placed.whole(keep=True)),
        "sync": boundary.sync_flags(trainer),
        **boundary.virtual_state(trainer),
        # Lightning saves the states of callbacks on rank 0 only.
        "callbacks": boundary.callback_states(trainer) if trainer.global_rank > 0 else {},
    }


def _dumped(trainer: Trainer, place: boundary.Place, strategy: FSDP2Strategy | None) -> dict[str, Any]:
    if strategy is None:
        return boundary.dump(trainer, place)
    with strategy.in_shards():
        try:
            return boundary.dump(trainer, place)
        except (RuntimeError, NotImplementedError) as error:
            if not placed.lacks_values(error):
                raise
            raise ConfigError(placed.NO_VALUES) from error


@contextmanager
def _consolidated(trainer: Trainer) -> Iterator[None]:
    """Collect the states of a `ZeroRedundancyOptimizer` on rank 0; in the context, Lightning does not do it again."""
    parted = [item for item in trainer.optimizers if hasattr(item, "consolidate_state_dict")]
    for item in parted:
        item.consolidate_state_dict()
        vars(item)["consolidate_state_dict"] = lambda *_, **__: None
    try:
        yield
    finally:
        for item in parted:
            del vars(item)["consolidate_state_dict"]


def _gradients(trainer: Trainer) -> dict[str, Tensor]:
    module = trainer.lightning_module
    return {} if module.automatic_optimization else unsaved.gradients(module)


def _form(divided: Sequence[Tensor], names: Sequence[str]) -> tuple[int, int]:
    """Return two numbers. The largest ones of all ranks are opposite only if the ranks have equal names and forms."""
    forms = repr([(item.dtype, tuple(item.shape)) for item in divided])
    digest = hashlib.blake2b(f"{forms} {list(names)}".encode(), digest_size=7).digest()
    number = int.from_bytes(digest, "big")
    return number, -number


def _gathered(mine: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """Return what all ranks add, in order, on rank 0."""
    with together(agreement, "The state", "saved"):
        if not agreement.leads:
            # Values of the user: one that cannot be saved is named here, because it could not be sent either.
            FormEncoder().encode({name: mine[name] for name in (ranks.OWN, "callbacks")})
        # Unpickling puts a tensor on the GPU that it came from. Rank 0 would create a context on each GPU, and copy
        # slowly.
        sent = move_data_to_device(mine, torch.device("cpu"))
    return agreement.gather(sent)
