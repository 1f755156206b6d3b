"""Say in a sentence, with the keys of the command line, why Lightning could not load a file into the model of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import LightningModule

from cairn.errors import CheckpointError, ModelError
from cairn.writing.load import load
from cairn.writing.mismatch import Mismatch, mismatch

_RENAME = "change the names in its on_load_checkpoint"
RESUME = f"Build the model as it was, or {_RENAME}"
NEW_RUN = (
    f"Choose the model that it was trained with, {_RENAME}, or start from the weights alone: init_weights=FILE, with "
    f"init_weights_prefix= or init_weights_strict=false"
)
TEST = (
    f"Choose the model that it was trained with, compiled as it was, {_RENAME}, or test the weights alone: "
    f"train=false init_weights=FILE"
)


@contextmanager
def explained(file: str | None, model: LightningModule, cure: str) -> Iterator[None]:
    """Replace torch's list of all names by a sentence if Lightning could not load the file into the model.

    Args:
        file: The file, for the message; None: no file is loaded, and errors stay as they are.
        model: The model.
        cure: What to do, as one of the sentences above.

    Raises:
        ModelError: The file does not fit.
    """
    try:
        yield
    except RuntimeError as error:
        found = mismatch(error)
        if (
            file is None or found is None or found.model != type(model).__name__
        ):  # a file that the model loads by itself, for a part
            raise
        found = _with_shapes(found, file, model)
        raise ModelError(f"{file} holds the weights of another model: {found}. {cure}.") from error


def _with_shapes(found: Mismatch, file: str, model: LightningModule) -> Mismatch:
    """Add the shapes that differ if only the names are changed."""
    if found.renaming() is None:
        return found
    try:
        weights = load(Path(file), verify=False)["state_dict"]
    except CheckpointError:  # a URL, which the message does without
        return found
    return found.with_shapes(weights, model.state_dict())
