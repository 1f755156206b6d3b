"""Build the model that a checkpoint file describes, without trusting the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from cairn.errors import CheckpointError, MissingFileError, ModelError
from cairn.targets import build
from cairn.writing.load import check_fits, load


def load_model(path: str | Path, map_location: Any = "cpu") -> LightningModule:
    """Build the model of a checkpoint from the configuration stored in it, load its weights, and set it to eval mode.

    Args:
        path: A checkpoint that Cairn saved.
        map_location: Where the weights go, as in `torch.load`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a Cairn checkpoint, or its weights do not fit its model.
        TypeError: Its configuration names a class that may not be built (see `build`).
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint {path}.")
    with _model_error():
        # Without verification the optimizer state, often twice the size of the weights, is not read.
        checkpoint = load(path, verify=False, map_location=map_location)
    try:
        spec, weights = checkpoint["cairn"]["config"]["model"], checkpoint["state_dict"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a Cairn checkpoint: it has no model configuration.") from error
    model: LightningModule = build(spec, LightningModule)
    with _model_error():
        check_fits(path, weights, model.state_dict())
    model.load_state_dict(weights)
    return model.to(next(iter(weights.values())).device).eval() if weights else model.eval()


@contextmanager
def _model_error() -> Iterator[None]:
    """Raise a ModelError, which is a ValueError, instead of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise ModelError(str(error)) from error
