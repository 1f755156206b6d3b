"""`predict=true`: which predictions of a run these are, and where they go."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf

from cairn.errors import CheckpointError, ConfigError
from cairn.hydra.compose import merge
from cairn.hydra.parse.settings import Settings
from cairn.hydra.run import origin
from cairn.lightning.predict import write_predictions
from cairn.predictions.reading import FOLDER
from cairn.run import summary
from cairn.store import catalog, disk
from cairn.writing import exported

log = logging.getLogger(__name__)

NOT_CALLED = (
    "predict=true has no effect, because train.py does not call run.predict(trainer, model, data): add this line after "
    "run.test."
)


def prepare(settings: Settings) -> bool:
    """Return whether a run predicts, once it is known that it can write what it predicts.

    Raises:
        ConfigError: A package is missing.
    """
    if settings.predict:
        exported.require("predict=true", "safetensors")
    return settings.predict


def predict(
    settings: Settings, run: Path, trainer: Trainer, model: LightningModule, data: Any, checkpoint: str | None
) -> Path:
    """Write the predictions of a checkpoint, and return their directory.

    Args:
        settings: Settings of the run.
        run: The run directory.
        trainer: The trainer.
        model: The model.
        data: A data module, or loaders.
        checkpoint: The checkpoint, on all processes.

    Raises:
        CairnError: There is no checkpoint, or its predictions cannot be written.
    """
    source = checkpoint or settings.init_weights
    if source is None:
        raise ConfigError("predict=true needs a checkpoint, and this run has saved none: choose another checkpoint=.")
    directory = run / FOLDER / Path(source).name.removesuffix(".ckpt")
    write_predictions(
        trainer,
        model,
        data,
        directory=directory,
        ckpt_path=checkpoint,
        seed=settings.seed,
        made_with=_made_with(settings, origin.local_file(source, run)),
    )
    log.info("Predictions: %s", summary.relative(directory))
    return directory


def _made_with(settings: Settings, checkpoint: Path) -> Mapping[str, Any]:
    """Return what predictions depend on, apart from the code."""
    config: Any = OmegaConf.to_container(settings.config, resolve=True)
    free = {key.partition(".")[2] for key in merge.FREE}
    texts = {
        "model": config["model"],
        "data": {name: item for name, item in config["data"].items() if name not in free},
    }
    # Digests: predictions may be given to other people, and a configuration may hold secrets.
    parts = {name: hashlib.sha256(json.dumps(part, default=str).encode()).hexdigest() for name, part in texts.items()}
    return {"checkpoint": _digest(checkpoint), **parts}


def _digest(checkpoint: Path) -> str:
    try:
        return catalog.describe(checkpoint).digest
    except CheckpointError:  # without a manifest
        return catalog.digest(checkpoint, "") if checkpoint.is_dir() else disk.sha256(checkpoint)
