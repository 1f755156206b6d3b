"""Read a checkpoint file safely, and compare its weights with a model. The only place that calls `torch.load`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cairn.errors import CheckpointError
from cairn.store.catalog import verify_file

_NUM_SHOWN = 4
"""Differences between a file and a model that a message lists."""


def load(path: Path, *, verify: bool = True, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, mapped into memory: parts that are not used are never read from the disk.

    Args:
        path: The file, or a link to it.
        verify: Compare the file with its checksums first; False if that has been done.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The content of the file, which has at least the key `state_dict`.

    Raises:
        CheckpointError: The file is missing or corrupt, is not a checkpoint, or holds more than tensors and plain
            values.
    """
    path = _existing(path)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a checkpoint: torch.save did not write it.")
    if verify:
        _verify(path)
    try:
        contents = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a file that is not what it seems
        raise CheckpointError(f"{path} {_refusal(str(error))}") from error
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise CheckpointError(f"{path} is not a Lightning checkpoint: it has no 'state_dict'.")
    return contents


def check_fits(path: Path, weights: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Compare the weights of a checkpoint with those of a model by name and shape.

    Args:
        path: The file, for the message.
        weights: The `state_dict` in the file.
        model: The `state_dict` of the model.

    Raises:
        CheckpointError: They differ; the message lists the first differences.
    """
    differences = [
        f"{name} is only in the {'file' if name in weights else 'model'}" for name in weights.keys() ^ model.keys()
    ]
    differences += [
        f"{name} is {_shape(weights[name])} in the file and {_shape(model[name])} in the model"
        for name in weights.keys() & model.keys()
        if _shape(weights[name]) != _shape(model[name])
    ]
    if differences:
        more = f", and {len(differences) - _NUM_SHOWN} more" if len(differences) > _NUM_SHOWN else ""
        listing = "; ".join(sorted(differences)[:_NUM_SHOWN])
        raise CheckpointError(f"{path} holds the weights of another model: {listing}{more}.")


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a directory: name a checkpoint file in it. To continue a run, resume it instead."
        )
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which does not exist.")
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}.")
    return path.resolve()


def _verify(path: Path) -> None:
    try:
        verify_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.") from error


def _refusal(why: str) -> str:
    # torch ends its message with the advice to load the file with weights_only=False, which would run its code.
    if named := re.search(r"GLOBAL (\S+)", why):
        return f"is refused: it names {named[1]}, which could run code; only tensors and plain values are loaded."
    return f"cannot be loaded: {why.splitlines()[0]}"


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))
