"""Build the model that a checkpoint describes, without trusting the file."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from cairn.errors import CheckpointError, MissingFileError, ModelError, first_line
from cairn.lightning.saved import resized
from cairn.remote import origin
from cairn.remote.address import is_address
from cairn.targets import build
from cairn.writing import exported, forms
from cairn.writing.load import load, why_missing
from cairn.writing.mismatch import COMPILED, mismatch

log = logging.getLogger(__name__)


def load_model(path: str | Path, map_location: Any = "cpu") -> LightningModule:
    """Build the model of a checkpoint from the configuration stored in it, load its weights, and set it to eval mode.

    Args:
        path: A checkpoint that Cairn saved: a file, or a directory of shards; or a folder that `cairn export` wrote. Or
            the address of a run in an object store, for its newest checkpoint, or of one of its checkpoints:
            `s3://bucket/RUN/checkpoints/best.ckpt`. It is downloaded into a temporary directory, and compared with
            its checksums.
        map_location: Where the weights go, as in `torch.load`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a Cairn checkpoint, or its weights do not fit its model.
        TypeError: Its configuration names a class that may not be built (see `build`).
        RuntimeError: The object store cannot be used.
    """
    if is_address(path):
        with tempfile.TemporaryDirectory(prefix="cairn-") as folder, _model_error():
            # The weights are mapped into memory: their file keeps its contents after it is deleted.
            return load_model(origin.fetch_one(str(path), Path(folder)), map_location)
    path = Path(path)
    if why := why_missing(path):
        raise MissingFileError(why)
    with _model_error():
        if is_exported := exported.is_folder(path):
            checkpoint = exported.read_folder(path, map_location)
        else:
            # Without verification the optimizer state, often twice the size of the weights, is not read.
            checkpoint = load(path, verify=False, map_location=map_location)
    try:
        spec, weights = checkpoint["cairn"]["config"]["model"], checkpoint["state_dict"]
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a Cairn checkpoint with a model configuration, which a run of `python train.py` stores. "
            f"Load another one with the class of its model: Model.load_from_checkpoint(FILE)."
        ) from error
    model: LightningModule = build(spec, LightningModule)
    if is_overridden("configure_model", model):
        _configure(model)
    if not is_exported:  # its weights have the names of this model, and nothing else is in it
        forms.restore(checkpoint)
        model.on_load_checkpoint(checkpoint)
    _load_into(model, checkpoint["state_dict"], resized.recorded(checkpoint), path)
    devices = [value.device for value in weights.values() if isinstance(value, Tensor)]
    return model.to(devices[0]).eval() if devices else model.eval()


def _configure(model: LightningModule) -> None:
    """Call `configure_model`, which may build layers. What it divides among processes stays whole: there is one."""
    try:
        model.configure_model()
    except (TypeError, AttributeError):
        names = getattr(getattr(type(model).configure_model, "__code__", None), "co_names", ())
        if model.device_mesh is not None or "device_mesh" not in names:
            raise
        log.debug("%s.configure_model() needs a device_mesh: the model stays whole.", type(model).__name__)


def _load_into(model: LightningModule, weights: Mapping[str, Any], changed: resized.Record, path: Path) -> None:
    """Load the weights as Lightning does. If they do not fit, try what else a training does with a model.

    torch.compile renames weights, and `setup` may build layers or compile some. It is called without a trainer, so that
    it can only do what needs no data.
    """
    first = _loaded(model, weights, changed)
    if first is None or _loaded(model, _plain_names(weights), _plain_names(changed)) is None:
        return
    missing = ""
    if is_overridden("setup", model):
        try:
            model.setup("fit")
        except Exception as error:  # the user's code, which may expect a trainer
            missing = (
                f" {type(model).__name__}.setup() cannot build the rest without a trainer and its data"
                f" ({first_line(error)}): use trainer.test(model, data, ckpt_path=FILE), or build these layers in"
                f" __init__."
            )
        else:
            first = _loaded(model, weights, changed)
    if first is not None:
        raise ModelError(f"{path} holds the weights of another model: {mismatch(first)}.{missing}") from first


def _plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(COMPILED, ""): value for name, value in values.items()}


def _loaded(model: LightningModule, weights: Mapping[str, Any], changed: resized.Record) -> RuntimeError | None:
    """Load weights; return torch's error if they do not fit."""
    resized.adopt(model, weights, changed)
    try:
        model.load_state_dict(weights, strict=model.strict_loading)
    except RuntimeError as error:
        if mismatch(error) is None:
            raise
        return error
    return None


@contextmanager
def _model_error() -> Iterator[None]:
    """Raise a ModelError, which is a ValueError, instead of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise ModelError(str(error)) from error
