"""A model without the rest of its checkpoint: a file of safetensors, and a folder that names its classes as well.

FOLDER/
    model.safetensors    the weights; tied ones once, with their other names in the metadata
    config.json          {"architectures": [...], "cairn": {...}, "model": {"_target_": ..., ...}}
    README.md            the model card
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cairn import extras, opening, records
from cairn.errors import CheckpointError, ConfigError, ModelError, first_line
from cairn.records import RecordError
from cairn.store import disk
from cairn.writing import devices

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
OURS, MODEL, BUFFERS = "cairn", "model", "buffers"
FORMAT = 1
"""Version of what lies under `OURS` in `CONFIG`."""


def require(what: str, *packages: str) -> None:
    """Check that the packages of the extra `export` are there.

    Args:
        what: What needs them, for the message.
        *packages: Their names.

    Raises:
        ConfigError: One of them is not installed.
    """
    for name in packages:
        if find_spec(name) is None:
            raise ConfigError(f"{what} needs {name}, which is not installed: {extras.how_to_install('export')}")


def is_folder(path: Path) -> bool:
    """Whether a path is such a folder."""
    return path.is_dir() and (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_folder(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return what a folder holds, in the form of a checkpoint: the configuration of the model, and its weights.

    Args:
        path: The folder.
        map_location: Where the weights go, as in `torch.load`.

    Raises:
        CheckpointError: It is damaged, or of a later version of Cairn.
        ConfigError: safetensors is not installed.
    """
    try:
        config = records.parse(opening.read_bytes(path / CONFIG))
        ours, model = config[OURS], config[MODEL]
        version, buffers = ours["format"], ours.get(BUFFERS, {})
    except OSError as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read: {error.strerror or error}.") from error
    except (RecordError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path / CONFIG} does not describe a model that Cairn has exported ({error})."
        ) from error
    if type(version) is not int or version > FORMAT:
        raise CheckpointError(
            f"{path} has format {version!a:.20}, and this version of Cairn reads {FORMAT}: update it."
        )
    contents = {"config": {MODEL: model}, "growth": {BUFFERS: buffers}}
    return {OURS: contents, "state_dict": read_weights(path / WEIGHTS, map_location)}


def read_weights(path: Path, map_location: Any = "cpu") -> dict[str, Tensor]:
    """Return the tensors in a file of safetensors by all their names.

    Args:
        path: The file.
        map_location: Where they go, as in `torch.load`.

    Raises:
        CheckpointError: It is damaged.
        ConfigError: safetensors is not installed.
    """
    require(str(path), "safetensors")
    moved = devices.moving_to(map_location)
    from safetensors import SafetensorError, safe_open

    try:
        opening.check(path)
        with safe_open(str(path), framework="pt", device="cpu") as file:
            found = {name: _moved(file.get_tensor(name), moved) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a file of safetensors: {error}.") from error
    return found | {name: found[kept] for name, kept in _aliases(metadata, found).items()}


def _aliases(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names that stand for another tensor, as `safetensors.torch.save_model` records them."""
    return {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}


def _moved(value: Tensor, move: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Tensor:
    storage = move(value.untyped_storage())
    empty = torch.empty(0, dtype=value.dtype, device=storage.device)
    return empty.set_(storage, value.storage_offset(), value.shape, value.stride())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of safetensors, and sync it.

    Args:
        path: The file.
        tensors: Tensors on the CPU that share no memory.
        metadata: Texts by names.

    Raises:
        ConfigError: safetensors is not installed.
        ModelError: It cannot hold them.
        OSError: The disk refuses it.
    """
    require(path.name, "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with opening.new_file(path):
        mode = path.stat().st_mode  # safetensors makes a file that only its owner can read
    try:
        save_file(dict(tensors), str(path), metadata=dict(metadata or {}))
        path.chmod(mode)
    except (SafetensorError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"safetensors cannot hold these tensors: {first_line(error)}.") from error
    disk.sync_directory(path)  # of a file, it syncs the contents
