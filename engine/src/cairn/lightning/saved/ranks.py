"""State of the user's code that differs between the processes of a run, so that each rank resumes with its own.

Lightning saves what hooks and loaders return on rank 0, and gives it to all ranks. Most of it is equal on all ranks,
and may be large. So only what differs is stored, next to the other state of its rank:

    every rank    digests of its contents; those of rank 0    --share-->    every rank
    other ranks   values with another digest                  --gather-->   rank 0: ["cairn"]["ranks"][rank]["own"]
    resume        each rank lays its own values over what it has read; parts of a whole are put together for all ranks
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cairn.data.window_deliveries import SUBSTREAMS
from cairn.lightning.saved import block, unsaved
from cairn.writing.size import is_sharded

Own = list[list[Any]]
"""Pairs of a path into a checkpoint and the value there."""
Digests = Mapping[str, Any]
"""A digest for each value, in dicts like those around it."""

OWN = "own"
_ATTRIBUTES = "attributes"
_SHARED = {
    *("state_dict", "optimizer_states", "epoch", "global_step", "pytorch-lightning_version", unsaved.KEY),
    *("hyper_parameters", "hparams_name", "hparams_type", "callbacks"),
    *("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type"),
}
"""Keys of a checkpoint that DDP keeps equal, that are settings, or that are gathered for each rank anyway."""
_EXTRA_STATE = "_extra_state"
_CHUNK = 1 << 20


def digests(contents: Mapping[str, Any]) -> Digests:
    """Return digests of what may differ between ranks in the contents of a checkpoint."""
    return {name: _digests(value) for name, value in _parts(contents).items()}


def own(contents: Mapping[str, Any], mine: Digests, of_rank_0: Digests) -> Own:
    """Return what this rank has to store, because rank 0 has something else or nothing there.

    What only rank 0 has is not a difference: a hook may save a value on one rank for all of them.

    Args:
        contents: The contents of the checkpoint on this rank.
        mine: Their digests.
        of_rank_0: Those of rank 0.
    """
    found: Own = []
    for name, value in _parts(contents).items():
        _compare(value, mine[name], of_rank_0.get(name), [name], found)
    return found


def weights(module: nn.Module) -> Digests:
    """Return a digest of each parameter that all ranks have; of a sharded one each has a part of its own."""
    return {name: _digest(item.detach()) for name, item in module.named_parameters() if not is_sharded(item)}


def repeated(module: nn.Module) -> Digests:
    """Return a digest of each part of a sharded parameter that other ranks have as well, by its name and place."""
    parts = ((name, item) for name, item in module.named_parameters() if isinstance(item, DTensor))
    return {
        f"{name} {block.of(item).offsets}": _digest(item.detach().to_local())
        for name, item in parts
        if block.is_repeated(item)
    }


def optimizers(trainer: Trainer) -> Digests:
    """Return a digest of each part of the state of the optimizers, and of each option of their groups."""
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    found: dict[str, str] = {}
    for index, optimizer in enumerate(trainer.optimizers):
        if hasattr(optimizer, "consolidate_state_dict"):  # it gives each rank a part, and collects them at a save
            continue
        kind = type(optimizer).__name__ + (f" (optimizer {index})" if len(trainer.optimizers) > 1 else "")
        for parameter, state in optimizer.state.items():
            owner = names.get(id(parameter), "a tensor") if isinstance(parameter, Tensor) else str(parameter)
            values = state.items() if isinstance(state, dict) else [("state", state)]
            compared = [(key, value) for key, value in values if not (isinstance(value, Tensor) and is_sharded(value))]
            found |= {f"{key!r} of {owner} in {kind}": _flat_digest(value) for key, value in compared}
        for number, group in enumerate(optimizer.param_groups):
            own = {**group, "params": [names.get(id(parameter), "a tensor") for parameter in group["params"]]}
            found |= {f"{key!r} of group {number} in {kind}": _flat_digest(value) for key, value in own.items()}
    return found


def plain_values(value: Any, path: str) -> dict[str, str]:
    """Return a digest of each value in a part of a checkpoint that is not a tensor, by the path to it.

    Args:
        value: The part, such as the states of optimizers with their options.
        path: The path to it.
    """
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        parts = enumerate(value)
    else:
        return {path: _flat_digest(value)}
    found: dict[str, str] = {}
    for key, item in parts:
        if not isinstance(item, Tensor):
            found |= plain_values(item, f"{path}/{key}")
    return found


def differing(mine: Digests, of_rank_0: Digests) -> list[str]:
    """Return the names of what this rank has in another form than rank 0, or only one of them has."""
    return [name for name in {**mine, **of_rank_0} if mine.get(name) != of_rank_0.get(name)]


def of_batch(batch: Any) -> str:
    """Return a digest of a batch; equal batches have the same."""
    return _flat_digest(batch)


def lay_over(contents: dict[str, Any], rank: int, world_size: int) -> None:
    """Replace what a rank had of its own in a checkpoint that was read, in place.

    Args:
        contents: Contents of the checkpoint, as all ranks read them.
        rank: This rank.
        world_size: Number of processes; with another number than at the save, all ranks get what rank 0 had, and what
            each rank had a part of.
    """
    saved = contents.get(unsaved.KEY, {}).get("ranks", [])
    for path, value in saved[rank].get(OWN, []) if len(saved) == world_size else []:
        if not is_part(path):
            _place(contents, path)[path[-1]] = value
    _merge(contents, saved)


def _merge(contents: dict[str, Any], saved: Sequence[Mapping[str, Any]]) -> None:
    """Put together what each rank has a part of: the positions of the substreams of an iterable."""
    for path, value in (entry for state in saved for entry in state.get(OWN, [])):
        if is_part(path):
            place = _place(contents, path)
            place[path[-1]] = {**place[path[-1]], **value}


def is_part(path: Sequence[Any]) -> bool:
    """Whether the value at this path is a part of a whole, of which each rank has another one."""
    return path[0] == "loops" and path[-1] == SUBSTREAMS


def _place(contents: dict[str, Any], path: Sequence[Any]) -> Any:
    place: Any = contents
    for name in path[:-1]:
        place = place[name]
    return place


def _parts(contents: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: value for name, value in contents.items() if name not in _SHARED}
    weights = contents["state_dict"]
    parts["state_dict"] = {name: value for name, value in weights.items() if name.endswith(_EXTRA_STATE)}
    ours = contents.get(unsaved.KEY, {})
    return parts | {unsaved.KEY: {name: value for name, value in ours.items() if name == _ATTRIBUTES}}


def _parts_of(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a dict, or of a list of dicts such as the states of loaders; None: it has none."""
    if type(value) is list and value and all(type(item) is dict for item in value):
        return dict(enumerate(value))
    return value if type(value) is dict and all(type(name) in (str, int) for name in value) else None


