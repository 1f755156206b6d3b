"""Read a checkpoint safely. The only place that calls `torch.load`; files of our own format are read faster."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cairn import opening
from cairn.errors import CheckpointError
from cairn.store import earlier, links, shards
from cairn.store.catalog import verify_file
from cairn.writing import decode, devices, forms
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.parted import Parted
from cairn.writing.sharded.shard import HEADER

_WEIGHTS_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "weights", "params")
"""Keys under which trainers save weights."""
RUNS_CODE = "which could run code"
"""Part of the message about a file that holds more than tensors and plain values."""
_OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""Beginning of the files that torch.save wrote before version 1.6."""


def load(path: Path, *, verify: bool = True, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, mapped into memory: parts that are not used are never read from the disk.

    Args:
        path: The file, or the directory of shards, or a link to one of them.
        verify: Compare it with its checksums first; False if that has been done.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The content of the file, which has at least the key `state_dict`.

    Raises:
        CheckpointError: The file is missing or corrupt, is not a checkpoint, or holds more than tensors and plain
            values.
    """
    path = _existing(path)
    if path.is_dir():
        return _of_shards(path, verify, map_location)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a checkpoint: torch.save did not write it.")
    if verify:
        _verify(path)
    try:
        contents = decode.read(path) if map_location == "cpu" else None
        if contents is None:  # of another program, or with values that only torch reads
            contents = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a file that is not what it seems
        raise CheckpointError(f"{path} {_refusal(str(error))}") from error
    if isinstance(contents, dict) and HEADER in contents:
        raise CheckpointError(f"{path} is one shard of a checkpoint: name its directory {path.parent}.")
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise CheckpointError(f"{path} is not a Lightning checkpoint: it has no 'state_dict'.")
    return contents


def load_parted(path: Path) -> Parted:
    """Read a checkpoint of shards that is verified already, without joining the states of optimizers.

    Args:
        path: The directory, or a link to it.

    Raises:
        CheckpointError: As `load`.
    """
    path = _existing(path)
    with _named(path):
        parted = Parted(Shards(shards.files(path)))
    _check_weights(path, parted.contents)
    return parted


def _of_shards(path: Path, verify: bool, map_location: Any) -> dict[str, Any]:
    if verify:
        _verify(path)
    with _named(path):
        contents = Shards(shards.files(path)).contents(devices.moving_to(map_location))
    _check_weights(path, contents)
    return contents


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.") from error


def _check_weights(path: Path, contents: Mapping[str, Any]) -> None:
    if "state_dict" not in contents:
        raise CheckpointError(f"{path} is not a Lightning checkpoint: it has no 'state_dict'.")


@dataclass(frozen=True)
class Weights:
    """The weights in a file, and what else it holds.

    Attributes:
        path: The file.
        values: Tensors by name, and values that `get_extra_state` has returned.
        contents: The whole file, if it is a checkpoint of Lightning; empty if it is a file of weights.
    """

    path: Path
    values: Mapping[str, Any]
    contents: Mapping[str, Any]


def load_weights(path: Path) -> Weights:
    """Read the weights alone: of a checkpoint, of a bare `state_dict`, or of a file that holds one under a usual key.

    Everything else in the file may be anything, because it is not needed: objects such as hyperparameters are replaced
    by empty placeholders, so that no class or function that the file names is looked up or called.

    Args:
        path: The file, or a link to it.

    Raises:
        CheckpointError: The file is missing or corrupt, or holds no weights that can be read safely.
    """
    path = _existing(path)
    if path.is_dir():
        contents: Any = _of_shards(path, verify=True, map_location="cpu")
    else:
        if zipfile.is_zipfile(path):
            _verify(path)
        contents = _without_objects(path)
    if isinstance(contents, Mapping):
        if isinstance(contents, dict):
            forms.restore(contents)
        for key, values in [*((key, contents.get(key)) for key in _WEIGHTS_KEYS), ("", contents)]:
            if not isinstance(values, Mapping) or not _are_weights(values):
                continue
            for name, value in values.items():
                if _holds_placeholder(value):
                    raise CheckpointError(
                        f"{path} is refused: {name} in it holds an object that could run code. Let get_extra_state "
                        f"return plain values, and save the file again."
                    )
            return Weights(path, values, contents if key == "state_dict" else {})
    raise CheckpointError(
        f"{path} holds no weights: expected a state_dict, or a dict with one under {', '.join(_WEIGHTS_KEYS)}; found "
        f"{_summary(contents)}. Save the weights with torch.save(model.state_dict(), FILE)."
    )


def _summary(contents: Any) -> str:
    """Say what a file holds in place of weights."""
    if not isinstance(contents, Mapping):
        return str(type(contents))
    if not contents:
        return "an empty dict"
    if empty := [key for key in _WEIGHTS_KEYS if isinstance(contents.get(key), Mapping) and not contents[key]]:
        return f"an empty {empty[0]}"
    return f"keys {', '.join(map(str, list(contents)[:8]))}"


class _Placeholder:
    """Takes the place of an object that is not needed."""

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _PlaceholderDict(_Placeholder):
    """Takes the place of a dict that is not needed."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return OrderedDict()


class _PlaceholderList(_Placeholder):
    """Takes the place of a list that is not needed."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return []


def _without_objects(path: Path) -> Any:
    """Return the contents of a file with placeholders for all objects but tensors and plain values."""
    placeholders: dict[str, type] = {}
    mapped = {"mmap": True} if zipfile.is_zipfile(path) else {}
    if not mapped:
        with opening.for_reading(path) as file:
            if file.read(len(_OLD_FORMAT)) != _OLD_FORMAT:
                raise CheckpointError(f"{path} is not a checkpoint: torch.save did not write it.")
    while True:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in placeholders.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, **mapped)
        except Exception as error:  # torch raises many types for a file that is not what it seems
            why = str(error)
            named = re.search(r"GLOBAL (\S+) was not an allowed global", why)
            filled = re.search(r"Can only (SETITEM|append|extend).*got <class '.*?#(\S+)'>", why)
            if named and named[1] not in placeholders:
                name = named[1] if "." in named[1] else f"builtins.{named[1]}"
                placeholders[name] = type(f"#{name}", (_Placeholder,), {})
            elif filled:
                kind = _PlaceholderDict if filled[1] == "SETITEM" else _PlaceholderList
                placeholders[filled[2]] = type(f"#{filled[2]}", (kind,), {})
            else:
                raise CheckpointError(f"{path} {_refusal(why)}") from error


def _are_weights(value: Mapping[Any, Any]) -> bool:
    """Whether these are tensors by name; `get_extra_state` may have added other values."""
    if not all(isinstance(name, str) for name in value):
        return False
    others = [name for name, item in value.items() if not isinstance(item, Tensor)]
    return len(others) < len(value) and all(name.endswith("_extra_state") for name in others)


def _holds_placeholder(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_placeholder(item) for item in value.values())
    return isinstance(value, _Placeholder) or (
        isinstance(value, list | tuple) and any(_holds_placeholder(item) for item in value)
    )


def why_missing(path: Path) -> str:
    """Return a sentence if a checkpoint, or what a link stands for, does not exist; empty: it does.

    Args:
        path: The file, the directory of shards, or a link to one.
    """
    if path.is_symlink() and not path.exists():
        named = path.readlink()
        return f"{path} is a link to {named}, which does not exist{_aside(path.parent / named)}."
    if not path.exists():
        return f"There is no checkpoint {path}{_aside(path)}."
    if not (found := links.target(path)).exists():
        return f"{path} points to {found.name}, which does not exist{_aside(found)}."
    return ""


def _aside(path: Path) -> str:
    return f": {earlier.INTERRUPTED}" if earlier.is_aside(path) else ""


def _existing(path: Path) -> Path:
    if path.is_dir() and not shards.is_sharded(links.target(path)):
        raise CheckpointError(
            f"{path} is a directory: name a checkpoint file in it. To continue a run, resume it instead."
        )
    if why := why_missing(path):
        raise CheckpointError(why)
    found = links.target(path)
    if found.is_dir():
        return found.resolve()
    try:
        opening.check(found)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return found.resolve()


def _verify(path: Path) -> None:
    try:
        verify_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.") from error


def _refusal(why: str) -> str:
    # torch ends its message with the advice to load the file with weights_only=False, which would run its code.
    if named := re.search(r"GLOBAL (\S+)", why):
        return f"is refused: it names {named[1]}, {RUNS_CODE}; only tensors and plain values are loaded."
    _, _, reason = why.partition("WeightsUnpickler error:")
    return f"cannot be loaded: {(reason or why).strip().splitlines()[0]}"
