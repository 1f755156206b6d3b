"""Settings of W&B's client, which it reads from the environment when it starts."""

from __future__ import annotations

import os
from pathlib import Path

from cairn.errors import ConfigError


def prepare(run: Path, offline: bool, finish_s: float = 60.0) -> None:
    """Keep W&B's files in the run directory, lose at most a second of its log, and use no network if offline.

    Variables that the user has set win, except for the folders.

    Args:
        run: The run directory.
        offline: Use no network at all.
        finish_s: Maximum time that the end waits for metrics and console output, in seconds; checkpoints are waited
            for before.

    Raises:
        ConfigError: The folder for W&B's files cannot be made, or is a link, behind which they would be written.
    """
    own = run / "wandb"
    if own.is_symlink():
        raise ConfigError(f"{own} is a link, and W&B's client would write behind it: move it away.")
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder {own} cannot be made: {error.strerror or error}.") from error
    for name, value in {"DATA_DIR": own, "CACHE_DIR": own / "cache", "CONFIG_DIR": own / "config"}.items():
        os.environ[f"WANDB_{name}"] = str(value)
    defaults = {
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_FINISH_TIMEOUT": f"{finish_s:g}",
        "WANDB_FINISH_TIMEOUT_RAISES": "true",  # otherwise, what was not sent by then is lost without a message
    }
    if offline:  # with the argument of wandb.init alone, the client would still try the network once
        defaults["WANDB_MODE"] = "offline"
    for name, text in defaults.items():
        os.environ.setdefault(name, text)
