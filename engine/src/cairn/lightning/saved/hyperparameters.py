"""What `save_hyperparameters` collects, as plain values, so that a checkpoint loads with `weights_only=True`."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence, Set
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.errors import UnsafeStateError
from cairn.writing.encode import encode


def plain_hyperparameters(contents: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of a checkpoint with plain hyperparameters.

    A value that has no plain form (a network, a partial, a function) is left out. One warning per process names
    all of them.

    Args:
        contents: What Lightning saves; it is not changed.

    Returns:
        The same contents, with other hyperparameters.
    """
    plain, left_out = dict(contents), []
    for owner in (LightningModule, LightningDataModule):
        if owner.CHECKPOINT_HYPER_PARAMS_KEY not in contents:
            continue
        values, missing = _split(contents[owner.CHECKPOINT_HYPER_PARAMS_KEY])
        plain[owner.CHECKPOINT_HYPER_PARAMS_KEY] = values
        # This key holds a class such as DictConfig, which cannot be loaded with weights_only=True.
        plain.pop(owner.CHECKPOINT_HYPER_PARAMS_TYPE, None)
        left_out += missing
    if left_out:
        _warn(tuple(dict.fromkeys(left_out)))
    return plain


def _split(hyperparameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    plain, left_out = {}, []
    for name in hyperparameters:
        try:
            value = _plain(hyperparameters[name])
            encode(value)  # raises for a value that a checkpoint file cannot hold
        except UnsafeStateError:
            left_out.append(str(name))
        except Exception:  # a container of another library may raise anything, such as OmegaConf for a missing value
            left_out.append(str(name))
        else:
            plain[name] = value
    return plain, left_out


@cache  # warn once, not with every save
def _warn(names: tuple[str, ...]) -> None:
    rank_zero_warn(
        f"The checkpoints leave out the hyperparameters {', '.join(names)}: they have no plain form. A resume does not "
        "need them; pass them as arguments to load_from_checkpoint. "
        f"self.save_hyperparameters(ignore={list(names)}) avoids this warning."
    )


def _plain(value: Any) -> Any:
    """Return the plain form of a value; a value without a plain form, or a part without one, is returned unchanged."""
    for kinds, convert in _PLAIN_FORMS:
        if isinstance(value, kinds):
            return convert(value)
    return value


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
    try:
        return torch.tensor(array)
    except TypeError:  # strings, objects
        return _plain(array.tolist())


# The first match counts: an IntEnum is an int, and a torch.Size is a tuple.
_PLAIN_FORMS: list[tuple[Any, Any]] = [
    (enum.Enum, lambda value: _plain(value.value)),
    (os.PathLike, os.fspath),
    (np.generic, lambda value: value.item()),
    (np.ndarray, _plain_array),
    ((torch.dtype, torch.device), str),
    (bool, bool),
    (str, lambda value: str.__str__(value)),
    (int, lambda value: int.__int__(value)),
    (float, lambda value: float.__float__(value)),
    ((bytes, bytearray, memoryview), lambda value: value),  # sequences, but not of plain values
    (Mapping, lambda value: {_plain(key): _plain(item) for key, item in value.items()}),
    (tuple, lambda value: tuple(_plain(item) for item in value)),
    # Sorted: the order of strings in a set differs between processes, and two equal runs write equal files.
    (Set, lambda value: sorted((_plain(item) for item in value), key=repr)),
    (Sequence, lambda value: [_plain(item) for item in value]),
]
