"""Commands that are carried out by the project's train.py, which knows the configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cairn import opening
from cairn.errors import ConfigError

SCRIPT = "train.py"


def become(first: Sequence[str], argv: Sequence[str], otherwise: str) -> NoReturn:
    """Replace this process by train.py, so that a signal and the exit code need not be passed on.

    Args:
        first: Arguments that choose what it does.
        argv: Arguments as they were typed: it knows which of its flags have a value.
        otherwise: What to do in a project whose train.py does not use `cairn.hydra`, for the message.

    Raises:
        ConfigError: This directory has no train.py that Cairn runs.
    """
    script = Path(SCRIPT)
    if not script.is_file():
        raise ConfigError(
            f"{SCRIPT} does not exist here: call this command in the directory of the project, or "
            f"python SCRIPT {' '.join(first)}. Without cairn.hydra: {otherwise}."
        )
    try:
        is_ours = b"cairn" in opening.read_bytes(script)
    except OSError as error:
        raise ConfigError(f"{SCRIPT} cannot be read: {error.strerror or error}.") from error
    if not is_ours:
        raise ConfigError(f"{SCRIPT} does not use cairn.hydra, which this command needs. Instead: {otherwise}.")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, SCRIPT, *first, *argv])
