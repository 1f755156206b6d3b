"""State of each rank in a checkpoint, dealt out to another number of ranks.

    generators          ranks that there were keep theirs; more ranks get new ones, a function of the checkpoint
    sums of an epoch    added up on rank 0; the others begin with nothing
    metrics             as their own reductions combine them: sums and lists on rank 0, the others begin with nothing
    everything else     that of rank 0

With elastic="bits", each virtual rank has sums and metrics of its own, which go to the process that plays it now.

What an epoch has summed up so far is the same on all ranks together, before and after.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from cairn.data import parallel
from cairn.data.seeding import mix_seed, seeded
from cairn.errors import ResumeError
from cairn.lightning.loops import moved
from cairn.lightning.loops.moved import SavedBy
from cairn.lightning.saved import ranks, sums, unsaved

log = logging.getLogger(__name__)

State = dict[str, Any]


class RankStates:
    """The states of the ranks in the checkpoint that a fit begins with.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._saved: list[State] = []

    def load(self, checkpoint: dict[str, Any]) -> SavedBy:
        """Let each rank have a state, for the time being that of rank 0 if there is another number of ranks.

        Args:
            checkpoint: Its contents.

        Returns:
            The processes that have saved it.

        Raises:
            ResumeError: See `moved.check_mesh`.
        """
        ours, number = checkpoint[unsaved.KEY], self._trainer.world_size
        self._saved, saved_by = ours["ranks"], _saved_by(checkpoint)
        moved.check_mesh(saved_by, number, parallel.num_together())
        if len(self._saved) != number:
            ours["ranks"] = [self._saved[0]] * number
        return saved_by

    def restore(self, ours: dict[str, Any]) -> None:
        """Deal out the states, right before they are restored: the metrics of the module are there.

        Raises:
            ResumeError: See `of_rank`.
        """
        saved, self._saved = self._saved, []
        rank = self._trainer.global_rank
        if len(saved) != len(ours["ranks"]):
            ours["ranks"][rank] = of_rank(saved, self._trainer)
        elif saved and "virtual" in saved[0]:  # a process may play other virtual ranks than before: see bits/sharded.py
            found = _of_virtual_ranks(saved)
            logged = {**saved[rank]["logged"], "entries": found["logged"]["entries"]}
            ours["ranks"][rank] = {**saved[rank], "logged": logged, "virtual": found["virtual"]}


def _saved_by(checkpoint: Mapping[str, Any]) -> SavedBy:
    ours = checkpoint[unsaved.KEY]
    loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader") or [None]
    first = loaders[0] if isinstance(loaders[0], Mapping) else {}
    size, mesh = first.get("batch_size"), ours.get(moved.MESH)
    return SavedBy(
        len(ours["ranks"]),
        ours.get("global_batch_size"),
        ours["accumulate_grad_batches"],
        size if isinstance(size, int) and "world_size" in first else None,
        tuple(mesh) if mesh else None,
    )


def of_rank(saved: Sequence[State], trainer: Trainer) -> State:
    """Return the state of this rank.

    Args:
        saved: States of the ranks that have saved the checkpoint.
        trainer: The trainer, with another number of ranks.

    Raises:
        ResumeError: A metric has a state that only the same number of ranks can go on with.
    """
    rank, first = trainer.global_rank, saved[0]
    _warn_of_own(saved)
    if "virtual" in first:
        return _of_virtual_ranks(saved)
    return {
        **first,
        "rng": saved[rank]["rng"] if rank < len(saved) else _new_generators(first["rng"], rank),
        "logged": {**first["logged"], "entries": _entries([state["logged"]["entries"] for state in saved], rank)},
        "metrics": _metrics([state["metrics"] for state in saved], trainer.lightning_module, rank),
    }


def _of_virtual_ranks(saved: Sequence[State]) -> State:
    first = saved[0]
    found: State = {}
    for state in saved:
        for name, turns in state["virtual"].items():
            found[name] = [*found.get(name, []), *turns]
    entries: State = {}
    for state in saved:
        for key, entry in state["logged"]["entries"].items():
            known = entries.setdefault(key, dict(entry))
            known["has_reset"] = known["has_reset"] and entry["has_reset"]  # logged in this epoch by one of them
    return {**first, "logged": {**first["logged"], "entries": entries}, "virtual": found}


def _warn_of_own(saved: Sequence[State]) -> None:
    found = [path for state in saved for path, _ in state.get(ranks.OWN, []) if not ranks.is_part(path)]
    paths = sorted({".".join(map(str, path)) for path in found if path[0] != unsaved.KEY})  # ours: the audit's findings
    callbacks = sorted({name for state in saved[1:] for name in state["callbacks"]} if len(saved) > 1 else ())
    if paths:
        rank_zero_warn(
            f"Each of the {len(saved)} processes that saved the checkpoint had its own {', '.join(paths[:5])}: all"
            f" processes of this run continue with that of process 0."
        )
    if callbacks:
        log.info("States of callbacks are those of process 0: %s.", ", ".join(callbacks))