def _digests(value: Any) -> Any:
    parts = _parts_of(value)
    return _digest(value) if parts is None else {name: _digests(item) for name, item in parts.items()}


def _compare(value: Any, mine: Any, of_rank_0: Any, path: list[Any], found: Own) -> None:
    at_top, parts = path in ([unsaved.KEY], ["state_dict"]), _parts_of(value)
    if parts is not None and isinstance(of_rank_0, Mapping) and (at_top or list(parts) == list(of_rank_0)):
        for name, item in parts.items():
            _compare(item, mine[name], of_rank_0.get(name), [*path, name], found)
    elif mine != of_rank_0:
        found.append([path, value])


class _Hash:
    """A file that digests what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: bytes) -> None:
        self.digest.update(data)


class _Digester(pickle.Pickler):
    """Writes a value without the data of its tensors, which `_checksum` reads where they are."""

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_meta:
            return None
        return str(value.dtype), tuple(value.shape), _checksum(value)


def _digest(value: Any) -> str:
    """Return a digest; values that are equal may have two, which costs only space."""
    file = _Hash()
    try:
        _Digester(file, protocol=4).dump(value)
    except Exception:  # it cannot be saved either: encoding it reports where it comes from
        return ""
    return file.digest.hexdigest()


def _flat_digest(value: Any) -> str:
    """Return a digest that equal values have in common, whatever objects they are made of."""
    if isinstance(value, Tensor):
        return _digest(value.detach())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flat_digest, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_flat_digest(item)}' for key, item in value.items())}}}"
    return repr(value) if isinstance(value, bool | int | float | str | complex | None) else type(value).__name__


def _checksum(tensor: Tensor) -> tuple[int, list[int]]:
    """Return a checksum of the bytes of a tensor, computed on its device: a weighted sum modulo 2**64."""
    data = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    data = data.clone() if data.storage_offset() % 8 else data
    num_whole = data.numel() // 8 * 8
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for chunk in data[:num_whole].view(torch.int64).split(_CHUNK):
        total = total * _weights(str(data.device))[0] + (chunk * _weights(str(data.device))[: len(chunk)]).sum()
    return int(total), data[num_whole:].tolist()


@functools.cache
def _weights(device: str) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(-(1 << 62), 1 << 62, (_CHUNK,), generator=random).mul_(2).add_(1).to(device)
