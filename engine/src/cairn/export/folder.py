"""A folder in the style of the Hugging Face Hub: weights, configuration and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

import cairn
from cairn import opening, records
from cairn.errors import ModelError
from cairn.export import card, weights
from cairn.export.facts import Facts
from cairn.export.redacted import redact
from cairn.lightning.saved import resized
from cairn.writing import exported

FILES = (exported.WEIGHTS, exported.CARD, exported.CONFIG)
"""The files; without the last one, the others are not taken for a model."""


def write(folder: Path, name: str, model: LightningModule, contents: Mapping[str, Any], facts: Facts) -> None:
    """Write the files.

    Args:
        folder: Where they go.
        name: Name of the folder in the end.
        model: The model.
        contents: What its checkpoint holds.
        facts: Where it comes from.

    Raises:
        ModelError: The model or its configuration cannot be written.
    """
    spec, removed = redact(contents[exported.OURS]["config"][exported.MODEL])
    ours = {"format": exported.FORMAT, "version": cairn.__version__}
    if buffers := resized.recorded(contents):
        ours[exported.BUFFERS] = {key: list(value) for key, value in buffers.items()}
    config = {"architectures": [type(model).__name__], exported.OURS: ours, exported.MODEL: spec}
    weights.write(folder / exported.WEIGHTS, model.state_dict(), facts.texts())
    for file, text in {exported.CONFIG: _json(config), exported.CARD: card.text(model, facts, name, removed)}.items():
        with opening.new_file(folder / file) as opened:
            opened.write(text.encode())


def _json(config: Any) -> str:
    """Return a configuration as JSON.

    Raises:
        ModelError: It would not be the same after reading it.
    """
    try:
        text = json.dumps(config, indent=2)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{exported.CONFIG} cannot hold the configuration of the model: {error}.") from error
    if records.parse(text) != config:
        raise ModelError(
            f"{exported.CONFIG} cannot hold the configuration of the model: JSON has no tuples, and no keys but texts."
        )
    return text + "\n"
