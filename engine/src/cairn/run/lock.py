"""The lock of a run directory: one process at a time trains there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

from cairn import opening
from cairn.errors import ConfigError, ResumeError
from cairn.store.directory_lock import try_lock


def take(directory: Path, patience_s: float) -> IO[str]:
    """Lock a run directory, which is created if it is missing.

    Args:
        directory: The directory.
        patience_s: Seconds to wait for a process that holds the lock.

    Returns:
        The locked file: the lock ends when it is closed, or with this process, however that ends.

    Raises:
        ResumeError: Another process holds the lock.
        ConfigError: The directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        file = os.fdopen(opening.for_writing(directory / ".lock"), "w")
    except OSError as error:
        raise ConfigError(f"The run directory {directory} cannot be written: {error.strerror}.") from error
    until = time.monotonic() + patience_s
    while try_lock(file.fileno()) is False:
        if time.monotonic() >= until:
            file.close()
            raise ResumeError(f"Another process trains in {directory}: wait for it, or stop it.")
        time.sleep(0.2)
    return file