def _new_generators(of_rank_0: Mapping[str, Any], rank: int) -> State:
    digest = hashlib.blake2b(of_rank_0["torch"].cpu().numpy().tobytes(), digest_size=7).digest()
    seed = mix_seed(int.from_bytes(digest, "big"), rank)
    with seeded(seed):
        found = unsaved.rng_state()
    if "cuda" in found:
        found["cuda"] = torch.Generator("cuda").manual_seed(seed).get_state()
    return found


# What `self.log` has collected

_COMBINED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "sum": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _entries(saved: Sequence[Mapping[str, State]], rank: int) -> dict[str, State]:
    found = {key: dict(entry) for entries in reversed(saved) for key, entry in entries.items()}  # rank 0 counts
    for key, entry in found.items():
        if not entry["is_tensor"] or not entry["on_epoch"]:  # the state of a metric, or only the latest value
            continue
        combine = _COMBINED[entry["reduce"][1]]
        of_ranks = [entries[key] for entries in saved if key in entries]
        for name, by in (("value", combine), ("cumulated_batch_size", torch.add)):
            if name in entry:
                entry[name] = _folded([one[name] for one in of_ranks], by)
        if rank > 0 and combine is torch.add:
            entry |= {
                name: torch.zeros_like(entry[name]) for name in ("value", "cumulated_batch_size") if name in entry
            }
    return found


def _folded(values: Sequence[Tensor], combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    total = values[0].cpu()
    for value in values[1:]:
        total = combine(total, value.cpu())
    return total


# Objects of torchmetrics


def _metrics(saved: Sequence[Mapping[str, State]], module: LightningModule, rank: int) -> dict[str, State]:
    empty = sums.metrics(module)  # no batch was trained on in this process
    return {
        name: _metric(name, [metrics[name] for metrics in saved], empty[name], module.get_submodule(name), rank)
        for name in saved[0]
    }


def _metric(name: str, saved: Sequence[State], empty: State, metric: Any, rank: int) -> State:
    first = saved[0]
    if not any(_differs(state, empty) or state["caches"]["_update_count"] for state in saved):
        return first
    assert isinstance(metric, Metric)
    _check_plain(name, saved, empty)
    found: State = {}
    for key in first["states"]:
        reduction = metric._reductions.get(key)
        combine = _REDUCED.get(reduction)
        values = [state["states"][key] for state in saved]
        if isinstance(values[0], list) and reduction in (None, dim_zero_cat):
            found[key] = [item for value in values for item in value] if rank == 0 else []
        elif combine is None:
            raise ResumeError(
                f"The metric {name} combines {key!r} of the processes in its own way, so its values up to the middle of"
                f" this epoch mean nothing to another number of them. {_same_number(saved)}"
            )
        else:
            found[key] = combine([value.cpu() for value in values], metric._defaults[key], rank)
    caches = {**first["caches"], "_computed": None}
    caches["_update_count"] = max(state["caches"]["_update_count"] for state in saved)
    return {**first, "states": found, "caches": caches}


def _differs(state: State, empty: State) -> bool:
    """Whether a metric that counts no updates has something in it: some wrappers do not count them."""
    return any(
        not _equal(value, empty[kind].get(key)) for kind in ("states", "plain") for key, value in state[kind].items()
    )


def _check_plain(name: str, saved: Sequence[State], empty: State) -> None:
    for key, value in empty["plain"].items():
        others = [state["plain"].get(key) for state in saved]
        if key not in {*_OF_CACHES, *empty["states"]} and any(not _equal(value, other) for other in others):
            raise ResumeError(
                f"The metric {name} has changed its attribute {key!r}, which is not among its states, so it cannot be"
                f" combined for another number of processes. {_same_number(saved)}"
            )


def _same_number(saved: Sequence[State]) -> str:
    many = f"{len(saved)} process{'es' if len(saved) > 1 else ''}"
    return f"Use {many} for this epoch, or resume from its end."


_OF_CACHES = {"_update_count", "_computed", "_forward_cache", "_is_synced"}


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and torch.equal(value.cpu(), other.cpu())
    if isinstance(value, list):
        return isinstance(other, list) and len(value) == len(other) and all(map(_equal, value, other))
    return bool(value == other)


def _sum(values: Sequence[Tensor], default: Any, rank: int) -> Tensor:
    return _folded(values, torch.add) if rank == 0 else torch.as_tensor(default).cpu().clone()


def _cat(values: Sequence[Tensor], default: Any, rank: int) -> Any:
    return torch.cat([value.reshape(-1) if not value.ndim else value for value in values]) if rank == 0 else default


_REDUCED: Mapping[Any, Callable[[Sequence[Tensor], Any, int], Any]] = {
    dim_zero_sum: _sum,
    dim_zero_cat: _cat,
    dim_zero_max: lambda values, default, rank: _folded(values, torch.maximum),
    dim_zero_min: lambda values, default, rank: _folded(values, torch.minimum),
}
"""How states are combined, by the function with which torchmetrics combines them at the end of an epoch.

A mean over ranks is not among them: what it weighs against the values to come depends on the number of ranks.
"""
