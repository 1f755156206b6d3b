"""Decides how a checkpoint file alone becomes the model that it holds, without trusting the file."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from cairn.errors import MissingFileError, ModelError
from cairn.targets import build

_NUM_SHOWN = 3  # differing names in a message


def load_model(path: str | Path, map_location: Any = "cpu") -> LightningModule:
    """The model of a checkpoint, built from the config inside it, with its weights, in eval mode.

    Args:
        path: of a checkpoint that this project wrote.
        map_location: where the weights go, as in `torch.load`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of this project, or its weights do not fit its model.
        TypeError: if its config names a class that is nothing to build (see `build`).
    """
    checkpoint = _read(Path(path), map_location)
    try:
        spec, weights = checkpoint["cairn"]["config"]["model"], checkpoint["state_dict"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is no Cairn checkpoint: it has no model config and weights inside.") from error
    model: LightningModule = build(spec, LightningModule)
    differing = _differences(model.state_dict(), weights)
    if differing:
        shown = ", ".join(differing[:_NUM_SHOWN])
        more = f" and {len(differing) - _NUM_SHOWN} more" if len(differing) > _NUM_SHOWN else ""
        raise ModelError(f"The weights in {path} do not fit the model in its config: {shown}{more}.")
    model.load_state_dict(weights)
    return model.to(next(iter(weights.values())).device).eval() if weights else model.eval()


def _read(path: Path, map_location: Any) -> Any:
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint {path}.")
    try:
        # Mapped, so that the optimizer's state, often twice the weights, is never read.
        return torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{path} is no checkpoint that can be read safely: {reason}") from error


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = [f"{name} is missing" for name in expected if name not in found]
    names += [f"{name} is unknown" for name in found if name not in expected]
    return names + [
        f"{name} has shape {tuple(found[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
